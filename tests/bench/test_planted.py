"""A planted regression, through the whole instrument but with made-up times.

``benchmarks/regression.py`` plants a real one and measures it.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from resharp.bench.benchmark import Benchmark
from resharp.bench.cases import Budget, Case, Suite
from resharp.bench.compare import SAME, THRESHOLD
from resharp.bench.records import Records, read
from resharp.engines import Bundle
from resharp.types import Tile
from tests.bench.fake_machine import Machine
from tests.cli.commands import call

SECONDS = {
    "onnxruntime/56x48": 0.050,
    "pytorch/56x48": 0.080,
    "onnx/56x48/tile-32": 0.055,
    "onnx/56x48/tile-auto": 0.047,
    "torch/56x48/tile-auto": 0.072,
}
SLOW = "onnx/56x48/tile-32"
PLANTED = {**SECONDS, SLOW: 1.15 * SECONDS[SLOW]}
JITTER, DRIFT = 0.02, 0.3
REPEATS = 3
TILES: tuple[tuple[str, Tile], ...] = (
    *(("onnxruntime", "auto"), ("pytorch", "auto")),
    *(("onnx", 32), ("onnx", "auto"), ("torch", "auto")),
)
SUITE = Suite(
    name="tiny",
    cases=tuple(
        Case(model="compact", subject=subject, height=48, width=56, tile=tile)
        for subject, tile in TILES
    ),
    budget=Budget(pairs=9, most_pairs=25, seconds=6.0, limit=20.0, sittings=REPEATS),
    stand_ins={},
)


@pytest.fixture
def store(compact: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(compact.folder, tmp_path / "store" / "compact")
    return tmp_path / "store"


def measured(
    store: Path, name: str, seconds: Mapping[str, float], seed: int, jitter: float = JITTER
) -> Path:
    """The records of a run on a machine with these times."""
    machine, path = Machine(seconds, jitter, seed, DRIFT), store.parent / name
    with pytest.MonkeyPatch.context() as patch:
        machine.install(patch)
        Benchmark(SUITE, SUITE.cases, path, store).run()
    assert not machine.left_open()
    return path


def changes(old: Path, new: Path) -> dict[str, dict[str, Any]]:
    """Of each case, as ``bench compare --json`` prints them."""
    _, text = call("bench", "compare", str(old), str(new), "--json")
    data = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return {change["id"]: change for change in data["changes"]}


@pytest.mark.slow
def test_a_planted_regression_is_caught(store: Path) -> None:
    old = measured(store, "old.jsonl", SECONDS, seed=1)
    new = measured(store, "new.jsonl", PLANTED, seed=2)
    code, text = call("bench", "compare", str(old), str(new))
    assert code == 1, text
    assert "slower" in text
    assert text.splitlines()[-2].endswith(f"worse than {old}: compact/{SLOW}")
    code, text = call("bench", "compare", str(new), str(old))
    assert code == 0, text
    assert "faster" in text
    change = changes(old, new)[f"compact/{SLOW}"]
    assert change["ratio"] == pytest.approx(1 / 1.15, rel=change["noise"])


@pytest.mark.slow
def test_runs_of_one_speed_are_the_same(store: Path) -> None:
    runs = [measured(store, f"{seed}.jsonl", SECONDS, seed) for seed in range(3, 6)]
    for old, new in itertools.permutations(runs, 2):
        code, text = call("bench", "compare", str(old), str(new))
        assert code == 0, text
        assert {change["verdict"] for change in changes(old, new).values()} == {SAME}


@pytest.mark.slow
def test_a_change_within_a_large_noise_is_not_flagged(store: Path) -> None:
    old = measured(store, "old.jsonl", SECONDS, seed=1, jitter=0.2)
    found = []
    for seed in range(2, 5):
        new = measured(store, "new.jsonl", PLANTED, seed, jitter=0.2)
        code, text = call("bench", "compare", str(old), str(new))
        assert code == 0, text
        found.append(changes(old, new)[f"compact/{SLOW}"])
    assert {change["verdict"] for change in found} == {SAME}
    beyond = [change for change in found if change["ratio"] < 1 / (1 + THRESHOLD)]
    assert beyond, "the threshold decided, and not the noise"


def ratios(records: Records) -> dict[str, tuple[str | None, float]]:
    """Return the partner of each case and its speed relative to it."""
    return {
        record.case.id: (record.kin, record.kin_ratio.median)
        for record in records.measured()
        if record.kin_ratio is not None
    }


@pytest.mark.slow
def test_a_machine_that_drifts_leaves_the_ratios_exact(store: Path) -> None:
    """Only the drift is left: it is within a turn of being the same for both of a pair."""
    found = read(measured(store, "run.jsonl", SECONDS, seed=0, jitter=0.0))
    base, paired = SECONDS["onnxruntime/56x48"], SECONDS["pytorch/56x48"]
    wanted = {
        "compact/pytorch/56x48": ("onnxruntime", base / paired),
        "compact/onnx/56x48/tile-32": ("onnxruntime", base / SECONDS["onnx/56x48/tile-32"]),
        "compact/onnx/56x48/tile-auto": ("onnxruntime", base / SECONDS["onnx/56x48/tile-auto"]),
        "compact/torch/56x48/tile-auto": ("pytorch", paired / SECONDS["torch/56x48/tile-auto"]),
    }
    got = ratios(found)
    assert {name: partner for name, (partner, _) in got.items()} == {
        name: partner for name, (partner, _) in wanted.items()
    }
    for name, (_, ratio) in got.items():
        assert ratio == pytest.approx(wanted[name][1], rel=0.01)
    (whole,) = [record.seconds for record in found.measured() if record.kin is None]
    assert whole is not None  # the baseline, which was measured throughout
    assert max(whole.values) / min(whole.values) > 1.2
    (twin,) = found.twins()
    assert twin.noise is not None
    assert 0 < twin.noise < 0.01


def test_each_repeat_has_processes_of_its_own(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(SECONDS)
    machine.install(monkeypatch)
    found = Benchmark(SUITE, SUITE.cases, tmp_path / "run.jsonl", store).run()
    assert len(found.measured()) == len(SUITE.cases)
    once = 1 + 1 + 1 + 1  # the machine, the exact result, the baseline, PyTorch's baseline
    assert len(machine.made) == once + REPEATS * (
        1 + 1 + 1 + 2
    )  # twin, onnx, onnx, torch and its paired baseline
    opened = [one.asked for one in machine.made if "open" in one.asked]
    for asked in opened:  # it agrees before it is timed, and is suspended after each turn
        assert asked[:4] == ["open", "check", "warm", "warm"]
        assert asked[4] == "suspend"
        assert all(next_ == "suspend" for one, next_ in itertools.pairwise(asked) if one == "time")
    assert not machine.left_open()
