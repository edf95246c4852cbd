"""Performance targets on a GPU, checked on made-up records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from benchmarks.gpu import bars
from resharp.bench import cases
from resharp.bench.records import Estimate, Record, Records, StageTimes
from tests.bench.kit import record, run

RATE = 1e15
RRDBNET = "rrdbnet-23-random"


def made(speed: float, *, over: float, model: str = RRDBNET, share: float = 0.5) -> Record:
    """A case with a speed against the script, and over the network's own time."""
    one = record("torch", model=model)
    assert one.seconds is not None
    assert one.rates is not None
    device = one.seconds.median / over
    return replace(
        one,
        ratio=Estimate(median=speed, low=speed, high=speed),
        stages=StageTimes(compute=device),
        rates=replace(one.rates, flops=share * RATE * device * one.rates.frames),
    )


def told(*found: Record) -> list[str]:
    records = Records(replace(run(), matrix_rate={"cuda fp16": RATE}), found)
    return [str(bar) for bar in bars.bars(records)]


def test_promises_that_are_kept_and_missed() -> None:
    kept = told(made(1.7, over=1.05), made(1.2, over=1.3))  # the best setting counts
    assert kept == [
        f"{RRDBNET}, torch: speed relative to upstream: met (1.7, at least 1.5)",
        (
            f"{RRDBNET}, torch: time of a single image relative to the network alone: "
            "met (1.05, at most 1.1)"
        ),
        (
            f"{RRDBNET}, torch: fraction of the matrix rate while the network runs: "
            "met (0.5, at least 0.4)"
        ),
    ]
    missed = told(made(1.4, over=1.2, share=0.3))
    assert [": MISSED (" in line for line in missed] == [True] * 3
    compact = told(made(2.9, over=1.0, model="srvgg-16x64-random"))
    assert [line.split(": ")[2].split(" ")[0] for line in compact] == ["MISSED", "met"]


def test_what_was_not_measured_is_said() -> None:
    unknown = replace(made(2.0, over=1.0), stages=None, ratio=None)
    assert told(unknown) == [
        f"{RRDBNET}, torch: speed relative to upstream: not measured",
        f"{RRDBNET}, torch: time of a single image relative to the network alone: not measured",
        f"{RRDBNET}, torch: fraction of the matrix rate while the network runs: not measured",
    ]


def test_the_promises_are_about_the_suites_models() -> None:
    models = {case.model for case in cases.load("gpu").cases}
    assert set(bars.AHEAD) <= models
    assert set(bars.LEAST_SHARE) <= models


def test_a_run_without_a_gpu_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Records(run(), (record("onnx", gpu=False),)).write(path)
    done = CliRunner().invoke(bars.main, [str(path)])
    assert done.exit_code == 1
    assert "resharp bench run --suite gpu" in done.output
    Records(run(), (made(2.0, over=1.0),)).write(path)
    done = CliRunner().invoke(bars.main, [str(path), "--json", str(tmp_path / "bars.json")])
    assert done.exit_code == 0
    assert "speed relative to upstream: met" in done.output
    assert (tmp_path / "bars.json").is_file()
