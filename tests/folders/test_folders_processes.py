"""Folders in real processes: two at once, one that is killed, watching, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.outputs import JournalEntry
from tests import held
from tests.waiting import LIMIT, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]

COUNT = 40
Start = Callable[..., held.Child]


@pytest.fixture
def start(compact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start ``resharp upscale`` with the tiny x2 model in an empty folder.

    With ``hold``, it stops after that many images, until it is killed or interrupted.
    """
    monkeypatch.chdir(tmp_path)
    processes: list[held.Child] = []

    def call(*args: str, hold: int | None = None) -> held.Child:
        command = ["upscale", *args, "-m", str(compact.folder), "--backend", "onnx"]
        module = ["resharp"] if hold is None else ["tests.held", str(hold)]
        processes.append(held.start("-m", *module, *command))
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def save(count: int) -> None:
    Path("in/sub").mkdir(parents=True)
    for n in range(count):
        assert cv2.imwrite(f"in/{'sub/' * (n % 2)}{n:02}.png", draw(20, 30, n))


def journal(root: str = "out") -> list[str]:
    path = Path(root, ".resharp/journal.jsonl")
    if not path.exists():
        return []
    found = [JournalEntry.parse(line) for line in path.read_bytes().splitlines()]
    assert None not in found
    return [entry.target for entry in found if entry is not None]


def recorded() -> int:
    """Number of complete lines in the journal, which may be being written."""
    path = Path("out/.resharp/journal.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


def pictures() -> set[str]:
    """Names of the results, each checked to be complete."""
    found = [p for p in Path("out").rglob("*") if p.is_file() and ".resharp" not in p.parts]
    for path in found:
        picture = cv2.imread(str(path))
        assert picture is not None, path
        assert picture.shape[:2] == (40, 60), path
    return {path.name for path in found}


def arrives(name: str, data: bytes) -> None:
    """Add a complete file to the folder; test_folders.py tests one that grows."""
    Path(name).write_bytes(data)
    Path(name).replace(Path("in", name))


def locks() -> list[str]:
    return sorted(path.name for path in Path("out/.resharp").glob("locks/*"))


@pytest.mark.slow
def test_two_at_once_do_every_picture_once(start: Start) -> None:
    save(COUNT)
    both = [start("in", "-o", "out", "--json", hold=1) for _ in range(2)]
    until(lambda: recorded() == 2)  # one each: both are at work
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    reports = [json.loads(process.communicate(timeout=LIMIT)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    status = Counter(
        r["output"] for one in reports for r in one["results"] if r["status"] == "restored"
    )
    assert len(status) == COUNT
    assert set(status.values()) == {1}
    assert all(len(one["results"]) == COUNT for one in reports)
    assert sorted(journal()) == sorted({*journal()})
    assert len(pictures()) == COUNT
    assert locks() == []


@pytest.mark.slow
def test_if_one_of_two_is_killed_the_other_does_it_all(start: Start) -> None:
    save(COUNT)
    victim = start("in", "-o", "out", hold=2)
    until(lambda: recorded() == 2, alive=victim)
    other = start("in", "-o", "out", "--json")
    until(lambda: recorded() >= 5, alive=other)  # the victim's claims remain
    assert len(list(Path("out/.resharp/locks").glob("run-*"))) == 2
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=LIMIT)
    assert victim.returncode == -signal.SIGKILL
    report = json.loads(other.communicate(timeout=LIMIT)[0])
    assert other.returncode == 0
    assert all(result["status"] in ("restored", "skipped") for result in report["results"])
    assert len(pictures()) == COUNT  # no partial file of the victim
    assert locks() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watched_folder(start: Start, number: signal.Signals) -> None:
    Path("in").mkdir()
    watch = start("in", "-o", "out", "--watch", "--interval", "0.2")
    assert watch.stderr is not None
    assert watch.stderr.readline().startswith("watching in")
    assert cv2.imwrite("whole.png", draw(20, 30))
    data = Path("whole.png").read_bytes()
    arrives("a.png", data)
    until(lambda: os.path.exists("out/a.png"), alive=watch)
    arrives("cut.png", data[:100])
    assert watch.stderr.readline() == "restored: in/a.png\n"
    assert watch.stderr.readline().startswith("failed: in/cut.png: in/cut.png is a damaged PNG")
    arrives("cut.png", data)
    assert watch.stderr.readline() == "restored: in/cut.png\n"
    Path("in/cut.png").unlink()
    assert cv2.imwrite("other.png", draw(20, 30, 5))
    arrives("a.png", Path("other.png").read_bytes())
    assert watch.stderr.readline() == "restored: in/a.png\n"
    watch.send_signal(number)
    output, errors = watch.communicate(timeout=LIMIT)
    assert (watch.returncode, errors) == (0, "")
    assert "3 restored (1 redone: input, model or options changed), 1 failed with" in output
    assert pictures() == {"a.png", "cut.png"}
    assert locks() == []


@pytest.mark.slow
def test_ctrl_c_gives_everything_back(start: Start) -> None:
    save(COUNT)
    process = start("in", "-o", "out", "--workers", "2", hold=10)
    until(lambda: recorded() >= 2, alive=process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in errors
    done = pictures()
    assert 0 < len(done) < COUNT
    assert len(journal()) == len(done)
    assert locks() == []
    again = start("in", "-o", "out")
    assert (
        f"{COUNT - len(done)} restored, {len(done)} skipped" in again.communicate(timeout=LIMIT)[0]
    )
