"""What can be measured: resharp's backends, and what users know.

An implementation takes a uint8 BGR image to a uint8 BGR image. Each imports its library when it is
opened.
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
"""Opens a case of each baseline; every other subject is resharp's."""


def open_implementation(case: Case, bundle: Bundle) -> Implementation:
    """Open a case.

    Raises:
        MissingExtraError: its library is not installed.
        ResharpError: it cannot run here.
    """
    return OPEN.get(case.subject, ResharpBackend)(case, bundle)
