"""CUDA behind one small interface with two implementations: pycuda and cuda-python."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from resharp.checks import shown
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
"""In order of preference; pycuda is only installed by its own extra, that is, on purpose."""


def open_provider(index: int) -> Provider:
    """Open a device through pycuda if it is installed, otherwise through cuda-python.

    The environment variable ``RESHARP_CUDA`` forces one of the two.

    Raises:
        OptionError: ``RESHARP_CUDA`` has any other value.
        MissingExtraError: the forced package, or both packages, are not installed.
        CudaError: there is no driver or no such device.
    """
    forced = os.environ.get(VARIABLE)
    if forced:
        if forced not in PROVIDERS:
            raise OptionError(
                f"{VARIABLE} must be one of {', '.join(PROVIDERS)}, got {shown(forced)}"
            )
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
    """Make a GPU this thread's current device for TensorRT's builder; None leaves it unchanged."""
    if index is None:
        yield
        return
    provider = open_provider(index)
    try:
        with provider.scope():
            yield
    finally:
        provider.close()
