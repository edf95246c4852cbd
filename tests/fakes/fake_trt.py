"""A TensorRT that computes a small function of 3x3 pixels on the raw addresses it is given."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.host_provider import HostProvider, queue

Array = NDArray[Any]


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class FakeLogger:
    Severity = Severity

    def log(self, level: Any, message: str) -> None:
        raise NotImplementedError


DataType = Enum("DataType", ["UINT8", "FLOAT", "HALF"])
TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
AllocationStrategy = Enum("AllocationStrategy", ["STATIC", "USER_MANAGED"])
CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
Specialization = Enum("Specialization", ["LAZY", "EAGER", "NONE"])
EngineValidity = Enum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"])


class EngineInvalidityDiagnostics(IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 32


def network(batch: Array, scale: int) -> Array:
    """What the network computes on ``[n, h, w, 3]``, in float32 or, through it, in uint8."""
    image = batch.astype(np.float32) / np.float32(1 if batch.dtype.kind == "f" else 255)
    tall, wide = ([min(1, size - 1), *range(size), max(size - 2, 0)] for size in image.shape[1:3])
    near: Array = image[:, tall][:, :, wide]  # reflected, as the runtime pads tiles
    mixed = image * 4 + near[:, :-2, 1:-1] + near[:, 2:, 1:-1]
    mixed += near[:, 1:-1, :-2] * 2 + near[:, 1:-1, 2:] * 4
    large = (mixed / np.float32(12)).repeat(scale, axis=1).repeat(scale, axis=2)
    ramp = np.arange(scale, dtype=np.float32) / np.float32(scale)
    rows = np.tile(ramp, image.shape[1])[None, :, None, None]
    columns = np.tile(ramp, image.shape[2])[None, None, :, None]
    out = large * np.float32(0.8) + rows * np.float32(0.06) + columns * np.float32(0.13)
    return out if batch.dtype.kind == "f" else np.rint(out * 255).astype(np.uint8)


@dataclass
class Trt:
    """How the fake behaves, and what it was called with."""

    provider: HostProvider
    rtx: bool = False
    version: str = "11.4.0"
    validity: EngineValidity = EngineValidity.VALID
    diagnostics: int = 0
    loads: list[dict[str, Any]] = field(default_factory=list)
    caches: list[bytes] = field(default_factory=list)
    contexts: int = 0
    says: str = ""
    """Line that it logs when it refuses to run; empty if it runs."""
    greedy: bool = False
    """Whether one image takes more activation memory than several."""
    untold: bool = False
    """Whether it reports 0 as the activation memory of a shape."""
    captured: int = 0
    """TensorRT-RTX: number of runs that it captured as a graph."""
    replayed: int = 0
    """TensorRT-RTX: number of runs that replayed such a graph."""
    order: list[str] = field(default_factory=list)
    """``config`` and ``cache``, in the order in which they were freed."""
    making: int = 0
    """Number of execution contexts that are being created now."""
    on_context: Callable[[], object] = lambda: None
    """Called while an execution context is created."""

    def module(self) -> Any:
        made: Any = ModuleType("fake_trt")
        made.__version__ = self.version
        made.ILogger = FakeLogger
        made.Runtime = lambda logger: Runtime(self, logger)
        made.DataType, made.TensorIOMode = DataType, TensorIOMode
        made.ExecutionContextAllocationStrategy = AllocationStrategy
        made.CudaGraphStrategy = CudaGraphStrategy
        made.DynamicShapesKernelSpecializationStrategy = Specialization
        made.EngineValidity = EngineValidity
        made.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        return made


def engine_bytes(
    *,
    dtype: str = "uint8",
    scale: int = 2,
    profile: tuple[int, int, int] = (16, 48, 4),
    spoil: str = "",
    mark: str = "",
    extra: tuple[str, ...] = (),
) -> bytes:
    """A fake engine.

    Args:
        dtype: dtype of input and output.
        scale: the model's scale.
        profile: smallest side, tile and batch.
        spoil: ``nan``, ``black``, ``noise``, ``refuse``, ``tensors`` or ``shape``: what is wrong;
            ``large``: noise where a side is the profile's largest.
        mark: makes its bytes differ from those of others.
        extra: extra inputs, which the result is multiplied by.
    """
    facts: dict[str, Any] = {"dtype": dtype, "scale": scale, "profile": profile}
    facts |= {"spoil": spoil, "mark": mark, "extra": extra}
    return b"FAKE" + json.dumps(facts).encode().ljust(400)


class Runtime:
    def __init__(self, fake: Trt, logger: Any) -> None:
        self.fake, self.logger = fake, logger
        if fake.rtx:
            self.get_engine_validity = lambda data: (fake.validity, fake.diagnostics)

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        self.fake.provider.inside()
        facts = json.loads(data[4:])
        self.fake.loads.append(facts)
        if facts["spoil"] == "refuse":
            self.logger.log(Severity.ERROR, "Serialization assertion magicTag failed")
            self.logger.log(Severity.ERROR, "checkMacros.cpp::catchCudaError: noise")
            return None
        return FakeEngine(self.fake, facts, self.logger)


class FakeEngine:
    def __init__(self, fake: Trt, facts: dict[str, Any], logger: Any) -> None:
        self.fake, self.facts, self.logger = fake, facts, logger
        self.num_io_tensors = 2 + len(facts["extra"])

    def get_tensor_name(self, index: int) -> str:
        return str(("image", *self.facts["extra"], "restored")[index])

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode["OUTPUT" if name == "restored" else "INPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        if name in self.facts["extra"]:
            return DataType["FLOAT"]
        if self.facts["spoil"] == "tensors":
            return DataType["HALF"]
        return DataType["UINT8" if self.facts["dtype"] == "uint8" else "FLOAT"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1,) if name in self.facts["extra"] else (-1, -1, -1, 3)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        low, high, batch = self.facts["profile"]
        if self.facts["spoil"] == "shape":
            high -= 1
        return [(1, low, low, 3), (1, high, high, 3), (batch, high, high, 3)]

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        _, high, batch = self.facts["profile"]
        return int(high * high * batch * 20)

    def create_runtime_config(self) -> Any:
        return Config(self.fake)

    def create_execution_context(self, config: Any) -> Any:
        self.fake.provider.inside()
        assert config.strategy == AllocationStrategy["USER_MANAGED"]
        assert (config.cuda_graph_strategy is not None) == self.fake.rtx
        assert not self.fake.making, "two contexts of an engine are made at once"
        self.fake.making += 1
        self.fake.on_context()
        self.fake.making -= 1
        self.fake.contexts += 1
        eager = config.specialization == Specialization["EAGER"]
        return Context(self, eager=eager or not self.fake.rtx)


class Config:
    def __init__(self, fake: Trt) -> None:
        self.fake, self.strategy = fake, None
        self.cuda_graph_strategy: Any = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = Specialization["LAZY"]
        self.cache: Any = None

    @property
    def specialization(self) -> Any:
        return self.dynamic_shapes_kernel_specialization_strategy

    def __del__(self) -> None:
        self.fake.order.append("config")

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return Cache(self.fake)

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = weakref.ref(cache)  # as C++ does: nothing keeps it alive


class Cache:
    def __init__(self, fake: Trt) -> None:
        self.fake = fake

    def __del__(self) -> None:
        self.fake.order.append("cache")

    def deserialize(self, data: bytes) -> bool:
        self.fake.caches.append(data)
        return data == b"compiled kernels"

    def serialize(self) -> bytes:
        return b"compiled kernels"


class Context:
    """Checks that it is not used from two threads at once, and that its memory is enough."""

    def __init__(self, engine: FakeEngine, *, eager: bool = True) -> None:
        self.engine, self.fake, self.eager = engine, engine.fake, eager
        self.known: set[tuple[int, ...]] = set()
        self.key: Any = None
        self.seen, self.held = 0, (0, 0)
        self.using = threading.Lock()
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)

    def __del__(self) -> None:
        self.fake.contexts -= 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high, batch = self.engine.facts["profile"]
        n, h, w, c = shape
        fits = 1 <= n <= batch and all(low <= side <= high for side in (h, w)) and c == 3
        self.shape = shape if fits else None
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        n, h, w, c = self.shape
        scale = self.engine.facts["scale"]
        return n, h * scale, w * scale, c

    def update_device_memory_size_for_shapes(self) -> int:
        assert self.shape is not None
        n, h, w, _ = self.shape
        if self.fake.untold:
            return 0
        return n * h * w * 20 + (100_000 if n == 1 and self.fake.greedy else 0)

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        provider = self.fake.provider
        provider.inside()
        assert self.using.acquire(blocking=False), "one context in two threads"
        try:
            if self.fake.says:
                self.engine.logger.log(Severity.ERROR, self.fake.says)
                return False
            shape, ends, memory = self.shape, dict(self.addresses), self.memory
            assert shape is not None
            need = self.update_device_memory_size_for_shapes()
            assert memory[1] >= need
            if self.fake.rtx:
                self.replay(shape, ends, memory)
            first = not self.eager and shape not in self.known
            self.known.add(shape)
            me = weakref.ref(self)

            def work() -> None:
                context = me()
                assert context is not None, "the context went before its work was done"
                context.compute(shape, ends, memory[0], need, fallback=first)

            queue(provider.streams[handle], work)
            return True
        finally:
            self.using.release()

    def replay(self, shape: tuple[int, ...], ends: dict[str, int], memory: tuple[int, int]) -> None:
        """TensorRT-RTX's own graph: captured in the second run of a key that does not hold the
        activation memory, replayed from the third on, dropped at another key."""
        key = (shape, tuple(ends.items()))
        if key != self.key:
            self.key, self.seen = key, 0
        self.seen += 1
        if self.seen == 2:
            self.fake.captured += 1
            self.held = memory
        elif self.seen > 2:
            self.fake.replayed += 1
            assert self.held == memory, "a graph is replayed on memory that moved"

    def compute(
        self,
        shape: tuple[int, ...],
        ends: dict[str, int],
        memory: int,
        need: int,
        *,
        fallback: bool = False,
    ) -> None:
        provider, facts = self.fake.provider, self.engine.facts
        dtype = np.dtype(facts["dtype"])
        data = provider.at(ends["image"], int(np.prod(shape)) * dtype.itemsize)
        provider.at(memory, need)[:] = np.random.default_rng().integers(256, dtype=np.uint8)
        out = network(data.view(dtype).reshape(shape), facts["scale"])
        for name in facts["extra"]:
            out = (out * provider.at(ends[name], 4).view(np.float32)[0]).astype(dtype)
        spoil = facts["spoil"]
        if spoil == "large":
            spoil = "noise" if max(shape[1:3]) == facts["profile"][1] else ""
        out = _spoiled(out, spoil)
        if fallback:  # other kernels, other rounding
            out = out + (1 if out.dtype == np.uint8 else np.float32(1 / 255))
        provider.write(ends["restored"], np.ascontiguousarray(out).reshape(-1).view(np.uint8))


def _spoiled(out: Array, how: str) -> Array:
    if how == "black":
        return np.zeros_like(out)
    if how == "nan":
        return out * np.float32("nan") if out.dtype.kind == "f" else np.zeros_like(out)
    if how == "noise":
        white = 1 if out.dtype.kind == "f" else 255
        return (white - out).astype(out.dtype)
    return out
