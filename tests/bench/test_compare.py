"""Which changes count as regressions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.bench.compare import FASTER, LOST, MORE_MEMORY, SAME, SLOWER, compare
from resharp.bench.records import ABSENT, DROPPED, Estimate, Record, Records
from resharp.errors import OptionError
from tests.bench.kit import record, run
from tests.cli.commands import call


def made(speed: float = 1.0, noise: float = 0.02, **options: object) -> Record:
    """A case with a speed against its paired baseline."""
    ratio = Estimate(median=speed, low=speed * (1 - noise), high=speed * (1 + noise))
    one = record("onnx", gpu=False, **options)  # type: ignore[arg-type]
    return replace(one, kin="onnxruntime", kin_ratio=ratio, noise=noise)


def records(*cases: Record) -> Records:
    return Records(run(), cases)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 0.5)), min_size=1, max_size=9),
    st.floats(0, 0.5),
)
def test_a_run_against_itself_is_never_flagged(
    speeds: list[tuple[float, float]], threshold: float
) -> None:
    own = records(*(made(s, n, tile=32 * i + 32) for i, (s, n) in enumerate(speeds)))
    found = compare(own, own, threshold)
    assert not found.regressions
    assert {change.verdict for change in found.changes} == {SAME}


@pytest.mark.parametrize(
    ("speed", "noise", "threshold", "verdict"),
    [
        (1 / 1.15, 0.02, 0.08, SLOWER),
        (1.15, 0.02, 0.08, FASTER),
        (1 / 1.15, 0.12, 0.08, SAME),  # within the noise of the two: 17 %
        (1 / 1.15, 0.02, 0.20, SAME),  # within the threshold
        (1 / 1.07, 0.01, 0.08, SAME),
        (1 / 1.09, 0.01, 0.08, SLOWER),
    ],
)
def test_a_change_counts_beyond_noise_and_threshold(
    speed: float, noise: float, threshold: float, verdict: str
) -> None:
    found = compare(records(made(1.0, noise)), records(made(speed, noise)), threshold)
    (change,) = found.changes
    assert change.verdict == verdict
    assert bool(found.regressions) == (verdict == SLOWER)


def test_a_machine_that_slows_both_changes_nothing() -> None:
    slow = made()
    assert slow.seconds is not None
    slow = replace(slow, seconds=replace(slow.seconds, median=9 * slow.seconds.median))
    assert not compare(records(made()), records(slow)).regressions


def test_a_case_that_is_lost_is_a_regression_and_an_absent_library_is_none() -> None:
    gone = replace(made(), status=DROPPED, reason="20 dB off", kin_ratio=None)
    (change,) = compare(records(made()), records(gone)).changes
    assert (change.verdict, change.regressed) == (LOST, True)
    assert "20 dB off" in change.note
    absent = replace(gone, status=ABSENT)
    assert not compare(records(made(), made(tile=64)), records(absent, made(tile=64))).regressions


def test_more_memory_is_a_regression() -> None:
    one = made()
    assert one.memory is not None
    more = replace(one, memory=replace(one.memory, host=int((one.memory.host or 0) * 1.3)))
    (change,) = compare(records(one), records(more)).changes
    assert change.verdict == MORE_MEMORY
    assert "host memory" in change.note
    little = replace(one, memory=replace(one.memory, host=(one.memory.host or 0) + 2**20))
    assert not compare(records(one), records(little)).regressions


def test_a_baselines_change_is_not_ours() -> None:
    own = replace(record("openvino", gpu=False), kin="onnxruntime", noise=0.01)
    fast = replace(own, kin_ratio=Estimate(median=1.3, low=1.3, high=1.3))
    slow = replace(own, kin_ratio=Estimate(median=1.0, low=1.0, high=1.0))
    (change,) = compare(records(fast), records(slow)).changes
    assert change.verdict == SLOWER
    assert not change.regressed


def test_what_took_no_turns_is_compared_by_the_clock() -> None:
    one = replace(made(), kin=None, kin_ratio=None)
    assert one.seconds is not None
    seconds = one.seconds
    later = Estimate(median=2 * seconds.median, low=2 * seconds.low, high=2 * seconds.high)
    (change,) = compare(records(one), records(replace(one, seconds=later))).changes
    assert change.verdict == SLOWER
    assert "absolute time" in change.note


def test_what_makes_runs_hard_to_compare_is_said() -> None:
    other = Records(run(environment={"cpu": "Another"}, seconds=None), (made(), made(tile=64)))
    found = compare(records(made()), other)
    assert any("different processor" in text for text in found.warnings)
    assert any("incomplete" in text for text in found.warnings)
    assert found.only == {"old": 0, "new": 1}
    with pytest.raises(OptionError, match="no measured case in common"):
        compare(records(made()), records(made(tile=64)))


def test_the_command_and_its_exit_code(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    records(made()).write(old)
    records(made(1 / 1.15)).write(new)
    code, text = call("bench", "compare", str(old), str(old))
    assert code == 0
    assert "same" in text
    code, text = call("bench", "compare", str(old), str(new))
    assert code == 1
    assert "slower" in text
    assert "worse than" in text
    assert call("bench", "compare", str(old), str(new), "--threshold", "0.2")[0] == 0
    code, text = call("bench", "compare", str(old), str(new), "--json")
    assert code == 1
    assert '"regressed": true' in text
    code, text = call("bench", "compare", str(old), str(tmp_path / "none.jsonl"))
    assert code == 1
    assert "cannot read" in text
