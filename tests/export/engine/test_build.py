"""Real TensorRT-RTX engines, built without a GPU; nothing here can run them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resharp import __version__
from resharp.engines import Bundle, Engine, ParityResult, Profile
from resharp.engines.target import NAMED, Target, choose_tile
from resharp.errors import BuildError, MissingExtraError, OptionError, ParityError
from resharp.export import export
from resharp.export.engine import EngineOptions, build_engines, builder
from resharp.export.engine import build as build_module
from resharp.export.engine.typed_graph import compare, make_reference, typed_graph
from resharp.export.measure import costs, overlap
from resharp.gpu import tensorrt as variants
from resharp.models.archs.rrdbnet import RRDBNet
from resharp.models.precision import LARGE, ranges, with_precision
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, builtin_store
from tests.conftest import random_network, save_checkpoint
from tests.held import start
from tests.shared import ANIMEVIDEO, needs_animevideo
from tests.waiting import LIMIT, until

pytestmark = pytest.mark.skipif(
    variants.RTX not in variants.installed(), reason="TensorRT-RTX is not installed (extra rtx)"
)
RTX = EngineOptions(variant=variants.RTX)
EVERYWHERE = Target(targets=NAMED)


def on(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with its engines in another folder."""
    return replace(bundle, engine_store_folder=folder / "engines")


@pytest.mark.slow
def test_the_built_in_model_for_all_kinds_at_once(tmp_path: Path) -> None:
    bundle = on(builtin_store().find(DEFAULT_MODEL), tmp_path)
    built = build_engines(bundle, EVERYWHERE, RTX)
    assert [item.engine.spec.dtype for item in built] == ["uint8", "float32"]
    for item in built:
        assert item.engine.spec.precision == "fp16"
        assert item.engine.graph.psnr >= 60
        assert bundle.engine_store.read(item.engine)[:4] == b"vtrt"


@pytest.mark.slow
@needs_animevideo
def test_the_official_checkpoint(tmp_path: Path) -> None:
    bundle = export(ANIMEVIDEO, store=tmp_path / "store")
    built = build_engines(bundle, EVERYWHERE, RTX)
    assert all(item.engine.graph.psnr >= 60 for item in built)


@pytest.mark.slow
def test_a_full_rrdbnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "measure", lambda *_: ((32, 0.0),))  # not the matter: 45 s
    monkeypatch.setattr(costs, "memory_per_pixel", lambda *_: 1e4)  # nor this: 15 s
    torch.manual_seed(0)
    checkpoint = save_checkpoint(RRDBNet(scale=4), tmp_path / "full.pth")
    bundle = export(checkpoint, store=tmp_path / "store")
    (built,) = build_engines(bundle, EVERYWHERE, replace(RTX, dtypes=("uint8",)))
    assert 30e6 < built.engine.file.size < 50e6
    assert built.engine.graph.levels <= 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "mixed", "fp32", "bf16"])
@pytest.mark.parametrize("kind", ["compact", "rrdb4", "rrdb2"])
def test_every_precision_builds(
    tiny: dict[str, Bundle], tmp_path: Path, kind: str, precision: str
) -> None:
    bundle = on(tiny[kind], tmp_path)
    options = replace(RTX, precision=precision, dtypes=("uint8",))
    (built,) = build_engines(bundle, EVERYWHERE, options)
    assert built.engine.spec.precision == precision
    assert ("sm75" in built.engine.spec.targets) is (precision != "bf16")


@pytest.mark.slow
@pytest.mark.usefixtures("bare_checkout")
def test_a_bare_checkout_builds(compact: Bundle, tmp_path: Path) -> None:
    options = replace(RTX, dtypes=("uint8",))
    (built,) = build_engines(on(compact, tmp_path), Target(targets=("sm86",)), options)
    assert built.engine.versions["resharp"] == __version__


@pytest.mark.slow
def test_done_work_is_skipped_until_something_changes(compact: Bundle, tmp_path: Path) -> None:
    bundle = on(compact, tmp_path)
    first = build_engines(bundle, EVERYWHERE, RTX)
    assert not any(item.skipped for item in first)
    again = build_engines(bundle, EVERYWHERE, RTX)
    assert all(item.skipped for item in again)
    assert [item.engine for item in again] == [item.engine for item in first]
    assert not any(i.skipped for i in build_engines(bundle, EVERYWHERE, replace(RTX, tile=128)))
    assert not any(i.skipped for i in build_engines(bundle, Target(targets=("sm86",)), RTX))
    assert not any(i.skipped for i in build_engines(bundle, EVERYWHERE, replace(RTX, force=True)))
    path = bundle.engine_store.path(first[0].engine.file)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    repaired = build_engines(bundle, EVERYWHERE, RTX)
    assert [item.skipped for item in repaired] == [False, True]


@pytest.mark.slow
def test_a_graph_that_fp16_spoils_falls_to_mixed_and_says_so(
    compact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def spoiled(infer: Any, reference: Any, dtype: str) -> ParityResult:
        if spoils:
            spoils.pop()
            return ParityResult(psnr=12.3, levels=200, passed=False)
        return compare(infer, reference, dtype)

    monkeypatch.setattr(build_module, "compare", spoiled)
    spoils = [1]
    lines: list[str] = []
    bundle = on(compact, tmp_path)
    built = build_engines(bundle, EVERYWHERE, RTX, log=lines.append)
    assert [item.engine.spec.precision for item in built] == ["mixed", "mixed"]
    assert any("12.3 dB" in line and "trying mixed" in line for line in lines)
    spoils = [1, 1, 1]
    with pytest.raises(ParityError, match=r"fp32 .* 12\.3 dB"):
        build_engines(bundle, EVERYWHERE, replace(RTX, force=True))
    spoils = [1]
    with pytest.raises(ParityError, match="fp16"):
        build_engines(bundle, EVERYWHERE, replace(RTX, precision="fp16", force=True))


@pytest.mark.slow
def test_the_next_dtype_falls_by_itself(
    compact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(infer: Any, reference: Any, dtype: str) -> ParityResult:
        bad = dtype == "float32" and len(bads) < 1
        bads.extend([1] * bad)
        real = compare(infer, reference, dtype)
        return ParityResult(psnr=1.0, levels=9, passed=False) if bad else real

    bads: list[int] = []
    monkeypatch.setattr(build_module, "compare", spoiled)
    seen: list[str] = []
    built = build_engines(
        on(compact, tmp_path),
        EVERYWHERE,
        RTX,
        done=lambda item: seen.append(item.engine.spec.dtype),
    )
    assert [item.engine.spec.precision for item in built] == ["fp16", "mixed"]
    assert seen == ["uint8", "float32"]


@pytest.mark.slow
def test_an_engine_that_is_off_on_its_gpu_falls_too(compact: Bundle, tmp_path: Path) -> None:
    def check(bundle: Bundle, engine: Engine, index: int) -> ParityResult:
        half = engine.spec.precision == "fp16"
        return ParityResult(psnr=20.0 if half else 70.0, levels=1, passed=not half)

    target = Target(targets=NAMED, index=0)
    built = build_engines(on(compact, tmp_path), target, RTX, check=check)
    assert [item.engine.spec.precision for item in built] == ["mixed", "mixed"]
    assert built[0].parity == ParityResult(psnr=70.0, levels=1, passed=True)


def test_fp16_overflow_is_seen_by_the_gate_and_mixed_keeps_the_layer() -> None:
    network = random_network("compact")
    body = network.get_submodule("body")
    with torch.no_grad():
        body.get_submodule("2").weight.mul_(1e7)  # type: ignore[operator]
        body.get_submodule("4").weight.mul_(1e-7)  # type: ignore[operator]
    example = torch.rand(1, 3, 24, 24)
    assert max(ranges(network, example).values()) > 65504
    with torch.inference_mode():
        exact = network(example)
        half = with_precision(network, "fp16")(example.half()).float()
        mixed = with_precision(network, "mixed", example)(example)
    assert not torch.isfinite(half).all()
    assert (mixed - exact).abs().max() < 0.02 * exact.abs().max()


def test_mixed_leaves_the_first_and_last_layer_and_the_weights_alone() -> None:
    network = random_network("rrdb4")
    mixed = with_precision(network, "mixed", torch.rand(1, 3, 16, 16))
    names = [name for name, m in mixed.named_modules() if type(m).__name__ == "_HalfLayer"]
    assert names
    assert "conv_first" not in names
    assert "conv_last" not in names
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32, name
    assert LARGE < 65504
    with pytest.raises(OptionError, match="got 'int8'"):
        with_precision(network, "int8")


@pytest.mark.parametrize("kind", ["compact", "rrdb4", "rrdb2"])
@pytest.mark.parametrize(("precision", "floor"), [("fp16", 50), ("mixed", 50), ("bf16", 35)])
def test_typed_graphs_are_near_fp32_at_any_size(
    tiny: dict[str, Bundle], tmp_path: Path, kind: str, precision: str, floor: float
) -> None:
    bundle = tiny[kind]
    _, exact = typed_graph(bundle, "uint8", "fp32", tmp_path)
    _, infer = typed_graph(bundle, "uint8", precision, tmp_path)
    for shape in ((1, 40, 33, 3), (3, 17, 23, 3), (2, 16, 64, 3)):
        batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        error = (infer(batch).astype(float) - exact(batch)) / 255
        assert -10 * np.log10(np.mean(error**2) + 1e-12) >= floor


def test_the_reference_is_the_same_bytes_every_time_and_fits_the_tile(compact: Bundle) -> None:
    one, two = make_reference(compact, 256), make_reference(compact, 256)
    assert one.packed() == two.packed()
    assert one.restored.shape == (96 * 2, 128 * 2, 3)
    assert make_reference(compact, 64).picture.shape == (64, 64, 3)
    photo = np.zeros((500, 300, 3), np.uint8)
    with pytest.raises(OptionError, match="has a single color"):
        make_reference(compact, 256, photo)
    photo[250, 150] = 9
    assert make_reference(compact, 256, photo).picture.shape == (96, 128, 3)


def test_nan_and_black_are_no_likeness(compact: Bundle) -> None:
    reference = make_reference(compact, 256)
    restored = reference.restored[None]
    exact = compare(lambda batch: restored, reference, "float32")
    assert exact == ParityResult(psnr=200.0, levels=0, passed=True)
    for spoil in (np.nan, 0.0):
        infer = partial(np.full_like, fill_value=spoil, shape=restored.shape)
        assert not compare(infer, reference, "float32").passed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "found no network"),
        (lambda path: path.write_text("an ordinary text"), "found no network|cannot read"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "cannot read"),
        (lambda path: path.unlink(), "cannot read"),
    ],
)
def test_graphs_that_are_none(
    compact: Bundle, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    graph, _ = typed_graph(compact, "uint8", "fp16", tmp_path)
    spoil(graph)
    trt = variants.load(variants.RTX)
    with pytest.raises(BuildError, match=message):
        builder.build(trt, graph, Profile(smallest=16, tile=64, batch=1), targets=("sm86",))


def test_what_tensorrt_says_is_in_the_error(compact: Bundle, tmp_path: Path) -> None:
    trt = variants.load(variants.RTX)
    graph, _ = typed_graph(compact, "uint8", "bf16", tmp_path)
    with pytest.raises(BuildError, match="Cannot compile for target"):
        builder.build(trt, graph, Profile(smallest=16, tile=64, batch=1), targets=("sm75",))
    with pytest.raises(BuildError, match="rejects the sizes"):
        builder.build(trt, graph, Profile(smallest=64, tile=16, batch=1), targets=("sm86",))


def test_a_cancelled_build_stops_and_stores_nothing(compact: Bundle, tmp_path: Path) -> None:
    trt = variants.load(variants.RTX)
    graph, _ = typed_graph(compact, "uint8", "fp16", tmp_path)
    cancel = builder.Cancel()
    cancel.asked = True
    with pytest.raises(KeyboardInterrupt):
        builder.build(
            trt, graph, Profile(smallest=16, tile=64, batch=1), targets=("sm86",), cancel=cancel
        )


def test_an_interrupt_while_the_build_is_started_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, cancel, log = threading.Thread.start, builder.Cancel(), list[str]()

    def start(thread: threading.Thread) -> None:
        own(thread)
        until(lambda: log)
        raise KeyboardInterrupt

    def work() -> bytes:
        log.append("begins")
        until(lambda: cancel.asked)
        log.append("ends")
        return b"engine"

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        builder.in_background(work, cancel, lambda line: None)
    assert log == ["begins", "ends"]


def test_a_second_interrupt_does_not_wait_for_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    own, cancel, log, end = threading.Event.wait, builder.Cancel(), list[str](), threading.Event()

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return own(event, timeout)

    def work() -> bytes:
        end.wait()
        return b"engine"

    def start(thread: threading.Thread) -> None:
        with monkeypatch.context() as usual:
            usual.setattr(threading.Event, "wait", own)
            begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Event, "wait", wait)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        builder.in_background(work, cancel, log.append)
    assert log == ["stopping: TensorRT can stop only between its steps"]
    end.set()


INTERRUPTED = """
import sys, time
from pathlib import Path
from dataclasses import replace
from resharp.engines.target import NAMED, Target
from resharp.export.engine import EngineOptions, build_engines, builder
from resharp.engines import Bundle
own, said = builder._monitor, []
def monitor(trt, report, cancel):
    made = own(trt, report, cancel)
    def stay(self, phase, step):  # TensorRT waits for the answer, in the middle of its work
        if not said:
            said.append(print("building", flush=True))
        while not cancel.asked:
            time.sleep(0.01)
        return False
    type(made).step_complete = stay
    return made
builder._monitor = monitor
bundle = replace(Bundle.open(Path(sys.argv[1])), engine_store_folder=Path(sys.argv[2]))
build_engines(bundle, Target(targets=NAMED), EngineOptions(variant="tensorrt_rtx"))
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_engine(
    tmp_path: Path, number: signal.Signals, compact: Bundle
) -> None:
    engines = tmp_path / "engines"
    script = ["-c", INTERRUPTED, str(compact.folder), str(engines)]
    with start(*script, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "building\n"
        os.kill(child.pid, number)
        _, errors = child.communicate(timeout=LIMIT)
    assert child.returncode == -number  # by the signal, and not by a crash
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert not list(engines.glob(".draft-*"))
    assert not list(engines.glob("*.engine"))
    assert not list(engines.glob("*.json"))


AT_ONCE = """
import sys
from dataclasses import replace
from pathlib import Path
from resharp.engines.target import NAMED, Target
from resharp.export.engine import EngineOptions, build_engines
from resharp.engines import Bundle
bundle = replace(Bundle.open(Path(sys.argv[1])), engine_store_folder=Path(sys.argv[2]))
options = EngineOptions(variant="tensorrt_rtx", dtypes=("uint8",))
def report(line):
    print(line, flush=True)
    if "Building" in line:
        sys.stdin.readline()
(built,) = build_engines(bundle, Target(targets=NAMED), options, log=report)
print("skipped", built.skipped)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_build_one_engine_once(tmp_path: Path, compact: Bundle) -> None:
    engines = tmp_path / "engines"
    command = ["-c", AT_ONCE, str(compact.folder), str(engines)]
    with start(*command) as first:
        assert first.stdout is not None
        assert any("Building engine" in line for line in first.stdout)  # and there it stays
        with start(*command) as second:
            assert second.stdout is not None
            assert any("another process is building" in line for line in second.stdout)
            built = first.communicate("\n", LIMIT)[0]
            waited = second.communicate(timeout=LIMIT)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "skipped False" in built
    assert "skipped True" in waited
    assert "Building engine" not in waited
    own = replace(compact, engine_store_folder=engines).engine_store
    (engine,), bad = own.engines()
    assert bad == ()
    own.verify(engine)
    assert not list(engines.glob(".draft-*"))


def test_the_tile_follows_the_memory(compact: Bundle) -> None:
    manifest = replace(compact.manifest, activation_bytes=16_384.0, overlap=10)
    assert choose_tile(manifest, 80 << 30) == 1024
    assert choose_tile(manifest, 8 << 30) == 512
    assert choose_tile(manifest, 1 << 20) == 128
    assert choose_tile(manifest, 0, asked=100) == 100
    with pytest.raises(OptionError, match="must be at least 64"):
        choose_tile(manifest, 0, asked=30)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int8"},
        {"batch": 0},
        {"optimization_level": 9},
        {"dtypes": ("int8",)},
        {"dtypes": ()},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        EngineOptions(**options)


def test_targets_that_make_no_sense() -> None:
    with pytest.raises(OptionError, match="cannot build for sm90"):
        Target(targets=("sm90",))
    for name in ("portable", "current"):
        with pytest.raises(OptionError, match=f"'{name}' cannot be combined"):
            Target(targets=(name, "sm86"))


def test_a_variant_that_is_not_there() -> None:
    with pytest.raises(OptionError, match="got 'tensorflow'"):
        variants.load("tensorflow")
    if variants.TENSORRT not in variants.installed():
        with pytest.raises(MissingExtraError, match=r"resharp\[gpu\]"):
            variants.pick(variants.TENSORRT)
