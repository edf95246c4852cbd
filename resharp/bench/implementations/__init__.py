"""Implementations under test: resharp's backends and the baselines.

An implementation maps a uint8 BGR image to a uint8 BGR image. Each imports its library only when it
is opened.
"""

from __future__ import annotations

from collections.abc import Callable

from resharp.bench.cases import Case
from resharp.bench.implementations.baselines import (
    NcnnNetwork,
    OnnxRuntimeSession,
    OpenVinoModel,
    PyTorchNetwork,
)
from resharp.bench.implementations.interface import Implementation
from resharp.bench.implementations.resharp_backends import ResharpBackend
from resharp.bench.implementations.upstream import open_upstream
from resharp.engines import Bundle
from resharp.types import Image

__all__ = ["Image", "Implementation", "open_implementation"]

OPEN: dict[str, Callable[[Case, Bundle], Implementation]] = {
    "upstream": open_upstream,
    "onnxruntime": OnnxRuntimeSession,
    "pytorch": PyTorchNetwork,
    "openvino": OpenVinoModel,
    "ncnn": NcnnNetwork,
}
"""Functions that open a case, by baseline; all other subjects are resharp's."""


def open_implementation(case: Case, bundle: Bundle) -> Implementation:
    """Open the implementation of a case.

    Raises:
        MissingExtraError: its library is not installed.
        ResharpError: it cannot run on this machine.
    """
    return OPEN.get(case.subject, ResharpBackend)(case, bundle)
