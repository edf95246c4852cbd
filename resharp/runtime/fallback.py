"""Choice of the backend: the first that works, with the reasons why earlier ones do not."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resharp.checks import check_choice, shown
from resharp.engines import Bundle, Tuning
from resharp.errors import BackendError, ResharpError
from resharp.gpu.devices import device_name, gpus
from resharp.runtime.backends import Backend, BackendOptions
from resharp.types import BackendName, Precision

logger = logging.getLogger(__name__)

BACKENDS = {"tensorrt": "TensorrtBackend", "torch": "TorchBackend", "onnx": "OnnxBackend"}
"""Class name of each backend, in the module of ``backends`` that has the backend's name."""
CHAIN = (
    ("tensorrt", "cuda"),
    ("torch", "cuda"),
    ("onnx", "cuda"),
    ("onnx", "cpu"),
    ("torch", "cpu"),
)
"""(backend, device) in the order in which ``auto`` tries them."""


@dataclass(frozen=True)
class BackendAttempt:
    """An attempt to use a backend on a device, and its outcome."""

    backend: str
    device: str
    works: bool
    reason: str
    """Why it was skipped, or remarks on how it runs; may be empty."""

    def __str__(self) -> str:
        state = "works" if self.works else "skipped"
        return f"{self.backend} on {self.device}: {state}" + (
            f" ({self.reason})" if self.reason else ""
        )


def load_backend(name: str) -> type[Backend]:
    """Import the module of a backend, but not its library yet."""
    module = importlib.import_module(f"resharp.runtime.backends.{name}")
    backend: type[Backend] = getattr(module, BACKENDS[name])
    return backend


def candidates(backend: BackendName, device: str) -> tuple[tuple[str, str], ...]:
    """Return the (backend, device) pairs that a choice allows, in order.

    Args:
        backend: ``auto`` or one of :data:`BACKENDS`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        OptionError: the backend or the device is unknown.
    """
    check_choice("backend", backend, ("auto", *BACKENDS))
    if device != "auto":
        BackendOptions(device=device)  # raises for an invalid device
    kind = str(device).partition(":")[0]
    return tuple(
        (name, device if kind == "cuda" else at)
        for name, at in CHAIN
        if backend in ("auto", name) and kind in ("auto", at)
    )


def probe(tried: Sequence[tuple[str, str]], threads: int | None = None) -> list[BackendAttempt]:
    """Check whether each backend's library and device are available, without opening a model."""
    return [_probe(name, BackendOptions(device=at, threads=threads)) for name, at in tried]


def open_first(
    bundle: Bundle,
    backend: BackendName,
    device: str,
    threads: int | None,
    after: BackendAttempt | None = None,
    precision: Precision = "auto",
    tuning: Tuning | str | None = "auto",
) -> tuple[Backend, tuple[BackendAttempt, ...]]:
    """Open the bundle with the first backend that works.

    Args:
        bundle: the model.
        backend: ``auto`` or a name.
        device: ``auto`` or a device.
        threads: CPU threads per run; None uses the library's default.
        after: the last attempt to skip, with all those before it.
        precision: ``auto`` or ``fp32``.
        tuning: settings of the backend; ``auto`` takes the manifest's, None uses none.

    Raises:
        BackendError: no backend works; the message gives every reason.
    """
    attempts: list[BackendAttempt] = [] if after is None else [after]
    allowed = candidates(backend, device)
    if after is not None:
        allowed = allowed[allowed.index((after.backend, after.device)) + 1 :]
    for name, where in allowed:
        options = BackendOptions(device=where, threads=threads, precision=precision)
        attempt = _probe(name, options)
        if attempt.works:
            options = replace(options, tuning=_tuning(bundle, options, name, tuning))
            try:
                opened = load_backend(name)(bundle, options)
            except (ResharpError, RuntimeError, OSError, MemoryError) as error:
                # Libraries raise RuntimeError for a GPU that is full, too old or broken.
                attempt = BackendAttempt(name, where, False, str(error) or type(error).__name__)
            else:
                return opened, (*attempts, attempt_of(opened))
        logger.info("%s", attempt)
        attempts.append(attempt)
    name, lines = bundle.manifest.name, "\n".join(f"  {attempt}" for attempt in attempts)
    if backend == "auto" and device == "auto":
        raise BackendError(f"no backend can run {shown(name)} on this machine:\n{lines}")
    raise BackendError(
        f"{shown(name)} cannot be run as requested:\n{lines}\nLeave out `backend` and `device` to "
        "use the first backend that works"
    )


def attempt_of(backend: Backend) -> BackendAttempt:
    """Return the attempt of an open backend with its current remarks, e.g. on missing graphs."""
    options = backend.options
    notes = filter(None, [backend.note, str(options.tuning or "")])
    return BackendAttempt(backend.name, options.device, True, "; ".join(notes))


def _tuning(
    bundle: Bundle, options: BackendOptions, name: str, asked: Tuning | str | None
) -> Tuning | None:
    if not isinstance(asked, str):
        return asked
    if not bundle.manifest.tunings:
        return None
    return bundle.manifest.tuning(name, device_name(options.device))


def _probe(name: str, options: BackendOptions) -> BackendAttempt:
    try:
        if options.on_cuda:
            gpus()  # cheap, and avoids importing torch on a machine without a GPU
        reason = load_backend(name).probe(options)
    except (ResharpError, RuntimeError, OSError) as error:
        reason = str(error) or type(error).__name__
    return BackendAttempt(name, options.device, reason is None, reason or "")
