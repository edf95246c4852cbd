"""The check of a GPU without one: its runner with made-up stages, and the stand-in for TensorRT."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import runner as runner_module
from benchmarks.gpu import stages as stages_module
from benchmarks.gpu import weights
from benchmarks.gpu.__main__ import RECORDS, _card
from benchmarks.gpu.checks import Checks, Skip
from benchmarks.gpu.runner import (
    ABSENT,
    ARCHIVE,
    FAILED,
    LOG,
    OK,
    SKIPPED,
    STAGES,
    TIMED_OUT,
    Runner,
    Stage,
)
from benchmarks.gpu.stages import ROOT, Setting, cases_agree, some_ran, stages
from tests.fakes import fake_cuda, standin
from tests.held import start
from tests.waiting import LIMIT, until

MOST_FILES, MOST_SECONDS = 8, 360.0
WAIT = "import time\nwhile True: time.sleep(0.01)"


def stage(name: str, code: str, **options: Any) -> Stage:
    """A stage that runs a script."""
    values: dict[str, Any] = {"estimate": 1, "bound": LIMIT, **options}
    return Stage(name=name, command=[sys.executable, "-c", code], **values)


def run(scratch: Path, *made: Stage, minutes: float = 60, **options: Any) -> bool:
    """Run stages; whether all is well."""
    told: list[str] = []
    runner = Runner(scratch / "out", minutes, scratch, report=told.append, **options)
    good = runner.run(made)
    assert told[-1].startswith("stage ")
    return good


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ended(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of the ends, by stage."""
    found = lines(folder / "out" / STAGES)
    return {one["stage"]: one for one in found if one["event"] == "end"}


def archived(folder: Path) -> dict[str, bytes]:
    """Everything in the archive."""
    with tarfile.open(folder / "out" / ARCHIVE) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def alive(pid: int) -> bool:
    """Whether a process does anything still."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_stage_may_end_as_it_likes_and_the_next_one_runs(tmp_path: Path) -> None:
    garbage = "import os, sys; sys.stdout.buffer.write(bytes(range(256)) * 40)"
    killed = "import os, signal; print('first'); os.kill(os.getpid(), signal.SIGSEGV)"
    absent = Stage(name="missing", command=["/no/such/program"], estimate=1, bound=9)
    good = run(
        tmp_path,
        stage("fails", "print('so it is'); raise SystemExit(3)"),
        stage("killed", killed),
        stage("garbage", garbage),
        absent,
        stage("left", "print('never')", absent="there is none"),
        stage("wrong", "pass", judge=lambda: "it is no good"),
        stage("unread", "pass", judge=lambda: str(1 / 0)),
        stage("fine", "open('keep/x.txt', 'w').close()", judge=lambda: ""),
        folder=tmp_path,
    )
    found = ended(tmp_path)
    statuses = {name: (one["status"], one["code"]) for name, one in found.items()}
    assert statuses == {
        "fails": (FAILED, 3),
        "killed": (FAILED, -signal.SIGSEGV),
        "garbage": (OK, 0),
        "missing": (FAILED, None),
        "left": (ABSENT, None),
        "wrong": (FAILED, 0),
        "unread": (FAILED, 0),
        "fine": (OK, 0),
    }
    assert not good
    assert found["fails"]["reason"] == "exit code 3"
    assert found["fails"]["tail"].strip() == "so it is"
    assert found["killed"]["reason"] == "killed by SIGSEGV"
    assert "No such file" in found["missing"]["reason"]
    assert found["wrong"]["reason"] == "it is no good"
    assert "ZeroDivisionError" in found["unread"]["reason"]
    assert set(archived(tmp_path)) == {STAGES, LOG, "x.txt"}
    assert bytes(range(256)) in archived(tmp_path)[LOG]
    assert archived(tmp_path)[STAGES] == (tmp_path / "out" / STAGES).read_bytes()


def test_only_what_cannot_be_here_may_be_left_out(tmp_path: Path) -> None:
    fine, absent = stage("fine", "pass"), stage("left", "pass", absent="there is none")
    assert run(tmp_path / "1", fine, absent)
    assert not run(tmp_path / "2", fine, stage("long", "pass", least=9e9))
    assert ended(tmp_path / "2")["long"]["status"] == SKIPPED


@pytest.mark.processes
def test_a_stage_that_hangs_is_ended_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    part = f"{ready}.part"
    write = f"with open({part!r}, 'w') as file: file.write(str(os.getpid()))"
    begin = f"exec({write!r}); os.rename({part!r}, {str(ready)!r})"
    deaf = f"import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{begin}\n{WAIT}"
    hears = (
        f"import os, time\ntry:\n {begin}\n while True: time.sleep(0.01)\nfinally: print('kept')"
    )
    for number, code in enumerate((deaf, hears)):
        ready.unlink(missing_ok=True)
        folder = tmp_path / str(number)

        def clock() -> float:
            return 100.0 if ready.exists() else 0.0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner_module, "GRACE", 0.2 if code == deaf else LIMIT)
            good = run(folder, stage("hangs", code, bound=50), stage("next", ""), clock=clock)
        found = ended(folder)
        assert not good
        assert found["hangs"]["status"] == TIMED_OUT
        assert found["hangs"]["reason"] == "stopped after 100 s: stage timeout"
        assert found["next"]["status"] == OK
        assert not alive(int(ready.read_text()))
        if code == hears:
            assert "kept" in found["hangs"]["tail"]


@pytest.mark.processes
def test_where_no_time_is_left_the_rest_is_left_out(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"open({str(ready)!r}, 'w').close()\n{WAIT}"

    def clock() -> float:
        return 340.0 if ready.exists() else 0.0

    made = [stage("first", code, bound=330), stage("large", "", least=30), stage("small", "")]
    good = run(tmp_path, *made, minutes=6, clock=clock)
    found = ended(tmp_path)
    assert not good
    assert found["first"]["status"] == TIMED_OUT
    assert found["large"]["status"] == SKIPPED
    assert found["large"]["reason"] == "needs at least 30 s, but only 16 s are left"
    assert found["small"]["status"] == OK

    ready.unlink()
    good = run(tmp_path, stage("first", code, bound=9e9), minutes=5, clock=clock)
    assert ended(tmp_path)["first"]["reason"] == "stopped after 340 s: end of the run"
    assert not good


@pytest.mark.processes
def test_a_stage_that_prints_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "MOST_OUTPUT", 1 << 20)
    run(tmp_path, stage("talks", "while True: print('x' * 1000)"), stage("next", ""))
    found = ended(tmp_path)
    assert (found["talks"]["status"], found["next"]["status"]) == (FAILED, OK)
    assert found["talks"]["reason"] == "printed more than 1 MiB"


@pytest.mark.processes
def test_a_stage_of_the_background_is_waited_for_where_it_is_needed(tmp_path: Path) -> None:
    fifo, made = tmp_path / "fifo", tmp_path / "made"
    os.mkfifo(fifo)
    slow = f"open({str(fifo)!r}).read(); open({str(made)!r}, 'w').close(); print('behind')"
    good = run(
        tmp_path,
        stage("slow", slow, background=True),
        stage("meanwhile", f"open({str(fifo)!r}, 'w').close()"),
        stage("needs", f"open({str(made)!r})", after=["slow"]),
        stage("last", "raise SystemExit(1)", background=True),
    )
    found = ended(tmp_path)
    assert not good
    assert [one["status"] for one in found.values()] == [OK, OK, OK, FAILED]
    assert list(found) == ["meanwhile", "slow", "needs", "last"]
    assert b"slow (ran in the background)\nbehind" in archived(tmp_path)[LOG]


CHECK = """
import sys
from pathlib import Path
from benchmarks.gpu.runner import Runner, Stage

def stage(name, code):
    return Stage(name=name, command=[sys.executable, "-c", code], estimate=1, bound=9e9)

pids, wait = Path(sys.argv[1]) / "pids", "import time\\nwhile True: time.sleep(0.01)"
tree = f'''
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {wait!r}])
with open({str(pids) + ".part"!r}, "w") as file: file.write(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(pids) + ".part"!r}, {str(pids)!r})
print("at work", flush=True)
{wait}
'''
runner = Runner(Path(sys.argv[1]) / "out", 600, Path(sys.argv[1]))
good = runner.run([stage("first", "print('was here')"), stage("tree", tree), stage("next", "")])
sys.exit(0 if good else 1)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_runner_that_is_ended_leaves_records_and_no_child(tmp_path: Path, number: int) -> None:
    with start("-c", CHECK, str(tmp_path)) as process:
        until((tmp_path / "pids").exists, "the second stage", process)
        tree = [int(word) for word in (tmp_path / "pids").read_text().split()]
        assert all(map(alive, tree))
        process.send_signal(number)
        code = process.wait()
    until(lambda: not any(map(alive, tree)), "the end of the children")
    found = ended(tmp_path)
    assert found["first"]["status"] == OK
    assert b"was here" in archived(tmp_path)[LOG]
    assert json.loads(archived(tmp_path)[STAGES].splitlines()[1])["stage"] == "first"
    assert "at work" in (tmp_path / "out" / LOG).read_text()
    events = [(one["stage"], one["event"]) for one in lines(tmp_path / "out" / STAGES)]
    assert events[:3] == [("first", "start"), ("first", "end"), ("tree", "start")]
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert len(events) == 3
    else:
        assert code == 1
        assert found["tree"]["status"] == FAILED
        assert found["tree"]["reason"] == found["next"]["reason"] == "the run was stopped: SIGTERM"
        assert found["next"]["status"] == SKIPPED


def every_stage(folder: Path, **options: Any) -> list[Stage]:
    """The real ones, as if everything were installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module, "_absent", lambda package: "")
        patch.setattr("shutil.which", lambda name, **options: f"/usr/bin/{name}")
        return stages(Setting(out=folder, scratch=folder, **options))


def test_the_stages_fit_the_minutes_and_the_files(tmp_path: Path) -> None:
    made = every_stage(tmp_path, kit=tmp_path)
    assert sum(one.estimate for one in made) < MOST_SECONDS
    assert not [one.name for one in made if one.absent]
    names = [one.name for one in made]
    assert len(set(names)) == len(names)
    assert names.index("suite") < names.index("binding")
    for one in made:
        assert set(one.after) <= set(names[: names.index(one.name)])
        assert one.least <= one.bound
        assert one.estimate < one.bound
    assert len({STAGES, LOG, ARCHIVE, *RECORDS}) <= MOST_FILES
    written = {
        Path(word).name
        for one in made
        for word in one.command
        if word.startswith(f"{tmp_path}{os.sep}") and Path(word).parent == tmp_path
    }
    assert set(RECORDS) <= written
    assert written <= {*RECORDS, "store"}, "more files in the folder of the records"


def test_a_full_run_and_a_rehearsal_have_every_stage(tmp_path: Path) -> None:
    short = {one.name for one in every_stage(tmp_path, kit=tmp_path)}
    rehearsed = every_stage(tmp_path, kit=tmp_path, fake=True)
    fake = {one.name for one in rehearsed}
    full = every_stage(tmp_path, full=True, tensorrt="this card is too new")
    tests = {w for one in (*rehearsed, *full) for w in one.command if w.startswith("tests/")}
    assert tests
    assert not [name for name in tests if not (ROOT / name).is_file()]
    assert fake == short | {"driver"}
    assert {one.name for one in full} == short | {"tensorrt", "report", "doctor"}
    left = {one.name: one.absent for one in full if one.absent}
    assert left == {"tensorrt": "this card is too new", "weights": "no kit given"}
    assert suite(every_stage(tmp_path, full=True, tensorrt=None)) == "gpu"
    path = Path(suite(full))
    data = json.loads(path.read_text())
    assert {case["model"] for case in data["cases"]} == set(data["stand_ins"])


def suite(made: Sequence[Stage]) -> str:
    """That the benchmark runs."""
    command = next(list(one.command) for one in made if one.name == "suite")
    return command[command.index("--suite") + 1]


COLLECT = """
import json, sys
import pytest

class Seen:
    def pytest_collection_finish(self, session):
        found.append([item.nodeid for item in session.items])

found = []
for options in json.loads(sys.argv[1]):
    pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *options], plugins=[Seen()])
with open(sys.argv[2], "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
def test_the_stages_share_out_the_tests(tmp_path: Path) -> None:
    files = ["tests/test_gpu.py", "tests/test_gpu_bench.py"]
    full = {one.name: one for one in every_stage(tmp_path, full=True, tensorrt=None)}
    short = {one.name: one for one in every_stage(tmp_path, kit=tmp_path)}
    asked = [[*files, "-m", "gpu"]]
    asked += [[*files, *marked(full[name])] for name in ("torch", "memory", "tensorrt")]
    for name in ("torch", "memory", "shapes"):
        own = [one for one in files if one in short[name].command]
        asked.append([*own, *marked(short[name])])
    command = [sys.executable, "-c", COLLECT, json.dumps(asked), str(tmp_path / "found")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    everything, *shares = map(set, json.loads((tmp_path / "found").read_text()))
    assert set.union(*shares[:3]) == everything
    assert sum(map(len, shares[:3])) == len(everything)
    torch, memory, shapes = shares[3:]
    assert torch
    assert (len(memory), len(shapes)) == (3, 1)
    assert len(torch | memory | shapes) == len(torch) + 4
    assert (shares[0] | shares[1]) - (torch | memory | shapes) == {
        "tests/test_gpu_bench.py::test_a_small_run"  # the suite takes its place
    }


def marked(one: Stage) -> list[str]:
    """The choice of tests in a stage's command."""
    place = list(one.command).index("-m", 2)
    return list(one.command[place : place + 2])


def test_junit_and_records_are_judged(tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text('<testsuites><testsuite tests="5" skipped="4"/></testsuites>')
    assert some_ran(results) == ""
    results.write_text('<testsuites><testsuite tests="5" skipped="5"/></testsuites>')
    assert some_ran(results) == "all 5 tests were skipped"
    records = tmp_path / "bench.jsonl"
    case: dict[str, Any] = {"kind": "case", "case": {"model": "m", "subject": "torch"}}
    found = [{"kind": "run"}, {**case, "status": "measured"}, {**case, "status": "absent"}]
    records.write_text("".join(json.dumps(one) + "\n" for one in found))
    assert cases_agree(records) == ""
    found.append({**case, "status": "dropped", "reason": "12 dB"})
    records.write_text("".join(json.dumps(one) + "\n" for one in found))
    assert cases_agree(records) == "m torch: dropped: 12 dB"


def test_a_check_is_noted_whatever_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = Checks(tmp_path / "records.jsonl", "made up")

    def skips() -> None:
        raise Skip("no such thing")

    def breaks() -> None:
        raise BaseException("not an Exception")

    assert check("fine", lambda: {"path": tmp_path}) == {"path": tmp_path}
    check("skips", skips)
    check("breaks", breaks)
    found = lines(tmp_path / "records.jsonl")
    assert [one["check"] for one in found] == ["fine", "skips", "breaks"]
    assert found[0]["answer"] == {"path": str(tmp_path)}
    assert found[1]["skipped"] == "no such thing"
    assert found[2]["error"] == "BaseException: not an Exception"
    assert "breaks" in found[2]["where"]
    assert capsys.readouterr().out.splitlines() == [json.dumps(one) for one in found]
    with pytest.raises(SystemExit, match="failed: breaks"):
        check.end()


def test_weights_from_a_seed_are_the_same_everywhere() -> None:
    data = {"architecture": "SRVGGNetCompact", "parameters": {"num_feat": 8, "num_conv": 1}}
    network = weights.seeded(data)
    values = b"".join(one.numpy().tobytes() for _, one in sorted(network.state_dict().items()))
    assert hashlib.sha256(values).hexdigest()[:16] == "aac64d77e690f6cf"
    settled = weights.settled({**data, "parameters": {"num_feat": 8, "num_conv": 1}}, "body.4")
    assert set(settled) == {*data, "layer", "factor", "shift"}
    assert settled == json.loads(json.dumps(settled))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if fake_cuda.compiler() is None:
        pytest.skip("no C compiler to make a fake CUDA driver with, or not Linux")
    pytest.importorskip("cuda.bindings")
    return fake_cuda.build(tmp_path_factory.mktemp("driver"))


@pytest.mark.slow
def test_a_full_run_asks_the_driver_for_the_card(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = {"LD_LIBRARY_PATH": str(driver), "FAKE_CUDA_NAME": "NVIDIA H100 80GB HBM3"}
    assert _card(found)[0] == "nvidia-h100-80gb-hbm3"
    with pytest.raises(SystemExit, match="an NVIDIA GPU is required: "):
        _card({**found, "FAKE_CUDA_DEVICES": "0", "FAKE_CUDA_INIT": "100"})


STAND_IN = """
import sys
{before}
from tests.fakes import standin
sys.argv = ["standin", "{variant}", "--pictures", "1", "--records", "{records}"]
standin.main()
"""
WRONG = """
from resharp.gpu.cuda.cuda_python import PythonProvider
own = PythonProvider.copy_rows
def copy_rows(self, target, pitch, source, source_pitch, width, rows, stream):
    fewer = rows - (rows > 100)  # the picture that proves an engine is smaller
    own(self, target, pitch, source, source_pitch, width, fewer, stream)
PythonProvider.copy_rows = copy_rows
"""


@pytest.fixture
def stand_in(driver: Path, tmp_path: Path) -> Callable[..., tuple[fake_cuda.Done, Any]]:
    def run_it(variant: str, before: str = "") -> tuple[fake_cuda.Done, Any]:
        records = tmp_path / "standin.jsonl"
        script = STAND_IN.format(variant=variant, records=records, before=before)
        settings = {"STANDIN": "host", "RESHARP_CUDA": "cuda-python", "PYTHONPATH": str(ROOT)}
        return fake_cuda.run(script, driver, **settings), lines(records)[-1]

    return run_it


@pytest.mark.parametrize("variant", ["threads", "wait"])
def test_the_stand_in_over_the_fake_driver(
    stand_in: Callable[..., tuple[fake_cuda.Done, Any]], variant: str
) -> None:
    done, found = stand_in(variant)
    assert done.returncode == 0, done.stderr
    assert (found["pictures"], found["wrong"], found["captures lost"]) == (24, 0, 0)
    assert found["faults"] == []
    assert bool(found["waits"]) == (variant == "wait")
    assert done.live == fake_cuda.NOTHING_LIVE


def test_the_stand_in_sees_a_wrong_picture(
    stand_in: Callable[..., tuple[fake_cuda.Done, Any]],
) -> None:
    done, found = stand_in("threads", WRONG)
    assert done.returncode == 1
    assert found["wrong"]
    assert f"{found['wrong']} of 24 pictures are wrong" in done.stderr


def test_a_lost_capture_is_a_fault_unless_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "torch")
    fine = standin.Found(pictures=1, captured=1)
    lost = standin.Found(pictures=1, captured=1, lost=["end: 901"])
    said = standin.Found(pictures=1, captured=1, said=["continuing without CUDA graphs: 901"])
    none = standin.Found(pictures=1)
    wrong = standin.Found(pictures=1, captured=1, wrong=[(1, 1)])
    for variant in ("threads", "long", "blocking"):
        faults = [bool(standin.faults(one, variant)) for one in (fine, lost, said, none, wrong)]
        assert faults == [False, True, True, True, True]
    faults = [bool(standin.faults(one, "wait")) for one in (fine, lost, said, none, wrong)]
    assert faults == [False, False, False, False, True]
