"""TensorRT variants and their logs, shared by export and the runtime.

There are two variants: ``tensorrt`` builds on the GPU that the engine is for; ``tensorrt_rtx``
builds ahead of time without a GPU and compiles its kernels at the first run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import threading
from collections import deque
from types import ModuleType
from typing import Any

from resharp.checks import shown
from resharp.errors import MissingExtraError, OptionError
from resharp.optional import require

logger = logging.getLogger(__name__)

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
VARIANTS = (TENSORRT, RTX)
"""Variants in order of preference."""
_MODULES = {TENSORRT: ("tensorrt",), RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_EXTRAS = {TENSORRT: "gpu", RTX: "rtx"}
RTX_NAMED = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX 1.7 can build for by name."""
_NOISE = ("catchCudaError",)  # follows almost every error and adds no information


def installed() -> tuple[str, ...]:
    """Return the variants whose package is installed, whether or not it can be imported."""
    return tuple(f for f in VARIANTS if _module(f) is not None)


def rtx_refusal(gpu: str, capability: str) -> str | None:
    """Return why TensorRT-RTX cannot use a GPU at all, and what to use instead; None if it can.

    TensorRT-RTX 1.7 supports :data:`RTX_NAMED` and everything later than all of them. It refuses
    every engine, including portable ones and those built on the GPU itself, on 8.7, 9.0 (H100,
    H200), 10.x (B200) and 11.x.

    Args:
        gpu: name of the GPU.
        capability: compute capability of the GPU, e.g. ``8.9``.
    """
    if capability in RTX_NAMED or _numbers(capability) > _numbers(RTX_NAMED[-1]):
        return None
    known = _numbers(capability) >= _numbers(RTX_NAMED[0])
    other = "use TensorRT (pip install 'resharp[gpu]') or torch" if known else "use torch"
    return f"TensorRT-RTX does not support {gpu} (compute capability {capability}): {other}"


def rtx_portable(capability: str) -> bool:
    """Return whether portable TensorRT-RTX engines run there: 8.0 or later, if not refused."""
    return rtx_refusal("", capability) is None and _numbers(capability) >= (8, 0)


def load(variant: str) -> ModuleType:
    """Import the package of a variant.

    Raises:
        OptionError: there is no such variant.
        MissingExtraError: the package or its libraries are not installed.
    """
    if variant not in VARIANTS:
        raise OptionError(f"`variant` must be one of {', '.join(VARIANTS)}, got {shown(variant)}")
    name = _module(variant) or _MODULES[variant][0]
    return require(
        name, feature="Building and running engines", extra=_EXTRAS[variant], package=variant
    )


def pick(variant: str | None = None) -> str:
    """Return the requested variant, or the first one that is installed.

    Raises:
        OptionError: there is no such variant.
        MissingExtraError: the requested variant, or every variant, is not installed.
    """
    if variant is not None:
        load(variant)
        return variant
    here = installed()
    if not here:
        raise absent()
    return here[0]


def absent(capability: str | None = None) -> MissingExtraError:
    """Return the error for a machine without TensorRT.

    Args:
        capability: compute capability of its GPU, to recommend only variants that support it.
    """
    if capability is not None and _numbers(capability) < _numbers(RTX_NAMED[0]):
        return MissingExtraError(
            f"TensorRT is not installed, and does not support compute capability {capability}: "
            "use torch"
        )
    text = "TensorRT is not installed: pip install 'resharp[gpu]' for TensorRT, which builds on the"
    if capability is not None and rtx_refusal("", capability):
        return MissingExtraError(f"{text} GPU itself")
    return MissingExtraError(
        f"{text} GPU itself, or pip install 'resharp[rtx]' for TensorRT-RTX, which builds anywhere"
        ". Building also needs the extra 'export'."
    )


def trt_logger(trt: Any) -> Any:
    """Return the logger of a variant, which also collects TensorRT's error lines.

    TensorRT raises almost nothing: it returns None, False or -1 and logs the reason. ``errors()``
    of the logger returns and clears the error lines so far, or the last warnings if there are no
    errors. A process has one logger per variant, since TensorRT keeps writing to the first one it
    was given, so lines are collected per thread: ``errors()`` returns those of calls made by its
    own thread, and those of TensorRT's internal threads.
    """
    if id(trt) not in _loggers:
        _loggers[id(trt)] = (trt, _make_logger(trt))
    own = _loggers[id(trt)][1]
    own.errors()
    return own


_loggers: dict[int, tuple[Any, Any]] = {}


class _Lines:
    """Lines that TensorRT logged in one thread."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=100)
        self.warnings: deque[str] = deque(maxlen=5)

    def clear(self) -> None:
        """Discard all lines."""
        self.errors.clear()
        self.warnings.clear()


def _make_logger(trt: Any) -> Any:
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]  # the class is known only at run time
        def __init__(self) -> None:
            super().__init__()
            self._local = threading.local()
            self._others = _Lines()

        def log(self, level: Any, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                if not any(mark in message for mark in _NOISE):
                    self._lines().errors.append(message)
            elif level == severity.WARNING:
                self._lines().warnings.append(message)
                logger.info("TensorRT: %s", message)
            else:
                logger.debug("TensorRT: %s", message)

        def errors(self) -> str:
            kept = (self._lines(), self._others)
            # That CUDA did not start is only logged as a warning; the failure itself logs nothing.
            errors = [line for lines in kept for line in lines.errors]
            warnings = [line for lines in kept for line in lines.warnings]
            for lines in kept:
                lines.clear()
            return "; ".join(dict.fromkeys(errors or warnings)) or "it gave no reason"

        def _lines(self) -> _Lines:
            me = threading.get_ident()
            dummy = threading._DummyThread  # stands for a thread that Python did not start
            mine = (t for t in threading.enumerate() if not isinstance(t, dummy))
            if all(thread.ident != me for thread in mine):
                return self._others
            if not hasattr(self._local, "lines"):
                self._local.lines = _Lines()
            found: _Lines = self._local.lines
            return found

    return Logger()


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def _module(variant: str) -> str | None:
    for name in _MODULES[variant]:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None:  # not a folder of that name
                return name
    return None
