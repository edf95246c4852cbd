"""Face networks, which restore crops, and bundles opened as face networks."""

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
"""Name of the fidelity input in manifests."""


@runtime_checkable
class FaceNetwork(Protocol):
    """Interface of a face network, which restores crops."""

    def __call__(self, faces: Image, fidelity: float) -> Image:
        """Restore crops, uint8 BGR ``[n, 512, 512, 3]``, and return them in the same layout.

        ``fidelity``, 0..1, is how close to stay to the input; networks without it ignore it.
        """


class BundleNetwork:
    """A bundle opened as a face network. A context manager.

    Args:
        model: a name, a bundle or its folder.
        backend: backend to use, as for :class:`resharp.Upscaler`.
        device: device to run on, as for an ``Upscaler``.
        store: folder of the bundles; None is the default.
        threads: CPU threads per run; None leaves it to the library.
        precision: ``auto`` or ``fp32``, as for an ``Upscaler``.

    Raises:
        OptionError: the model is not a face network, or not for crops of 512 pixels.
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
                f"{manifest.name} takes faces of {manifest.fixed_size} pixels, and only networks "
                f"for {SIDE} pixels are supported"
            )
        bundle.verify()
        self._backend, self.attempts = open_first(
            bundle, backend, device, threads, precision=precision
        )

    @property
    def manifest(self) -> Manifest:
        """The manifest of the model."""
        return self._backend.manifest

    @property
    def backend(self) -> str:
        """Name of the backend in use, e.g. ``onnx``."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Device in use, e.g. ``cpu``."""
        return self._backend.options.device

    @property
    def has_fidelity(self) -> bool:
        """Whether the network has a fidelity input."""
        return any(one.name == FIDELITY for one in self.manifest.extra)

    def __call__(self, faces: Image, fidelity: float) -> Image:
        """Restore crops; see :class:`FaceNetwork`."""
        extra = {FIDELITY: fidelity} if self.has_fidelity else None
        return self._backend.infer(np.ascontiguousarray(faces), extra)

    def close(self) -> None:
        """Release every resource."""
        self._backend.close()

    def __enter__(self) -> BundleNetwork:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def run(network: FaceNetwork, faces: Image, fidelity: float) -> Image:
    """Run a network on a batch, in halves if memory runs out.

    Raises:
        OutOfMemoryError: not even one face fits in memory.
        ValueError: the network's result is not a batch of crops of the same shape.
    """
    try:
        restored = network(faces, fidelity)
    except OutOfMemoryError as error:
        if len(faces) == 1:
            raise OutOfMemoryError(
                "not even one face fits in memory: close other programs or use `device`='cpu' "
                f"({error})"
            ) from error
        half = len(faces) // 2
        parts = [run(network, part, fidelity) for part in (faces[:half], faces[half:])]
        return np.concatenate(parts)
    if restored.shape != faces.shape or restored.dtype != np.uint8:
        raise ValueError(
            f"the face network must return uint8 {faces.shape}, got {restored.dtype} "
            f"{restored.shape}"
        )
    return restored


def _check_task(name: str, task: str) -> None:
    if task not in FACE_TASKS:
        able = ", ".join(entry.name for entry in catalogue().values() if entry.task in FACE_TASKS)
        raise OptionError(f"{name} is not a face network (its task is {task}): use one of {able}")
