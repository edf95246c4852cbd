"""CUDA behind one small interface, with two implementations: pycuda and cuda-python."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from resharp.errors import MissingExtraError, OptionError
from resharp.gpu.cuda.cuda_python import PythonProvider
from resharp.gpu.cuda.graphs import CAPTURING
from resharp.gpu.cuda.provider import Buffer, CudaGraph, Event, Pinned, Provider, Stream
from resharp.gpu.cuda.pycuda import PycudaProvider

__all__ = [
    "CAPTURING",
    "Buffer",
    "CudaGraph",
    "Event",
    "Pinned",
    "Provider",
    "Stream",
    "open_provider",
]

logger = logging.getLogger(__name__)

VARIABLE = "RESHARP_CUDA"
PROVIDERS: dict[str, type[PycudaProvider] | type[PythonProvider]] = {
    PycudaProvider.name: PycudaProvider,
    PythonProvider.name: PythonProvider,
}
"""In the order of trial: who installed pycuda, which no extra but its own brings, wants it."""


def open_provider(index: int) -> Provider:
    """Open a device through pycuda where that is installed, else through cuda-python.

    The environment variable ``RESHARP_CUDA`` forces one of the two.

    Raises:
        OptionError: ``RESHARP_CUDA`` names something else.
        MissingExtraError: the package, or both, are not installed.
        CudaError: no driver, or no such device.
    """
    forced = os.environ.get(VARIABLE)
    if forced:
        if forced not in PROVIDERS:
            raise OptionError(f"{VARIABLE} is {forced!r}, not one of: {', '.join(PROVIDERS)}")
        return PROVIDERS[forced](index)
    reasons = []
    for provider in PROVIDERS.values():
        try:
            return provider(index)
        except MissingExtraError as error:
            logger.debug("%s", error)
            reasons.append(str(error))
    raise MissingExtraError("; ".join(reasons))


@contextlib.contextmanager
def current_gpu(index: int | None) -> Iterator[None]:
    """Make a GPU the current device of this thread, for TensorRT's builder; None changes none."""
    if index is None:
        yield
        return
    provider = open_provider(index)
    try:
        with provider.scope():
            yield
    finally:
        provider.close()
