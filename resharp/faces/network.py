"""Face networks: crop to crop, and how a bundle becomes one."""

from __future__ import annotations

import os
from typing import Protocol, runtime_checkable

import numpy as np

from resharp.engines import Bundle, Manifest
from resharp.errors import OptionError, OutOfMemoryError
from resharp.faces.alignment import SIDE
from resharp.runtime.bundle_lookup import FACE_TASKS, resolve
from resharp.runtime.fallback import open_first
from resharp.types import BackendName, Image, Precision
from resharp.weights import catalogue, lookup

FIDELITY = "fidelity"
"""Name of that input in manifests."""


@runtime_checkable
class FaceNetwork(Protocol):
    """Restores crops."""

    def __call__(self, faces: Image, fidelity: float) -> Image:
        """uint8 BGR ``[n, 512, 512, 3]`` to the same.

        ``fidelity``, 0..1: how near to stay to what is there; networks without it ignore it.
        """


class BundleNetwork:
    """A bundle as a face network. A context manager.

    Args:
        model: a name, the folder of a bundle, or a bundle.
        backend: as for :class:`resharp.Upscaler`.
        device: so too.
        store: folder of the store.
        threads: CPU threads of one run.
        precision: as for an ``Upscaler``.

    Raises:
        OptionError: the model is no face network.
        NotExportedError, BundleError, BackendError, UnknownModelError: as for an ``Upscaler``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle,
        *,
        backend: BackendName = "auto",
        device: str = "auto",
        store: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        entry = lookup(model) if isinstance(model, str) else None
        if entry is not None:  # it may not be exported
            _check_task(entry.name, entry.task)
        bundle = resolve(model, store=store)
        manifest = bundle.manifest
        _check_task(manifest.name, manifest.task)
        if manifest.fixed_size != SIDE:
            raise OptionError(
                f"{manifest.name} takes faces of {manifest.fixed_size} pixels, and only those of "
                f"{SIDE} can be cut and pasted here"
            )
        bundle.verify()
        self._backend, self.attempts = open_first(
            bundle, backend, device, threads, precision=precision
        )

    @property
    def manifest(self) -> Manifest:
        """What is known of the network."""
        return self._backend.manifest

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Device in use."""
        return self._backend.options.device

    @property
    def has_fidelity(self) -> bool:
        """Whether the network has that input."""
        return any(one.name == FIDELITY for one in self.manifest.extra)

    def __call__(self, faces: Image, fidelity: float) -> Image:
        """See :meth:`FaceNetwork.__call__`."""
        extra = {FIDELITY: fidelity} if self.has_fidelity else None
        return self._backend.infer(np.ascontiguousarray(faces), extra)

    def close(self) -> None:
        """Give every resource back."""
        self._backend.close()

    def __enter__(self) -> BundleNetwork:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def run(network: FaceNetwork, faces: Image, fidelity: float) -> Image:
    """Run a network on a batch, in halves where memory runs out.

    Raises:
        OutOfMemoryError: not even one face found memory.
        ValueError: the network's result is no batch of crops.
    """
    try:
        restored = network(faces, fidelity)
    except OutOfMemoryError as error:
        if len(faces) == 1:
            raise OutOfMemoryError(
                f"{error}: not even one face fits: close other programs, or use --device cpu"
            ) from error
        half = len(faces) // 2
        parts = [run(network, part, fidelity) for part in (faces[:half], faces[half:])]
        return np.concatenate(parts)
    if restored.shape != faces.shape or restored.dtype != np.uint8:
        raise ValueError(
            f"the face network made {restored.dtype} {restored.shape} of uint8 {faces.shape}"
        )
    return restored


def _check_task(name: str, task: str) -> None:
    if task not in FACE_TASKS:
        able = ", ".join(entry.name for entry in catalogue().values() if entry.task in FACE_TASKS)
        raise OptionError(f"{name} is no network for faces (its task: {task}); these are: {able}")
