"""A whole run, small: statuses, parity, pairs, and that the file is whole at any time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from resharp.bench import cases
from resharp.bench.benchmark import Benchmark
from resharp.bench.cases import Suite
from resharp.bench.implementations import Image
from resharp.bench.implementations.resharp_backends import ResharpBackend
from resharp.bench.records import ABSENT, DROPPED, FAILED, MEASURED, Records, newest, read
from resharp.engines import Bundle
from resharp.gpu import tensorrt as trt
from tests.bench.fake_machine import Machine
from tests.cli.commands import call
from tests.waiting import LIMIT

DATA = {
    "effort": {"pairs": 3, "most_pairs": 3, "seconds": 0, "limit": 0},
    "cases": [
        {"model": "compact", "subject": ["onnxruntime", "pytorch"], "size": [96, 120]},
        {"model": "compact", "subject": "onnx", "tile": [64, "auto"], "size": [96, 120]},
        {"model": "compact", "subject": "torch", "tile": "auto", "size": [96, 120]},
        {"model": "compact", "subject": "onnx-cuda", "tile": "auto", "size": [96, 120]},
        {"model": "compact", "subject": "tensorrt", "tile": 64, "size": [96, 120]},
        {"model": "nobody", "subject": "onnx", "size": [96, 120]},
    ],
}


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Suite:
    small = cases.parse("quick", DATA)
    monkeypatch.setattr(cases, "load", lambda name: small)
    return small


@pytest.fixture
def store(compact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(compact.folder, tmp_path / "store" / "compact")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESHARP_OFFLINE", "1")
    return tmp_path / "store"


@pytest.mark.slow
def test_run_and_report(suite: Suite, store: Path) -> None:
    code, text = call("bench", "run", "--quick", "--store", str(store))
    assert code == 0, text
    found = read(newest(Path("resharp-bench")))
    by_id = {record.case.id: record for record in found.cases if not record.twin}
    assert set(by_id) == {case.id for case in suite.cases}
    measured = found.measured()
    subjects = sorted(record.case.subject for record in measured)
    assert subjects == ["onnx", "onnx", "onnxruntime", "pytorch", "torch"]
    for record in measured:
        assert record.parity is not None
        assert record.parity.passed
        assert record.parity.levels <= 1
        assert record.rates is not None
        assert record.rates.flops
        assert record.rates.matrix_share
        assert record.memory is not None
        assert record.memory.host
    by_subject = {record.case.subject: record for record in measured}
    assert by_subject["torch"].kin == "pytorch"
    assert by_subject["onnx"].kin == "onnxruntime"
    assert {r.baseline for r in measured} == {"onnxruntime", None}
    assert by_subject["onnxruntime"].ratio is None
    base = by_subject["onnxruntime"]
    assert base.seconds is not None
    for record in measured:
        if record.ratio is not None and record.rates is not None:
            pace = record.ratio.median / base.seconds.median
            assert record.rates.frames == pytest.approx(pace)
            assert record.rates.input_megapixels == pytest.approx(pace * 96 * 120 / 1e6)
    (twin,) = found.twins()
    assert twin.ratio is not None
    assert twin.noise is not None
    assert abs(twin.ratio.median - 1) <= twin.noise + 1e-9
    tiled = by_id["compact/onnx/120x96/tile-64"]
    assert tiled.actual is not None
    assert tiled.actual.windows == 6
    assert tiled.stages is not None
    assert tiled.stages.compute
    refused = by_id["compact/onnx-cuda/120x96/tile-auto"]
    assert refused.status == FAILED
    assert "cannot be run as requested" in refused.reason
    if "tensorrt" not in trt.installed():
        engine = by_id["compact/tensorrt/120x96/tile-64"]
        assert engine.status == ABSENT
        assert "tensorrt" in engine.reason
    assert "nobody" in by_id["nobody/onnx/120x96/tile-auto"].reason
    assert found.run.seconds
    # Counts the pages of a process that does nothing else, so a busy machine does not matter.
    assert found.run.memory_check["host"]["error"] <= 0.05
    assert found.run.environment["cpu"]
    assert "the reasons" not in text
    assert "compact/onnx-cuda/120x96/tile-auto: failed: " in text
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, text = call("bench", "report")
    assert code == 0, text
    written = [Path(line) for line in text.splitlines()]
    assert written[0].name == "report.html"
    assert [path.suffix for path in written[1:]] == [".png"] * (len(written) - 1)
    assert len(written) >= 4


def test_what_disagrees_is_dropped_and_what_is_interrupted_is_kept(
    compact: Bundle, tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are given the weights of another network; the reference reads the true ones."""
    folder = tmp_path / "store" / "compact"
    shutil.copytree(compact.folder, folder)
    data = json.loads((folder / "manifest.json").read_text())
    weights = folder / data["weights"]["name"]
    changed = bytearray(weights.read_bytes())
    changed[-400:] = bytes(400)  # the last layer's, all zero
    other = folder / "other.safetensors"
    shutil.copy(weights, other)
    weights.write_bytes(changed)
    data["weights"] = asdict(compact.manifest.weights) | {"name": other.name}
    (folder / "manifest.json").write_text(json.dumps(data))
    out, seen = tmp_path / "run.jsonl", list[str]()
    machine = Machine({"": 0.1})
    machine.install(monkeypatch)

    def report(line: str) -> None:
        seen.append(line)
        if line == "compact/onnx/120x96/tile-auto":
            raise KeyboardInterrupt

    picked = [case for case in suite.cases if case.subject in ("onnxruntime", "onnx")]
    with pytest.raises(KeyboardInterrupt):
        Benchmark(suite, picked, out, tmp_path / "store", report).run()
    found = read(out)
    assert found.run.seconds is None
    status = {r.case.subject: r.status for r in found.cases if not r.twin}
    assert status["onnxruntime"] == DROPPED
    assert status["onnx"] == DROPPED
    dropped = next(r for r in found.cases if r.status == DROPPED)
    assert dropped.parity is not None
    assert not dropped.parity.passed
    assert "against torch fp32" in dropped.reason
    assert not machine.left_open()


def run_of(store: Path, folder: Path, *subjects: str) -> Records:
    """A short run of subjects, recorded in the folder."""
    data = {
        "effort": {"pairs": 2, "most_pairs": 2, "seconds": 0, "limit": 0},
        "cases": [{"model": "compact", "subject": [*subjects], "size": [40, 40]}],
    }
    suite = cases.parse("one", data)
    return Benchmark(suite, suite.cases, folder / "run.jsonl", store).run()


def test_without_a_baseline_a_case_is_timed_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    machine = Machine({"onnx/40x40/tile-auto": 0.25})
    machine.install(monkeypatch)
    found = run_of(store, tmp_path, "openvino", "onnx")
    absent, alone = found.cases
    assert absent.status == ABSENT
    assert "pip install 'openvino'" in absent.reason
    assert alone.status == MEASURED
    assert alone.seconds is not None
    assert alone.seconds.values == (0.25, 0.25)
    assert (alone.baseline, alone.ratio, alone.noise) == (None, None, None)
    assert read(tmp_path / "run.jsonl") == found
    assert not machine.left_open()


def test_a_record_tells_what_a_backend_learned_in_its_first_runs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where CUDA graphs fail, which are recorded when a shape comes again."""
    run = ResharpBackend.__call__

    def failing(self: ResharpBackend, image: Image) -> Image:
        self._upscaler._backend.note = "without CUDA graphs (a synchronization)"
        return run(self, image)

    monkeypatch.setattr(ResharpBackend, "__call__", failing)
    machine = Machine({"": 0.25})
    machine.install(monkeypatch)
    found = run_of(store, tmp_path, "onnxruntime", "onnx")
    notes = {record.case.subject: record.actual.note for record in found.cases if record.actual}
    assert notes == {"onnxruntime": "", "onnx": "without CUDA graphs (a synchronization)"}
    assert read(tmp_path / "run.jsonl") == found


def test_the_command_runs_a_suite_of_a_file(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine({"": 0.25}).install(monkeypatch)
    case = {"model": "compact", "subject": "onnx", "size": [40, 40]}
    Path("small.json").write_text(json.dumps({"effort": DATA["effort"], "cases": [case]}))
    out = tmp_path / "run.jsonl"
    options = ["--suite", "small.json", "--store", str(store), "-o", str(out)]
    code, text = call("bench", "run", *options)
    assert code == 0, text
    found = read(out)
    assert found.run.suite == "small"
    assert [record.case.id for record in found.measured()] == ["compact/onnx/40x40/tile-auto"]


def test_the_command_refuses_what_is_not_there(store: Path) -> None:
    for options, text in (
        (["--suite", "huge"], "unknown suite 'huge'"),
        (["--suite", "huge.json"], "cannot read suite huge.json: No such file"),
        (["--quick", "--suite", "cpu"], "leave out --suite"),
        (["--quick", "--backends", "cuda"], "'cuda' is not in suite 'quick'"),
    ):
        code, said = call("bench", "run", *options)
        assert code == 1
        assert text in said
    code, said = call("bench", "report")
    assert code == 1
    assert "run 'resharp bench run' with" in said


def test_a_variable_that_makes_no_sense_ends_a_run_before_it_begins(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESHARP_BENCH_PATIENCE", "soon")
    case = {"model": "nobody", "subject": "onnx", "size": [96, 120]}
    nobody = cases.parse("quick", {"effort": DATA["effort"], "cases": [case]})
    monkeypatch.setattr(cases, "load", lambda name: nobody)
    code, said = call("bench", "run", "--quick", "-o", str(tmp_path / "run.jsonl"))
    assert code == 1
    assert "RESHARP_BENCH_PATIENCE must be a number of seconds above 0, got 'soon'" in said
    assert not (tmp_path / "run.jsonl").exists()


HELD = """
import json, sys, threading
from resharp.bench import cases, worker_process
from resharp.cli import main

small = cases.parse("quick", json.loads(sys.argv.pop(1)))
cases.load = lambda name: small
request = worker_process.WorkerProcess.request

def held(self, do, **options):
    if do in ("rates", "memory_check"):  # slow and irrelevant here
        return {}
    found = request(self, do, **options)
    if do == "memory":  # the twin has been measured; the baseline is stopped until its next turn
        print("held with", self.pid, file=sys.stderr, flush=True)
        threading.Event().wait()
    return found

worker_process.WorkerProcess.request = held
main()
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.usefixtures("without_torch")
def test_ctrl_c_leaves_whole_records_and_no_process(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    sizes = {"subject": ["onnxruntime", "onnx"], "size": [40, 40]}
    data = {"effort": DATA["effort"], "cases": [{"model": "compact", **sizes}]}
    command = [sys.executable, "-c", HELD, json.dumps(data), "bench", "run", "--quick"]
    command += ["--store", str(store), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        lines = list[str]()
        while not (lines and lines[-1].startswith("held with")):
            line = process.stderr.readline()
            assert line, f"it ended early: {lines}"
            lines.append(line)
        os.kill(int(lines[-1].split()[-1]), 0)  # a worker is there
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=LIMIT)  # it had written nothing more
        assert process.returncode == 130
        assert f"Interrupted. Finished measurements are in {out}" in rest
        assert read(out).run.seconds is None
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()


def test_a_file_of_others_is_no_place_for_records(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"mine")
    code, text = call("bench", "run", "--quick", "-o", str(photo))
    assert code == 1
    assert "is no file of records, so it is not replaced: choose another --output" in text
    assert photo.read_bytes() == b"mine"
