"""Loading an engine from its bytes, checked at every step.

TensorRT raises almost nothing: it returns None or False and logs the reason.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from resharp.engines import Engine, EngineStore, Profile
from resharp.engines.kernel_cache import KernelCache
from resharp.engines.selection import EngineCandidate
from resharp.errors import BackendError, OutOfMemoryError
from resharp.gpu import tensorrt as variants
from resharp.gpu.devices import LOST

_NO_MEMORY = ("out of memory", "outofmemory", "memoryallocation", "memory_allocation")
_BROKEN = (
    *("illegal memory access", "illegaladdress", "launch failure", "launchfailure"),
    *("misaligned address", "misalignedaddress", "device-side assert", "illegal instruction"),
)
"""Parts of TensorRT log lines for errors after which CUDA rejects all further calls."""


class LoadedEngine:
    """A deserialized engine, shared by the lanes. Created and freed in the provider's scope.

    Args:
        engine_store: the store that holds its bytes.
        candidate: the engine and its environment.
        extra: names of its inputs other than the images, one float32 number each.

    Raises:
        BundleError: its bytes are not those that were built.
        BackendError: TensorRT rejects it, or it does not match its sidecar.
    """

    def __init__(
        self, engine_store: EngineStore, candidate: EngineCandidate, extra: Sequence[str] = ()
    ) -> None:
        trt = variants.load(candidate.here.variant)
        self.engine: Engine = candidate.engine
        self.note = ""
        """Remark on an engine that TensorRT accepts with reservations; empty otherwise."""
        self.extra = tuple(extra)
        self._name, self._log = str(candidate), variants.trt_logger(trt)
        self._making = threading.Lock()
        data = engine_store.read(self.engine)
        self._runtime: Any = None
        self._handle: Any = None
        self._config: Any = None
        self.cache: KernelCache | None = None
        self.own_graphs = candidate.here.variant == variants.RTX
        """Whether TensorRT captures CUDA graphs by itself."""
        try:
            try:
                self._runtime = trt.Runtime(self._log)
            except TypeError as error:  # how the bindings report a null pointer
                text = "TensorRT could not start its runtime; run 'resharp doctor'"
                raise self.error(text) from error
            self._check_validity(trt, data)
            self._handle = self._runtime.deserialize_cuda_engine(data)
            if self._handle is None:
                raise self.error("TensorRT cannot load it")
            self.source, self.target = self._check_tensors(trt)
            size = self._handle.get_device_memory_size_for_profile_v2(0)
            self._activations = max(int(size), 0)
            self._config = self._configure(trt, engine_store, candidate)
        except BaseException:
            self.free()  # here, where the device is current, not when the frames are freed
            raise

    @property
    def profile(self) -> Profile:
        """Input sizes that the engine accepts."""
        return self.engine.spec.profile

    @property
    def key(self) -> str:
        """Key of the engine in its store."""
        return self.engine.key

    def create_context(self) -> Any:
        """Create an execution context without memory for activations.

        Raises:
            OutOfMemoryError: the device is out of memory.
            BackendError: TensorRT failed.
        """
        with self._making:  # TensorRT guarantees concurrent runs, not concurrent creation
            context = self._handle.create_execution_context(self._config)
            if context is None:
                raise self.error("TensorRT could not create an execution context")
        return context

    def activation_bytes(self) -> int:
        """Return the activation memory of the largest batch, in bytes; 0 if it is unknown."""
        return self._activations

    def error(self, what: str) -> BackendError | OutOfMemoryError:
        """Return an exception with the lines that TensorRT logged in this thread."""
        reason = self._log.errors()
        full = any(mark in reason.lower() for mark in _NO_MEMORY)
        broken = any(mark in reason.lower() for mark in _BROKEN)
        hint = f" ({LOST})" if broken else ""
        return (OutOfMemoryError if full else BackendError)(f"{self._name}: {what}: {reason}{hint}")

    def free(self) -> None:
        """Free TensorRT's objects in reverse order of creation. The contexts must be gone."""
        self._config = None  # refers to the cache in C++
        self.cache = None
        self._handle = None
        self._runtime = None

    def _check_validity(self, trt: Any, data: bytes) -> None:
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, flags = self._runtime.get_engine_validity(data)
        if validity == trt.EngineValidity.INVALID:
            members = trt.EngineInvalidityDiagnostics.__members__
            names = [name for name, member in members.items() if int(member) & int(flags)]
            raise self.error(f"not valid on this machine ({', '.join(names) or 'no diagnosis'})")
        if validity == trt.EngineValidity.SUBOPTIMAL:
            self.note = "suboptimal on this GPU: build one for this GPU with 'export-engines'"

    def _check_tensors(self, trt: Any) -> tuple[str, str]:
        """Check the tensors and return the names of the input and the output."""
        handle, dtype = self._handle, self.engine.spec.dtype
        names = [handle.get_tensor_name(i) for i in range(handle.num_io_tensors)]
        inputs = [n for n in names if handle.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        targets = [n for n in names if n not in inputs]
        sources = [n for n in inputs if n not in self.extra]
        if len(sources) != 1 or len(targets) != 1 or len(inputs) != 1 + len(self.extra):
            ends = " and ".join(("one input", *self.extra, "one output"))
            raise self.error(f"its tensors are {', '.join(names)}, expected {ends}")
        for name in self.extra:
            shape, found = tuple(handle.get_tensor_shape(name)), handle.get_tensor_dtype(name)
            if found != trt.DataType.FLOAT or shape != (1,):
                raise self.error(f"tensor {name} is {found} {shape}, expected float32 [1]")
        wanted = {"uint8": trt.DataType.UINT8, "float32": trt.DataType.FLOAT}[dtype]
        for name in (*sources, *targets):
            shape, found = tuple(handle.get_tensor_shape(name)), handle.get_tensor_dtype(name)
            if found != wanted or len(shape) != 4 or shape[3] != 3:
                raise self.error(f"tensor {name} is {found} {shape}, expected {dtype} [n, h, w, 3]")
        self._check_profile(sources[0])
        return sources[0], targets[0]

    def _check_profile(self, source: str) -> None:
        profile = self.profile
        least, _, most = map(tuple, self._handle.get_tensor_profile_shape(source, 0))
        low, high = (1, profile.smallest, profile.smallest), (profile.batch, *[profile.tile] * 2)
        wide = all(a <= b for a, b in zip(least[:3], low, strict=True)) and all(
            a >= b for a, b in zip(most[:3], high, strict=True)
        )
        if not wide:
            raise self.error(f"it accepts {least} to {most}, less than its sidecar promises")

    def _configure(self, trt: Any, engine_store: EngineStore, candidate: EngineCandidate) -> Any:
        config = self._handle.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self.own_graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # By default it swaps kernels while images are processed: the kernels in use would not
            # be those that were verified, and results would not be reproducible.
            config.dynamic_shapes_kernel_specialization_strategy = (
                trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self.cache = KernelCache(config, engine_store, candidate.engine, candidate.here)
        return config
