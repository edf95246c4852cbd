"""The stand-ins have the real names, no others, and refuse what the real ones refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.trt import bindings

PRELUDE = """
import importlib.util, sys
from tests.fakes.spec_mock import answer, spec_module, steer

real, trt = trt, spec_module(trt)
sys.modules["tensorrt"] = trt

class Log(trt.ILogger):
    def __init__(self):
        super().__init__()

    def log(self, severity, message):
        print(message)

def refused(error, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except error:
        return True
    return False

log = Log()
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
config = builder.create_builder_config()
"""

WHOLE = """
class Monitor(trt.IProgressMonitor):
    def __init__(self):
        super().__init__()

    def phase_start(self, name, parent, steps): pass
    def phase_finish(self, name): pass
    def step_complete(self, name, step): return True

parser = trt.OnnxParser(network, log)
assert parser.parse_from_file("some.onnx") is True
assert isinstance(parser.get_error(0), real.ParserError)
assert (network.num_layers, network.num_inputs, network.num_outputs) == (1, 1, 1)
assert isinstance(network, real.INetworkDefinition)
assert isinstance(network.get_input(0), real.ITensor)
assert isinstance(network.get_input(0).dtype, real.DataType)
profile = builder.create_optimization_profile()
profile.set_shape("input", (1, 3, 64, 64), (1, 3, 256, 256), max=(4, 3, 512, 512))
assert config.add_optimization_profile(profile) == 1
config.builder_optimization_level = 3
config.progress_monitor = Monitor()
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
plan = builder.build_serialized_network(network, config)
assert bytes(plan) == b"engine" and plan.nbytes == 6 and memoryview(plan)[0] == ord("e")

engine = trt.Runtime(log).deserialize_cuda_engine(plan)
settings = engine.create_runtime_config()
kind = trt.ExecutionContextAllocationStrategy.USER_MANAGED
settings.set_execution_context_allocation_strategy(kind)
context = engine.create_execution_context(settings)
assert isinstance(context, real.IExecutionContext)
assert engine.create_execution_context(kind) is context
context.set_device_memory(4096, context.update_device_memory_size_for_shapes())
assert context.execute_async_v3(7) is True

trt.Builder.assert_called_once_with(log)
builder.build_serialized_network.return_value = None
assert builder.build_serialized_network(network, config) is None
assert builder.build_serialized_network.call_count == 2
assert importlib.util.find_spec("tensorrt") is not None
assert trt.__version__ == real.__version__
"""

REFUSED = """
assert refused(AttributeError, getattr, trt, "Bilder")
assert refused(AttributeError, getattr, builder, "build_engine_quickly")
assert refused(AttributeError, setattr, config, "max_workspace_size", 1)
assert refused(AttributeError, getattr, network.get_input(0), "gone")
assert refused(AttributeError, getattr, trt.BuilderFlag, "FP17")
plan = builder.build_serialized_network(network, config)
assert refused(AttributeError, getattr, plan, "decode")
assert refused(TypeError, trt.Builder)
assert refused(TypeError, trt.Builder, "no logger")
assert refused(TypeError, trt.OnnxParser, log, network)
assert refused(TypeError, builder.create_network, flag=1)
assert refused(TypeError, builder.create_network, 1.5)
assert refused(TypeError, builder.build_serialized_network, network)
assert refused(TypeError, config.set_memory_pool_limit, trt.DataType.FLOAT, 1)
assert refused(AttributeError, setattr, network, "num_layers", 3)
assert refused(TypeError, setattr, config, "builder_optimization_level", "high")
assert refused(TypeError, setattr, config, "progress_monitor", log)
import pathlib
assert refused(TypeError, trt.OnnxParser(network, log).parse_from_file, pathlib.Path("a.onnx"))
"""

STEERED = """
steer(network, num_layers=3)
assert network.num_layers == 3
assert refused(AttributeError, steer, network, depth=3)
answer(network.get_input, lambda index: (index, "first"))
answer(network.get_input, lambda index: (index, "second"))
assert network.get_input(4) == (4, "second")
assert refused(TypeError, network.get_input, "four")
network.get_input.assert_called_with("four")
answer(trt.Runtime, lambda given: given is log)
assert trt.Runtime(log) is True and refused(TypeError, trt.Runtime, "no logger")
config.add_optimization_profile(builder.create_optimization_profile())
assert [name for name, *_ in config.mock_calls] == ["add_optimization_profile"]
"""

CACHE = """
cache = config.create_timing_cache(b"")
assert config.set_timing_cache(cache, ignore_mismatch=False) is True
assert bytes(config.get_timing_cache().serialize()) == b"engine"
assert refused(AttributeError, getattr, config, "set_compute_capability")
assert refused(AttributeError, getattr, builder.create_builder_config(), "num_compute_capabilities")
assert hasattr(trt.BuilderFlag, "FP16") == (sys.argv[1] == "10")
assert hasattr(config, "int8_calibrator") == (sys.argv[1] == "10")
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the stubs of all tests here."""
    return tmp_path_factory.mktemp("spec_mock")


@pytest.mark.parametrize("variant", bindings.VARIANTS)
def test_our_way_of_building_and_running_is_taken(variant: str, scratch: Path) -> None:
    bindings.run(variant, PRELUDE + WHOLE, scratch)


@pytest.mark.parametrize("variant", bindings.VARIANTS)
def test_unknown_names_and_wrong_arguments_are_refused(variant: str, scratch: Path) -> None:
    bindings.run(variant, PRELUDE + REFUSED, scratch)


@pytest.mark.parametrize("variant", bindings.VARIANTS)
def test_a_test_steers_it_within_the_signatures(variant: str, scratch: Path) -> None:
    bindings.run(variant, PRELUDE + STEERED, scratch)


@pytest.mark.parametrize("variant", sorted(bindings.CLASSIC))
def test_what_one_variant_alone_has_is_only_there(variant: str, scratch: Path) -> None:
    bindings.run(variant, PRELUDE + CACHE, scratch, variant)
