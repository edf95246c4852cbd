"""Running, driven against the real names and signatures of each TensorRT, on the host's memory."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.engines import Engine
from resharp.engines.selection import EngineCandidate
from resharp.errors import BackendError, OutOfMemoryError
from resharp.gpu import tensorrt as variants
from resharp.runtime.backends.base import Backend
from resharp.runtime.backends.tensorrt.buffers import DeviceBuffer
from resharp.runtime.backends.tensorrt.contexts import Contexts
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine
from resharp.runtime.tiling.plan import plan
from tests.fakes import fake_trt
from tests.fakes.spec_mock import answer, steer
from tests.fakes.tensorrt_kit import SCALE, Kit, expected, machine, picture
from tests.gpu.trt.bindings import CLASSIC, RTX, VARIANTS
from tests.gpu.trt.bridge import Bridge
from tests.gpu.trt.cases import Stand, on, outcomes, table


@dataclass
class Machine:
    """A GPU that is not there, with a TensorRT of which only the names are."""

    at: Stand
    kit: Kit
    bridge: Bridge

    @contextmanager
    def device(self) -> Iterator[None]:
        """The device, open and current."""
        provider = self.kit.provider
        provider.opened += 1
        try:
            with provider.scope():
                yield
        finally:
            provider.close()

    def model(self, engine: Engine) -> LoadedEngine:
        """Loaded as the backend does."""
        return LoadedEngine(self.kit.bundle.engine_store, EngineCandidate(engine, self.kit.here))

    def refuses(self, message: str, error: type[Exception] = BackendError) -> None:
        """Loading an engine fails with that."""
        with self.device(), pytest.raises(error, match=message):
            self.model(self.kit.add())

    @contextmanager
    def contexts(self) -> Iterator[Callable[[], None]]:
        """Of one lane; what is given runs one batch."""
        provider, shape, size = self.kit.provider, (2, 20, 30), 2 * 20 * 30 * 3
        with self.device():
            model, stream = self.model(self.kit.add()), provider.stream()
            source, target = provider.allocate(size), provider.allocate(size * SCALE**2)
            room = DeviceBuffer(provider)
            lane = Contexts(model, provider, stream, room, SCALE, room)

            def run() -> None:
                lane.prepare(shape, source.address, target.address)
                lane.enqueue(shape)
                stream.synchronize()

            try:
                yield run
            finally:
                lane.free()
                for thing in (room, source, target, stream):
                    thing.free()
                model.free()


@contextmanager
def begin(at: Stand, **provider: Any) -> Iterator[Machine]:
    """At the end, nothing of it may be left."""
    load = variants.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, at.package, at.trt)
        with machine(at.folder, patch, rtx=at.variant == RTX, **provider) as kit:
            patch.setattr("resharp.gpu.tensorrt.load", load)
            kit.here = replace(kit.here, version=at.trt.__version__)
            yield Machine(at, kit, Bridge(at, kit.fake))


def runs_whole(backend: Backend, image: Any) -> None:
    height, width, _ = image.shape
    tiles = plan(height, width, 48, 4, 1, 16)
    np.testing.assert_array_equal(backend.run(image, tiles, batch=3), expected(image))


def all_is_told_before_a_run(calls: list[str]) -> bool:
    first = calls[: calls.index("execute_async_v3")]
    wanted = ["set_input_shape", "update_device_memory_size_for_shapes", "set_device_memory"]
    told = [name for name in first if name in wanted]
    return told[:3] == wanted and first.count("set_tensor_address") >= 2


@on(*VARIANTS)
def pictures_come_out_whole(at: Stand) -> None:
    with begin(at) as made:
        made.kit.add()
        made.kit.add(dtype="float32")
        contexts: list[Any] = []
        made.bridge.on_context = contexts.append
        with made.kit.open() as backend:
            for dtype in ("uint8", "float32"):
                for height, width in ((70, 90), (100, 41), (5, 9)):
                    for _ in range(4):
                        runs_whole(backend, picture(height, width, dtype=dtype))
            assert backend.memory(48, 4) > 0
        for call in at.trt.Runtime.call_args_list:
            assert isinstance(call.args[0], at.real.ILogger)
        assert (made.kit.provider.launches > 0) is (at.variant != RTX)
        histories = [[name for name, *_ in context.mock_calls] for context in contexts]
        contexts.clear()
        runs = [calls for calls in histories if "execute_async_v3" in calls]
        assert runs
        assert all(map(all_is_told_before_a_run, runs))


@on(RTX)
def compiled_kernels_are_kept(at: Stand) -> None:
    with begin(at) as made:
        made.kit.add()
        for _ in range(2):
            with made.kit.open() as backend:
                backend.infer(picture(20, 20)[None])
        assert made.kit.fake.caches == [b"compiled kernels"]


@on(*VARIANTS)
def addresses_and_sizes_are_those_of_the_buffers(at: Stand) -> None:
    with begin(at) as made:
        seen: list[Any] = []
        made.bridge.on_context = seen.append
        with made.contexts() as run:
            run()
            context = seen.pop()
            buffers = {start: memory.size for start, memory in made.kit.provider.ranges.items()}
            ends = dict(call.args for call in context.set_tensor_address.call_args_list)
            assert sorted(ends) == ["image", "restored"]
            assert buffers[ends["restored"]] == SCALE**2 * buffers[ends["image"]]
            address, size = context.set_device_memory.call_args.args
            assert buffers[address] == size >= context.update_device_memory_size_for_shapes()
            context.set_input_shape.assert_called_once_with("image", (2, 20, 30, 3))
            context.get_tensor_shape.assert_called_once_with("restored")
            handle = context.execute_async_v3.call_args.args[0]
            assert list(made.kit.provider.streams) == [handle]
            context.set_device_memory.reset_mock()
            run()
            assert not context.set_device_memory.called  # nothing had changed
            del context  # at the end, none may be left


@on(*CLASSIC)
def graphs_have_contexts_of_their_own(at: Stand) -> None:
    for captures in (True, False):
        with begin(at, captures=captures) as made, made.contexts() as run:
            for _ in range(6):
                run()
            gc.collect()  # mocks are rings
            assert made.kit.fake.contexts == 1 + captures
            assert made.kit.provider.launches == 3 * captures


@on(RTX)
def tensorrt_rtx_captures_by_itself(at: Stand) -> None:
    with begin(at) as made, made.contexts() as run:
        for _ in range(6):
            run()
        assert made.kit.fake.contexts == 2  # the roaming one, and that of the shape
        assert made.kit.provider.launches == 0
        assert made.kit.fake.replayed == 2


@on(*VARIANTS)
def what_a_context_refuses(at: Stand) -> None:
    messages = {
        "set_input_shape": r"rejected a batch of \(2, 20, 30\): its reason$",
        "set_tensor_address": "rejected the address of image: its reason$",
        "execute_async_v3": "could not run it: its reason$",
    }
    with begin(at) as made:
        for name, message in messages.items():

            def spoil(context: Any, name: str = name) -> None:
                def refuse(*_: Any) -> bool:
                    made.bridge.complain(at.trt.Runtime.call_args.args[0], "its reason")
                    return False

                answer(getattr(context, name), refuse)

            made.bridge.on_context = spoil
            with made.contexts() as run, pytest.raises(BackendError, match=message):
                run()


@on(*VARIANTS)
def a_shape_that_is_not_the_scale(at: Stand) -> None:
    def spoil(context: Any) -> None:
        answer(context.get_tensor_shape, lambda _: at.real.Dims((2, 20, 30, 3)))

    with begin(at) as made:
        made.bridge.on_context = spoil
        message = r"output shape is \(2, 20, 30, 3\), expected \(2, 40, 60, 3\)"
        with made.contexts() as run, pytest.raises(BackendError, match=message):
            run()


@on(*VARIANTS)
def no_context(at: Stand) -> None:
    said = ""

    def spoil(engine: Any) -> None:
        def refuse(_: Any) -> None:
            made.bridge.complain(at.trt.Runtime.call_args.args[0], said)

        answer(engine.create_execution_context, refuse)

    with begin(at) as made, made.device():
        made.bridge.on_engine = spoil
        model = made.model(made.kit.add())
        for said, error in (("its reason", BackendError), ("out of memory", OutOfMemoryError)):
            with pytest.raises(error, match=f"could not create an execution context: {said}$"):
                model.create_context()


@on(*VARIANTS)
def an_engine_that_is_refused(at: Stand) -> None:
    with begin(at) as made, made.device():
        with pytest.raises(BackendError, match="cannot load it: Serialization assertion magicTag"):
            made.model(made.kit.add(spoil="refuse"))
        with pytest.raises(BackendError, match="less than its sidecar promises"):
            made.model(made.kit.add(precision="fp32", spoil="shape"))
        with pytest.raises(BackendError, match=r"tensor image is DataType\.HALF \(-1, -1"):
            made.model(made.kit.add(precision="mixed", spoil="tensors"))


@on(*VARIANTS)
def tensors_of_another_network(at: Stand) -> None:
    with begin(at) as made:
        made.bridge.on_engine = lambda engine: steer(engine, num_io_tensors=1)
        made.refuses("its tensors are image, expected one input and one output")


@on(*VARIANTS)
def no_runtime(at: Stand) -> None:
    """The bindings make a TypeError of a null pointer."""

    def null(_: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with begin(at) as made:
        answer(at.trt.Runtime, null)
        made.refuses("TensorRT could not start its runtime")


@on(*CLASSIC)
def no_runtime_from_the_real_bindings(at: Stand) -> None:
    """Their libraries are stubs that give null."""
    with begin(at) as made:
        answer(at.trt.Runtime, at.real.Runtime)
        made.refuses("TensorRT could not start its runtime")


@on(RTX)
def validity_is_asked_for(at: Stand) -> None:
    with begin(at) as made:
        made.kit.fake.validity = fake_trt.EngineValidity["INVALID"]
        made.kit.fake.diagnostics = 1 | 32
        made.refuses(r"not valid on this machine \(VERSION_MISMATCH, MALFORMED_ENGINE\)")
        made.kit.fake.validity = fake_trt.EngineValidity["SUBOPTIMAL"]
        with made.device():
            assert "suboptimal" in made.model(made.kit.add()).note


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for the stubs of all tests here."""
    yield tmp_path_factory.mktemp("backend")
    outcomes.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name"), table(__name__))
def test_case(variant: str, name: str, scratch: Path) -> None:
    wrong = outcomes(__name__, variant, scratch)[name]
    if wrong:
        pytest.fail(wrong, pytrace=False)
