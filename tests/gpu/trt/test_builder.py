"""Building, driven against the real names and signatures of each TensorRT; nothing is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import call

import pytest

from resharp.engines import CURRENT, PORTABLE, Profile
from resharp.engines.target import NAMEABLE
from resharp.errors import BuildError
from resharp.export.engine.builder import Cancel, build
from tests.fakes.spec_mock import answer, instance, steer
from tests.gpu.trt.bindings import CLASSIC, RTX, VARIANTS
from tests.gpu.trt.cases import Stand, on, outcomes, table

PROFILE = Profile(smallest=16, tile=64, batch=4)
GRAPH = Path("folder", "uint8.onnx")


class Build:
    """The objects that a build will work with, and the build."""

    def __init__(self, at: Stand) -> None:
        self.at = at
        self.builder = at.trt.Builder.return_value
        self.network = self.builder.create_network.return_value
        self.parser = at.trt.OnnxParser.return_value
        self.config = self.builder.create_builder_config.return_value
        self.profile = self.builder.create_optimization_profile.return_value
        self.cache = at.folder / "timing.cache"
        self.told: list[str] = []
        steer(self.network.get_input.return_value, name="image")

    def __call__(self, **options: Any) -> bytes:
        return build(self.at.trt, GRAPH, PROFILE, log=self.told.append, **options)

    @property
    def log(self) -> Any:
        """The logger that TensorRT was given."""
        return self.at.trt.Builder.call_args.args[0]

    def complain(self, text: str, level: str = "ERROR") -> None:
        """Log as TensorRT does."""
        self.log.log(getattr(self.at.trt.ILogger.Severity, level), text)

    def refuse(self, method: Any, gives: Any, text: str) -> None:
        """Make a method log why, and return that."""

        def reply(*_: Any) -> Any:
            self.complain(text)
            return gives

        answer(method, reply)

    def fails(self, message: str, **options: Any) -> None:
        with pytest.raises(BuildError, match=message):
            self(**options)


def raising(error: Exception) -> Callable[..., Any]:
    def reply(*_: Any) -> Any:
        raise error

    return reply


def in_turn(values: Sequence[Any]) -> Callable[..., Any]:
    replies = iter(values)
    return lambda *_: next(replies)


@on(*VARIANTS)
def exact_calls(at: Stand) -> None:
    made = Build(at)
    assert made() == b"engine"
    at.trt.Builder.assert_called_once_with(made.log)
    assert isinstance(made.log, at.real.ILogger)
    bits = {"10": 2, "11": 1, RTX: 1}
    made.builder.create_network.assert_called_once_with(bits[at.variant])
    assert bits[at.variant] == 1 << int(at.real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    at.trt.OnnxParser.assert_called_once_with(made.network, made.log)
    made.parser.parse_from_file.assert_called_once_with(str(GRAPH))
    made.profile.set_shape.assert_called_once_with(
        "image", (1, 16, 16, 3), (1, 64, 64, 3), (4, 64, 64, 3)
    )
    made.config.add_optimization_profile.assert_called_once_with(made.profile)
    made.builder.build_serialized_network.assert_called_once_with(made.network, made.config)
    for other in (
        made.config.set_flag,
        made.config.create_timing_cache,
        made.config.set_preview_feature,
    ):
        assert not other.called


@on(*VARIANTS)
def all_is_said_before_the_build(at: Stand) -> None:
    made = Build(at)

    def look(*_: Any) -> bytes:
        assert isinstance(made.config.progress_monitor, at.real.IProgressMonitor)
        assert made.config.builder_optimization_level == 5
        assert made.profile.set_shape.called
        assert made.config.add_optimization_profile.called
        return b"looked"

    answer(
        made.config.add_optimization_profile, lambda _: 0 if made.profile.set_shape.called else 1
    )
    answer(made.builder.build_serialized_network, look)
    assert made(level=5) == b"looked"


@on(*VARIANTS)
def level_is_tensorrts_own_unless_told(at: Stand) -> None:
    made = Build(at)
    steer(made.config, builder_optimization_level=3)
    made()
    assert made.config.builder_optimization_level == 3
    made(level=0)
    assert made.config.builder_optimization_level == 0


@on(*VARIANTS)
def phases_are_reported_and_a_cancel_stops(at: Stand) -> None:
    made, cancel = Build(at), Cancel()

    def work(*_: Any) -> None:
        monitor = made.config.progress_monitor
        monitor.phase_start("Building", None, 10)
        monitor.phase_start("Tactics", "Building", 10)
        assert monitor.step_complete("Building", 0) is True
        cancel.asked = True
        assert monitor.step_complete("Building", 1) is False
        monitor.phase_finish("Tactics")
        monitor.phase_finish("Building")

    answer(made.builder.build_serialized_network, work)
    options = {} if at.variant == RTX else {"timing_cache": made.cache}
    with pytest.raises(KeyboardInterrupt):
        made(cancel=cancel, **options)
    assert len(made.told) == 1
    assert made.told[0].startswith("Building (after ")
    assert not made.cache.exists()


@on(*VARIANTS)
def our_subclasses_take_what_the_real_ones_pass(at: Stand) -> None:
    """TensorRT calls them from C++, by position: their counts are in the bindings' docstrings."""
    made = Build(at)
    made()
    for ours, base in (
        (made.log, at.real.ILogger),
        (made.config.progress_monitor, at.real.IProgressMonitor),
    ):
        for name in filter(str.islower, {name for name in vars(base) if name[0] != "_"}):
            passed = getattr(base, name).__doc__.partition(") ->")[0].count(": ")
            assert len(inspect.signature(vars(type(ours))[name]).parameters) == passed, name


@on(*VARIANTS)
def errors_of_the_parser_are_collected(at: Stand) -> None:
    made = Build(at)
    steer(made.parser, num_errors=2)
    answer(made.parser.parse_from_file, lambda _: False)
    answer(made.parser.get_error, lambda index: f"reason {index}")
    made.fails("TensorRT cannot read .*: reason 0; reason 1$")
    assert made.parser.get_error.mock_calls == [call(0), call(1)]
    steer(made.parser, num_errors=0)
    made.refuse(made.parser.parse_from_file, False, "no such file")
    made.fails("TensorRT cannot read .*: no such file$")
    assert not made.builder.build_serialized_network.called


@on(*VARIANTS)
def no_network_in_the_file(at: Stand) -> None:
    for count in ({"num_layers": 0}, {"num_inputs": 2}, {"num_outputs": 0}):
        made = Build(at)
        steer(made.network, **{"num_layers": 1, "num_inputs": 1, "num_outputs": 1} | count)
        made.fails(r"found no network in .*: export the model again")
    steer(made.network, num_outputs=1)
    made()


@on(*VARIANTS)
def nothing_built_gives_the_lines_of_the_log(at: Stand) -> None:
    made = Build(at)

    def work(*_: Any) -> None:
        made.complain("a hint", "WARNING")
        made.complain("no tactic", "INTERNAL_ERROR")
        made.complain("in catchCudaError")
        made.complain("no memory")

    answer(made.builder.build_serialized_network, work)
    made.fails(r"^TensorRT could not build uint8\.onnx: no tactic; no memory$")
    made.refuse(made.builder.create_network, None, "another")
    made.fails("^TensorRT could not create a network: another$")


@on(*VARIANTS)
def sizes_are_refused(at: Stand) -> None:
    made = Build(at)
    made.refuse(made.config.add_optimization_profile, -1, "min above max")
    made.fails("rejects the sizes Profile.*: min above max$")
    assert not made.builder.build_serialized_network.called
    for error in (ValueError("rank"), RuntimeError("rank")):  # the documented, and the actual one
        answer(made.profile.set_shape, raising(error))
        made.fails("rejects the sizes Profile.*rank")


@on(*VARIANTS)
def no_builder(at: Stand) -> None:
    """The bindings make a TypeError of a null pointer."""
    null = TypeError("pybind11::init(): factory function returned nullptr")
    answer(at.trt.Builder, raising(null))
    Build(at).fails("could not start its builder .*resharp doctor")


@on(*CLASSIC)
def no_builder_from_the_real_bindings(at: Stand) -> None:
    """Their libraries are stubs that give null."""
    with pytest.raises(BuildError, match="could not start its builder"):
        build(at.real, GRAPH, PROFILE)


@on(RTX)
def targets_are_named(at: Stand) -> None:
    made, known = Build(at), at.real.ComputeCapability
    assert made(targets=NAMEABLE) == b"engine"
    assert made.config.num_compute_capabilities == len(NAMEABLE)
    wanted = [call(getattr(known, name.upper()), i) for i, name in enumerate(NAMEABLE)]
    assert made.config.set_compute_capability.mock_calls == wanted
    made(targets=(CURRENT,))  # the docstring: alone, and first
    assert made.config.num_compute_capabilities == 1
    assert made.config.set_compute_capability.mock_calls[len(wanted) :] == [call(known.CURRENT, 0)]


@on(RTX)
def targets_are_left_open(at: Stand) -> None:
    made = Build(at)
    steer(made.config, num_compute_capabilities=7)
    made()
    made(targets=(PORTABLE,))
    assert not made.config.set_compute_capability.called
    assert made.config.num_compute_capabilities == 7


@on(RTX)
def all_memory_comes_from_the_user(at: Stand) -> None:
    made = Build(at)
    made()
    assert not made.config.set_flag.called
    made(user_allocation=True)
    made.config.set_flag.assert_called_once_with(at.real.BuilderFlag.REQUIRE_USER_ALLOCATION)


@on(RTX)
def targets_are_refused(at: Stand) -> None:
    made = Build(at)
    made.refuse(made.config.set_compute_capability, False, "too old")
    made.fails("cannot build for sm86: too old$", targets=("sm86", "sm89"))
    made.config.set_compute_capability.assert_called_once()
    assert not made.builder.build_serialized_network.called


@on(*CLASSIC)
def timing_cache_is_begun(at: Stand) -> None:
    made = Build(at)
    assert made(timing_cache=made.cache) == b"engine"
    made.config.create_timing_cache.assert_called_once_with(b"")
    begun = made.config.create_timing_cache.return_value
    made.config.set_timing_cache.assert_called_once_with(begun, False)
    begun.serialize.assert_not_called()
    made.config.get_timing_cache.return_value.serialize.assert_called_once_with()
    assert made.cache.read_bytes() == b"engine"  # what the stand-in serialises to
    assert list(at.folder.iterdir()) == [made.cache]


@on(*CLASSIC)
def timing_cache_is_continued(at: Stand) -> None:
    made = Build(at)
    made.cache.write_bytes(b"earlier")
    made(timing_cache=made.cache)
    made.config.create_timing_cache.assert_called_once_with(b"earlier")
    made.config.set_timing_cache.assert_called_once()
    assert made.cache.read_bytes() == b"engine"


@on(*CLASSIC)
def timing_cache_of_another_machine_is_replaced(at: Stand) -> None:
    made = Build(at)
    made.cache.write_bytes(b"foreign")
    old, new = (instance(at.real, at.real.ITimingCache) for _ in range(2))
    for caches, taken in (([old, new], [False, True]), ([None, new], [True])):
        made.config.create_timing_cache.reset_mock()
        answer(made.config.create_timing_cache, in_turn(caches))
        answer(made.config.set_timing_cache, in_turn(taken))
        made(timing_cache=made.cache)
        assert made.config.create_timing_cache.mock_calls[1] == call(b"")
        assert made.config.set_timing_cache.call_args == call(new, False)


@on(*CLASSIC)
def timing_cache_that_cannot_be_had_costs_no_engine(at: Stand) -> None:
    made = Build(at)
    made.cache.write_bytes(b"foreign")
    answer(made.config.create_timing_cache, lambda data: None)
    answer(made.config.get_timing_cache, lambda: None)
    assert made(timing_cache=made.cache) == b"engine"
    assert not made.config.set_timing_cache.called  # the real one refuses a None
    answer(made.config.get_timing_cache, lambda: kept)
    kept = instance(at.real, at.real.ITimingCache)
    answer(kept.serialize, lambda: None)
    assert made(timing_cache=made.cache) == b"engine"
    assert made.cache.read_bytes() == b"foreign"
    answer(kept.serialize, lambda: b"kept")
    assert made(timing_cache=made.cache / "below a file") == b"engine"
    assert [line.partition(":")[0] for line in made.told] == ["the timing cache was not saved"] * 3


@on(*CLASSIC)
def timing_cache_of_a_failed_build_is_left(at: Stand) -> None:
    made = Build(at)
    made.cache.write_bytes(b"earlier")
    made.refuse(made.builder.build_serialized_network, None, "no")
    made.fails("could not build", timing_cache=made.cache)
    assert made.cache.read_bytes() == b"earlier"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for the stubs of all tests here."""
    yield tmp_path_factory.mktemp("builder")
    outcomes.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name"), table(__name__))
def test_case(variant: str, name: str, scratch: Path) -> None:
    wrong = outcomes(__name__, variant, scratch)[name]
    if wrong:
        pytest.fail(wrong, pytrace=False)
