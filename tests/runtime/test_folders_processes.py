"""Folders and real processes: two at once, one that is killed, a watch, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.runtime.folders.journal import Entry

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

COUNT = 40
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(compact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start ``resharp upscale`` with the tiny x2 model in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> subprocess.Popen[str]:
        common = ["-m", str(compact.folder), "--backend", "onnx"]
        command = [sys.executable, "-m", "resharp", "upscale", *args, *common]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)

    return call


def save(count: int, height: int = 20, width: int = 30) -> None:
    Path("in/sub").mkdir(parents=True)
    for n in range(count):
        assert cv2.imwrite(f"in/{'sub/' * (n % 2)}{n:02}.png", draw(height, width, n))


def wait_for(what: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def journal(root: str = "out") -> list[str]:
    path = Path(root, ".resharp/journal.jsonl")
    if not path.exists():
        return []
    found = [Entry.parse(line) for line in path.read_bytes().splitlines()]
    assert None not in found
    return [entry.target for entry in found if entry is not None]


def pictures() -> set[str]:
    """All that lies beside the results, checked to be whole."""
    found = [p for p in Path("out").rglob("*") if p.is_file() and ".resharp" not in p.parts]
    for path in found:
        picture = cv2.imread(str(path))
        assert picture is not None, path
        assert picture.shape[:2] in ((40, 60), (240, 320)), path
    return {path.name for path in found}


def locks() -> list[str]:
    return sorted(path.name for path in Path("out/.resharp/locks").iterdir())


def test_two_at_once_do_every_picture_once(start: Start) -> None:
    save(COUNT)
    both = [start("in", "-o", "out", "--json") for _ in range(2)]
    reports = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    status = Counter(
        r["output"] for one in reports for r in one["results"] if r["status"] == "restored"
    )
    assert len(status) == COUNT
    assert set(status.values()) == {1}
    assert all(len(one["results"]) == COUNT for one in reports)
    assert sorted(journal()) == sorted({*journal()})
    assert len(pictures()) == COUNT
    assert locks() == ["gate.lock"]


def test_if_one_of_two_is_killed_the_other_does_it_all(start: Start) -> None:
    save(COUNT, 120, 160)
    slow = ("--views", "8", "--tile", "64")
    victim, other = (start("in", "-o", "out", *slow, *more) for more in ((), ("--json",)))
    wait_for(lambda: len(list(Path("out/.resharp/locks").glob("run-*"))) == 2)
    wait_for(lambda: len(journal()) >= 2)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=30)
    assert victim.returncode == -signal.SIGKILL
    assert len(journal()) < COUNT
    report = json.loads(other.communicate(timeout=60)[0])
    assert other.returncode == 0
    assert all(result["status"] in ("restored", "skipped") for result in report["results"])
    assert len(pictures()) == COUNT  # and no half file of the victim's
    assert locks() == ["gate.lock"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watched_folder(start: Start, number: signal.Signals) -> None:
    Path("in").mkdir()
    watch = start("in", "-o", "out", "--watch", "--interval", "0.2")
    assert watch.stderr is not None
    assert watch.stderr.readline().startswith("watching in")
    assert cv2.imwrite("whole.png", draw(20, 30))
    data = Path("whole.png").read_bytes()
    with open("in/a.png", "wb") as file:  # noqa: PTH123
        for place in range(0, len(data), len(data) // 8 + 1):  # slower than two looks in all
            file.write(data[place : place + len(data) // 8 + 1])
            file.flush()
            time.sleep(0.1)
    wait_for(lambda: os.path.exists("out/a.png"))
    Path("in/cut.png").write_bytes(data[:100])
    assert watch.stderr.readline() == "restored: in/a.png\n"
    assert watch.stderr.readline().startswith("failed: in/cut.png: in/cut.png is a damaged PNG")
    Path("in/cut.png").write_bytes(data)
    assert watch.stderr.readline() == "restored: in/cut.png\n"
    Path("in/cut.png").unlink()
    assert cv2.imwrite("in/a.png", draw(20, 30, 5))
    assert watch.stderr.readline() == "restored: in/a.png\n"
    watch.send_signal(number)
    output, errors = watch.communicate(timeout=30)
    assert (watch.returncode, errors) == (0, "")
    assert "3 restored (1 redone: input, model or options changed), 1 failed with" in output
    assert pictures() == {"a.png", "cut.png"}
    assert locks() == ["gate.lock"]


def test_ctrl_c_gives_everything_back(start: Start) -> None:
    save(COUNT, 120, 160)
    process = start("in", "-o", "out", "--workers", "2")
    wait_for(lambda: len(journal()) >= 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    done = pictures()
    assert 0 < len(done) < COUNT
    assert len(journal()) == len(done)
    assert locks() == ["gate.lock"]
    again = start("in", "-o", "out")
    assert f"{COUNT - len(done)} restored, {len(done)} skipped" in again.communicate(timeout=60)[0]
