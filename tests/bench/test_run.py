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

from resharp import trt
from resharp.bench import cases
from resharp.bench.cases import Suite
from resharp.bench.records import ABSENT, DROPPED, FAILED, MEASURED, newest, read
from resharp.bench.run import Bench
from resharp.engines import Bundle
from tests.cli.commands import call

DATA = {
    "effort": {"pairs": 3, "most_pairs": 3, "seconds": 0, "limit": 0},
    "cases": [
        {"model": "compact", "subject": ["onnxruntime", "pytorch"], "size": [96, 120]},
        {"model": "compact", "subject": "onnx", "tile": [64, "auto"], "size": [96, 120]},
        {"model": "compact", "subject": "torch", "tile": "auto", "size": [96, 120]},
        {"model": "compact", "subject": "torch-eager", "tile": "auto", "size": [96, 120]},
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


def test_run_and_report(suite: Suite, store: Path) -> None:
    code, text = call("bench", "run", "--quick", "--engines", str(store))
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
    eager = by_id["compact/torch-eager/120x96/tile-auto"]
    assert eager.status == FAILED
    assert "no backend can run" in eager.reason
    if "tensorrt" not in trt.installed():
        engine = by_id["compact/tensorrt/120x96/tile-64"]
        assert engine.status == ABSENT
        assert "tensorrt" in engine.reason
    assert "nobody" in by_id["nobody/onnx/120x96/tile-auto"].reason
    assert found.run.seconds
    assert found.run.memory_check["host"]["error"] <= 0.05
    assert found.run.environment["cpu"]
    assert "the reasons" not in text
    assert "compact/torch-eager/120x96/tile-auto: failed: " in text
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, text = call("bench", "report")
    assert code == 0, text
    written = [Path(line) for line in text.splitlines()]
    assert written[0].name == "report.html"
    assert [path.suffix for path in written[1:]] == [".png"] * (len(written) - 1)
    assert len(written) >= 4


def test_what_disagrees_is_dropped_and_what_is_interrupted_is_kept(
    compact: Bundle, tmp_path: Path, suite: Suite
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

    def report(line: str) -> None:
        seen.append(line)
        if line == "compact/onnx/120x96/tile-auto":
            raise KeyboardInterrupt

    picked = [case for case in suite.cases if case.subject in ("onnxruntime", "onnx")]
    with pytest.raises(KeyboardInterrupt):
        Bench(suite, picked, out, tmp_path / "store", report).run()
    found = read(out)
    assert found.run.seconds is None
    status = {r.case.subject: r.status for r in found.cases if not r.twin}
    assert status["onnxruntime"] == DROPPED
    assert status["onnx"] == DROPPED
    dropped = next(r for r in found.cases if r.status == DROPPED)
    assert dropped.parity is not None
    assert not dropped.parity.passed
    assert "dB from torch fp32" in dropped.reason


PLANT = """
import importlib.abc, importlib.util, os, sys, time
sys.modules["torch"] = None  # onnxruntime makes the reference, which is quicker

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "resharp.runtime.backends.base":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        own = spec.loader.exec_module
        def load(module):
            own(module)
            paste = module.paste
            def slow(*args):
                time.sleep(float(os.environ["SECONDS"]))
                paste(*args)
            module.paste = slow
        spec.loader.exec_module = load
        return spec

sys.meta_path.insert(0, Finder())
"""


def test_a_planted_regression_is_caught(tmp_path: Path, compact: Bundle) -> None:
    """A sleep in the tile loop, in every process of the run.

    A large one, so that a short run on a busy machine shows it: ``benchmarks/regression.py`` is
    about 15 %.
    """
    (tmp_path / "sitecustomize.py").write_text(PLANT)
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    script = (
        "import sys; from pathlib import Path; from resharp.bench import cases, run\n"
        "effort = cases.Effort(pairs=3, most_pairs=3, seconds=0, limit=0)\n"
        "made = [cases.Case(model='resharp-x4', subject=s, height=72, width=80, tile=t)\n"
        "        for s, t in (('onnxruntime', 'auto'), ('onnx', 64))]\n"
        "suite = cases.Suite(name='tiny', cases=tuple(made), effort=effort, stand_ins={})\n"
        "run.Bench(suite, made, Path(sys.argv[1])).run()\n"
    )
    for path, seconds in ((old, "0"), (new, "0.1")):
        places = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        own = {**os.environ, "PYTHONPATH": places, "SECONDS": seconds}
        subprocess.run([sys.executable, "-c", script, str(path)], env=own, check=True)
    code, text = call("bench", "compare", str(old), str(new))
    assert code == 1, text
    assert "slower" in text
    assert call("bench", "compare", str(new), str(old))[0] == 0


def test_without_a_baseline_a_case_is_timed_alone(
    compact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['openvino'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shutil.copytree(compact.folder, tmp_path / "store" / "compact")
    data = {
        "effort": {"pairs": 2, "most_pairs": 2, "seconds": 0, "limit": 0},
        "cases": [{"model": "compact", "subject": ["openvino", "onnx"], "size": [40, 40]}],
    }
    suite = cases.parse("one", data)
    found = Bench(suite, suite.cases, tmp_path / "run.jsonl", tmp_path / "store").run()
    absent, alone = found.cases
    assert absent.status == ABSENT
    assert "pip install 'openvino'" in absent.reason
    assert alone.status == MEASURED
    assert alone.seconds is not None
    assert len(alone.seconds.values) == 2
    assert (alone.baseline, alone.ratio, alone.noise) == (None, None, None)
    assert read(tmp_path / "run.jsonl") == found


def test_the_command_refuses_what_is_not_there(store: Path) -> None:
    for options, text in (
        (["--suite", "huge"], "no suite 'huge'"),
        (["--quick", "--suite", "cpu"], "leave --suite out"),
        (["--quick", "--backends", "cuda"], "'cuda' is not in the suite"),
    ):
        code, said = call("bench", "run", *options)
        assert code == 1
        assert text in said
    code, said = call("bench", "report")
    assert code == 1
    assert "resharp bench run --quick" in said


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_leaves_whole_records_and_no_process(tmp_path: Path) -> None:
    script = "from resharp.cli import main; main()"
    out = tmp_path / "run.jsonl"
    command = [sys.executable, "-c", script, "bench", "run", "--quick", "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "the exact result" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(30) == 130
    assert f"stopped: what was measured so far is in {out}" in rest
    assert read(out).run.seconds is None
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    process.stderr.close()
