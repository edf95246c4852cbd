"""The whole TensorRT path except TensorRT: ``python -m tests.fakes.standin VARIANT``.

The real backend, runner, lanes, jobs, contexts and graphs, over a real provider, with a network
that PyTorch runs in the lane's stream. Every image is compared byte for byte. Environment:
``STANDIN``, ``torch`` on a GPU or ``host`` over the fake driver of the tests, whose device memory
is the host's; ``CYCLES`` that a run of the network takes at least; ``RESHARP_CUDA``, the provider.

Exits with 1 if an image is wrong, or if a capture failed that nothing disturbed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.gpu.checks import write_line
from resharp.engines import Environment
from resharp.gpu.cuda import CudaGraph, Provider, Stream, open_provider
from resharp.gpu.devices import CudaDriver
from resharp.runtime.backends.tensorrt import backend as backend_module
from resharp.runtime.backends.tensorrt import contexts, verify
from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from resharp.runtime.tiling.plan import plan
from tests.fakes import fake_trt
from tests.fakes import tensorrt_kit as kit

Array = NDArray[Any]

SCALE = kit.SCALE
VARIANTS = ("threads", "wait", "long", "blocking")
"""Unchanged; next to a thread that keeps waiting for the device; with long kernels; with kernels
that the host waits for. The last two are set by the environment."""
TILINGS = ((48, 4), (131, 1), (256, 4), (48, 3))
"""Tile and batch."""
ODD = ((1, 1), (7, 300), (1500, 1900), (16, 2000))
THREADS = 4
PROFILE = (16, 256, 4)
SCRATCHED = 77
KEPT = 5
"""Number of texts and wrong images in the record."""
NEVER = 1 << 60


def net(batch: Array) -> Array:
    """Run the network: twice the size, inverted."""
    big = batch.repeat(SCALE, 1).repeat(SCALE, 2)
    return np.asarray(1 - big if batch.dtype.kind == "f" else 255 - big, batch.dtype)


@dataclass
class Found:
    """Findings of a variant."""

    pictures: int = 0
    wrong: list[Any] = field(default_factory=list)
    captured: int = 0
    lost: list[str] = field(default_factory=list)
    """Captures that the driver refused or invalidated."""
    said: list[str] = field(default_factory=list)
    """Log lines of the contexts."""
    waits: int = 0
    refused: list[str] = field(default_factory=list)
    """Waits of the other thread that the driver refused."""
    graphs: list[int] = field(default_factory=list)
    """Graphs held at the end, by lane and dtype."""
    times: dict[str, float] = field(default_factory=dict)
    """Milliseconds per image."""


class Network(fake_trt.Context):
    """An execution context whose network really runs, on the addresses it was given."""

    views: ClassVar[dict[Any, Any]] = {}

    def execute_async_v3(self, handle: int) -> bool:
        assert self.using.acquire(blocking=False), "one context in two threads"
        try:
            shape, dtype = self.shape, np.dtype(self.engine.facts["dtype"])
            assert shape is not None
            count, height, width, channels = shape
            large = (count, height * SCALE, width * SCALE, channels)
            source, target = self.addresses["image"], self.addresses["restored"]
            memory, size = self.memory
            assert not any(address % 256 for address in (source, target, memory))
            assert size >= self.update_device_memory_size_for_shapes()
            if on_host():
                _host(target, large, dtype)[...] = net(_host(source, shape, dtype))
            else:
                self._on_gpu((source, shape), (target, large), memory, dtype, handle)
            return True
        except RuntimeError as error:  # as TensorRT says it
            self.engine.logger.log(fake_trt.Severity.ERROR, str(error).splitlines()[0])
            return False
        finally:
            self.using.release()

    def _on_gpu(self, given: Any, result: Any, memory: int, dtype: Any, handle: int) -> None:
        import torch

        cuda: Any = torch.cuda
        key = (given, result, memory, dtype.str, handle)
        if key not in self.views:  # not in a capture: a shape runs once before it
            ends = (given, result, (memory, given[1]))
            views = [_Memory(address, size, dtype) for address, size in ends]
            tensors = [torch.as_tensor(view, device="cuda") for view in views]
            self.views[key] = (*tensors, cuda.ExternalStream(handle))
        source, target, middle, stream = self.views[key]
        count, height, width, channels = given[1]
        with cuda.stream(stream):
            middle.copy_(source)
            cuda._sleep(int(os.environ.get("CYCLES", "400000")))
            tall = middle.view(count, height, 1, width, 1, channels)
            target.view(count, height, SCALE, width, SCALE, channels).copy_(
                tall.expand(count, height, SCALE, width, SCALE, channels)
            )
            middle.fill_(SCRATCHED)  # activation memory is undefined afterwards
            if dtype.kind == "f":
                target.mul_(-1).add_(1)
            else:
                torch.bitwise_not(target, out=target)


class _Memory:
    """Memory of the device for PyTorch."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


def _host(address: int, shape: tuple[int, ...], dtype: Any) -> Array:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


class _Said(logging.Handler):
    """Keeps the lines of a logger: the contexts only log trouble."""

    def __init__(self, found: Found) -> None:
        super().__init__(logging.DEBUG)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.said.append(record.getMessage())


class _NoHost:
    """The fake TensorRT asks its provider whether it is called inside the scope."""

    def inside(self) -> None:
        pass


def on_host() -> bool:
    """Whether the device's memory is the host's."""
    return os.environ.get("STANDIN", "torch") == "host"


def watched(found: Found) -> Callable[[int], Provider]:
    """``open_provider``, whose captures are counted."""

    def opened(index: int) -> Provider:
        provider = open_provider(index)
        begin, end = provider.begin_capture, provider.end_capture

        def begins(stream: Stream) -> None:
            try:
                begin(stream)
            except Exception as error:
                found.lost.append(f"begin: {error}")
                raise

        def ends(stream: Stream) -> CudaGraph:
            try:
                graph = end(stream)
            except Exception as error:
                found.lost.append(f"end: {error}")
                raise
            found.captured += 1
            return graph

        provider.begin_capture, provider.end_capture = begins, ends  # type: ignore[method-assign]
        return provider

    return opened


@contextmanager
def opened(found: Found, folder: Path) -> Iterator[TensorrtBackend]:
    """The backend, with the stand-in for TensorRT."""
    fake = fake_trt.Trt(_NoHost())  # type: ignore[arg-type]
    package, log = fake.module(), logging.getLogger(contexts.__name__)
    here = Environment(
        variant="tensorrt", version=fake.version, gpu=kit.GPU.name, capability="8.9", driver="13.0"
    )
    handler = _Said(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_trt, "Context", Network)
        patch.setattr(kit, "expected", lambda image: net(image[None])[0])
        patch.setattr("resharp.gpu.tensorrt.installed", lambda: ("tensorrt",))
        patch.setattr("resharp.gpu.tensorrt.load", lambda variant: package)
        for module in (backend_module, verify):
            patch.setattr(module, "gpus", lambda: (kit.GPU,))
            patch.setattr(module, "driver_version", lambda: "13.0")
        patch.setattr(backend_module, "open_provider", watched(found))
        if on_host():
            patch.setattr(contexts, "WORTH", NEVER)  # a network of the host is in no graph
        made = kit.Kit(kit.make_bundle(folder), fake, here, None)  # type: ignore[arg-type]
        for dtype in ("uint8", "float32"):
            made.add(dtype=dtype, profile=PROFILE)
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        backend = made.open()
        try:
            yield backend
        finally:
            lanes = backend._executor._lanes
            found.graphs = [len(one._fixed) for lane in lanes for one in lane._contexts.values()]
            backend.close()
            log.removeHandler(handler)


class Pictures:
    """Runs images and compares the results.

    Args:
        backend: the open backend.
        found: collects the faults.
        count: number of images per tiling and dtype.
    """

    def __init__(self, backend: TensorrtBackend, found: Found, count: int) -> None:
        self._backend, self._found, self._count = backend, found, count
        self._lock = threading.Lock()

    def run(self) -> None:
        """In turn over tilings and dtypes, then odd sizes, then from several threads."""
        for dtype in ("uint8", "float32"):
            for tile, batch in TILINGS:
                began = time.perf_counter()
                for i in range(self._count):
                    self._one(333 + i % 3, 517, i, dtype, tile, batch, i % 4 != 3)
                took = (time.perf_counter() - began) / self._count * 1e3
                self._found.times[f"{dtype}, tile {tile}, batch {batch}"] = round(took, 2)
        for height, width in ODD:
            self._one(height, width, 1, "uint8", PROFILE[1], PROFILE[2], True)
        began = time.perf_counter()
        threads = [threading.Thread(target=self._several, args=(s,)) for s in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = (time.perf_counter() - began) / (THREADS * self._in_a_thread) * 1e3
        self._found.times["threads"] = round(took, 2)

    @property
    def _in_a_thread(self) -> int:
        return 2 * self._count + 1

    def _several(self, seed: int) -> None:
        for i in range(self._in_a_thread):
            height, width = 200 + 31 * ((seed + i) % 5), 300 + 17 * (i % 4)
            tile, batch = (48, 96, 160)[i % 3], 1 + i % 4
            self._one(height, width, seed * 100 + i, "uint8", tile, batch, i % 2 == 0)

    def _one(
        self, height: int, width: int, seed: int, dtype: str, tile: int, batch: int, pinned: bool
    ) -> None:
        image = kit.picture(height, width, seed, dtype)
        tiles = plan(height, width, tile, 4, 1, PROFILE[0])
        out = None if pinned else np.empty((height * SCALE, width * SCALE, 3), image.dtype)
        wanted, fault = net(image[None])[0], ""
        try:
            got = self._backend.run(image, tiles, None, batch, out)
            if not np.array_equal(got, wanted):
                fault = f"{float((got != wanted).mean()):.3g} of the values"
        except Exception as error:  # it would be lost in a thread
            fault = f"{type(error).__name__}: {error}"
        with self._lock:
            self._found.pictures += 1
            if fault:
                facts = (height, width, seed, dtype, tile, batch, pinned, fault)
                self._found.wrong.append(facts)


@contextmanager
def waiting(found: Found, provider: Provider) -> Iterator[None]:
    """Run a thread that keeps waiting for the whole device."""
    end, wait = threading.Event(), _device_wait(provider)

    def work() -> None:
        while not end.wait(0.0005):
            found.waits += 1
            try:
                wait()
            except Exception as error:  # a capture is under way
                found.refused.append(str(error).splitlines()[0])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _device_wait(provider: Provider) -> Callable[[], object]:
    if not on_host():
        import torch

        return torch.cuda.synchronize
    driver = CudaDriver()

    def wait() -> None:
        with provider.scope():
            driver.call("cuCtxSynchronize")

    return wait


def measure(found: Found, variant: str, count: int) -> None:
    """Run a variant."""
    if not on_host():
        import torch

        cuda: Any = torch.cuda
        cuda.init()
    with tempfile.TemporaryDirectory() as folder, opened(found, Path(folder)) as backend:
        pictures = Pictures(backend, found, count)
        if variant == "wait":
            with waiting(found, backend._executor._provider):
                pictures.run()
        else:
            pictures.run()
    gc.collect()


def faults(found: Found, variant: str) -> list[str]:
    """Return the faults of a variant."""
    wrong = [f"{len(found.wrong)} of {found.pictures} pictures are wrong"] if found.wrong else []
    if variant == "wait":
        return wrong
    if found.lost or found.said:
        wrong.append(f"captures were lost: {(found.lost or found.said)[0]}")
    elif not found.captured and not on_host():
        wrong.append("nothing was captured")
    return wrong


def main() -> None:
    """Run a variant and write its line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--pictures", type=int, default=8, help="of one tiling and dtype")
    options = parser.parse_args()
    began, found = time.monotonic(), Found()
    try:
        measure(found, options.variant, options.pictures)
        wrong = faults(found, options.variant)
    except Exception as error:
        wrong = [f"{type(error).__name__}: {error}"]
    facts = {
        "stage": "standin",
        "provider": os.environ.get("RESHARP_CUDA", ""),
        "variant": options.variant,
        "seconds": round(time.monotonic() - began, 2),
        "pictures": found.pictures,
        "wrong": len(found.wrong),
        "wrong ones": found.wrong[:KEPT],
        "graphs held": found.graphs,
        "captured": found.captured,
        "captures lost": len(found.lost),
        "lost": sorted(set(found.lost))[:KEPT],
        "said": sorted(set(found.said))[:KEPT],
        "waits": found.waits,
        "waits refused": len(found.refused),
        "refused": sorted(set(found.refused))[:KEPT],
        "ms of a picture": found.times,
        "faults": wrong,
    }
    write_line(options.records, facts)
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
