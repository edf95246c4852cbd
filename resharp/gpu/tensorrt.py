"""What export and runtime share of TensorRT: which package it is, and its log as our errors.

Two variants: ``tensorrt``, which builds on the GPU that the engine is for, and ``tensorrt_rtx``,
which builds ahead of time without a GPU and compiles its kernels at the first run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import threading
from collections import deque
from types import ModuleType
from typing import Any

from resharp.errors import MissingExtraError, OptionError
from resharp.optional import require

logger = logging.getLogger(__name__)

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
VARIANTS = (TENSORRT, RTX)
"""In the order in which they are preferred."""
_MODULES = {TENSORRT: ("tensorrt",), RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_EXTRAS = {TENSORRT: "gpu", RTX: "rtx"}
RTX_NAMED = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX 1.7 can be told to build for."""
_NOISE = ("catchCudaError",)  # follows almost every error and says nothing of its own


def installed() -> tuple[str, ...]:
    """Variants whose package is here, whether or not it can be imported."""
    return tuple(f for f in VARIANTS if _module(f) is not None)


def rtx_refusal(gpu: str, capability: str) -> str | None:
    """Why TensorRT-RTX runs no engine at all on a GPU, and what does; None if it runs some.

    TensorRT-RTX 1.7 knows :data:`RTX_NAMED` and what is later than all of them. It refuses every
    engine, portable ones and those built on the GPU itself too, on 8.7, 9.0 (H100, H200), 10.x
    (B200) and 11.x.

    Args:
        gpu: its name.
        capability: its compute capability, ``8.9``.
    """
    if capability in RTX_NAMED or _numbers(capability) > _numbers(RTX_NAMED[-1]):
        return None
    known = _numbers(capability) >= _numbers(RTX_NAMED[0])
    other = "use TensorRT (pip install 'resharp[gpu]') or torch" if known else "use torch"
    return f"TensorRT-RTX has no engines for {gpu} (compute capability {capability}): {other}"


def rtx_portable(capability: str) -> bool:
    """Whether an engine of TensorRT-RTX for no named GPU runs there: from 8.0 on, where
    :func:`rtx_refusal` has no objection."""
    return rtx_refusal("", capability) is None and _numbers(capability) >= (8, 0)


def load(variant: str) -> ModuleType:
    """Import a variant's package.

    Raises:
        OptionError: there is no such variant.
        MissingExtraError: it is not installed, or its libraries are not.
    """
    if variant not in VARIANTS:
        raise OptionError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}")
    name = _module(variant) or _MODULES[variant][0]
    return require(
        name, feature="Building and running engines", extra=_EXTRAS[variant], package=variant
    )


def pick(variant: str | None = None) -> str:
    """The variant asked for, or the first that is installed.

    Raises:
        MissingExtraError: none is installed.
    """
    if variant is not None:
        load(variant)
        return variant
    here = installed()
    if not here:
        raise absent()
    return here[0]


def absent(capability: str | None = None) -> MissingExtraError:
    """The error for a machine without TensorRT.

    Args:
        capability: of its GPU, so that nothing is recommended that refuses it.
    """
    if capability is not None and _numbers(capability) < _numbers(RTX_NAMED[0]):
        return MissingExtraError(
            f"no TensorRT is installed, and none has engines for compute capability {capability}: "
            "use torch"
        )
    text = "no TensorRT is installed: pip install 'resharp[gpu]' for TensorRT, which builds on the "
    if capability is not None and rtx_refusal("", capability):
        return MissingExtraError(f"{text}GPU itself")
    return MissingExtraError(
        f"{text}GPU itself, or pip install 'resharp[rtx]' for TensorRT-RTX, which builds anywhere"
    )


def trt_logger(trt: Any) -> Any:
    """A variant's logger, whose ``errors()`` gives, and forgets, the error lines so far, or the
    last warnings where there is none.

    TensorRT raises almost nothing: it returns None, False or -1 and says why in its log. A process
    has one logger for each variant, since TensorRT goes on writing to the first it was given; so
    the lines are kept apart by thread, and ``errors()`` gives those of calls of its own thread, and
    of threads that are TensorRT's own.
    """
    if id(trt) not in _loggers:
        _loggers[id(trt)] = (trt, _make_logger(trt))
    own = _loggers[id(trt)][1]
    own.errors()
    return own


_loggers: dict[int, tuple[Any, Any]] = {}


class _Lines:
    """What TensorRT logged in a thread."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=100)
        self.warnings: deque[str] = deque(maxlen=5)

    def clear(self) -> None:
        """Forget it."""
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
            # TensorRT says as a warning that CUDA did not start, and then fails without a word.
            errors = [line for lines in kept for line in lines.errors]
            warnings = [line for lines in kept for line in lines.warnings]
            for lines in kept:
                lines.clear()
            return "; ".join(dict.fromkeys(errors or warnings)) or "it gave no reason"

        def _lines(self) -> _Lines:
            me = threading.get_ident()
            dummy = threading._DummyThread  # what logging makes of a thread that is not Python's
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
