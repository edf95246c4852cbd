"""The fake TensorRT of ``tests/runtime`` behind the real names of one.

Our backend sees mocks of ``spec_mock.py``: every name that it touches and every call is held
against the real bindings. What passes is done by ``fake_trt.py``, on the memory of
``host_provider.py``, so whole pictures come out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.fakes import fake_trt
from tests.fakes.spec_mock import HostMemory, answer, instance, steer
from tests.gpu.trt.cases import Stand


def leave_alone(made: Any) -> None:
    """Change nothing."""


class Bridge:
    """From now on, ``Runtime`` of the stand-in loads the fake's engines.

    Args:
        at: the stand-in and the bindings.
        fake: what is behind it.
    """

    def __init__(self, at: Stand, fake: fake_trt.Trt) -> None:
        self._real, self._fake = at.real, fake
        self.on_runtime: Callable[[Any], None] = leave_alone
        """Called with each new runtime, to steer it, like the other callbacks."""
        self.on_engine: Callable[[Any], None] = leave_alone
        self.on_context: Callable[[Any], None] = leave_alone
        answer(at.trt.Runtime, self._runtime)

    def complain(self, logger: Any, text: str) -> None:
        """Log an error as TensorRT does."""
        logger.log(self._real.ILogger.Severity.ERROR, text)

    def _runtime(self, logger: Any) -> Any:
        def log(level: fake_trt.Severity, text: str) -> None:
            logger.log(getattr(self._real.ILogger.Severity, level.name), text)

        behind = fake_trt.Runtime(self._fake, SimpleNamespace(log=log))
        made = instance(self._real, self._real.Runtime)

        def load(data: bytes) -> Any:
            engine = behind.deserialize_cuda_engine(data)
            return None if engine is None else self._engine(engine)

        answer(made.deserialize_cuda_engine, load)
        if self._fake.rtx:
            answer(made.get_engine_validity, lambda _: self._validity())
        self.on_runtime(made)
        return made

    def _validity(self) -> tuple[Any, int]:
        found = getattr(self._real.EngineValidity, self._fake.validity.name)
        return found, int(self._fake.diagnostics)

    def _engine(self, behind: fake_trt.FakeEngine) -> Any:
        real = self._real
        made = instance(real, real.ICudaEngine)
        steer(made, num_io_tensors=behind.num_io_tensors)
        answer(made.get_tensor_name, behind.get_tensor_name)
        answer(
            made.get_tensor_mode,
            lambda name: getattr(real.TensorIOMode, behind.get_tensor_mode(name).name),
        )
        answer(
            made.get_tensor_dtype,
            lambda name: getattr(real.DataType, behind.get_tensor_dtype(name).name),
        )
        answer(made.get_tensor_shape, lambda name: real.Dims(behind.get_tensor_shape(name)))
        answer(
            made.get_tensor_profile_shape,
            lambda name, index: [*map(real.Dims, behind.get_tensor_profile_shape(name, index))],
        )
        answer(
            made.get_device_memory_size_for_profile_v2,
            behind.get_device_memory_size_for_profile_v2,
        )
        answer(made.create_runtime_config, self._config)
        answer(made.create_execution_context, lambda config: self._context(behind, config))
        self.on_engine(made)
        return made

    def _config(self) -> Any:
        made = instance(self._real, self._real.IRuntimeConfig)
        if self._fake.rtx:
            steer(made, cuda_graph_strategy=self._real.CudaGraphStrategy.DISABLED)
            lazy = self._real.DynamicShapesKernelSpecializationStrategy.LAZY
            steer(made, dynamic_shapes_kernel_specialization_strategy=lazy)
            answer(made.create_runtime_cache, self._cache)
        return made

    def _cache(self) -> Any:
        behind, made = fake_trt.Cache(self._fake), instance(self._real, self._real.IRuntimeCache)
        answer(made.deserialize, behind.deserialize)
        answer(made.serialize, lambda: HostMemory(behind.serialize()))
        return made

    def _context(self, engine: fake_trt.FakeEngine, config: Any) -> Any:
        config.set_execution_context_allocation_strategy.assert_called_once_with(
            self._real.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        graphs, special = None, fake_trt.Specialization["LAZY"]
        if self._fake.rtx:
            chosen = config.dynamic_shapes_kernel_specialization_strategy
            special = fake_trt.Specialization[chosen.name]
            assert config.cuda_graph_strategy == self._real.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            config.set_runtime_cache.assert_called_once()
            graphs = fake_trt.CudaGraphStrategy["WHOLE_GRAPH_CAPTURE"]
        strategy = fake_trt.AllocationStrategy["USER_MANAGED"]
        behind = engine.create_execution_context(
            SimpleNamespace(strategy=strategy, cuda_graph_strategy=graphs, specialization=special)
        )
        made = instance(self._real, self._real.IExecutionContext)
        for name in (
            "set_input_shape",
            "update_device_memory_size_for_shapes",
            "set_device_memory",
            "set_tensor_address",
            "execute_async_v3",
        ):
            answer(getattr(made, name), getattr(behind, name))
        answer(made.get_tensor_shape, lambda name: self._real.Dims(behind.get_tensor_shape(name)))
        self.on_context(made)
        return made
