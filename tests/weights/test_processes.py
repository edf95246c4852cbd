"""Fetches of real processes: two at once, killed in the middle, out of space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import resharp
from resharp.weights import Entry, fetch
from tests.weights.conftest import BODY, left, tiny
from tests.weights.server import Server, half_then_gate

ROOT = Path(resharp.__file__).parents[1]
SCRIPT = """
import json, logging, sys
from resharp.weights import Entry, fetch
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
limit = int(sys.argv[3])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(fetch(Entry.from_json(json.loads(sys.argv[1])), sys.argv[2]), flush=True)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(entry: Entry, folder: Path, limit: int = 0) -> subprocess.Popen[str]:
    arguments = [json.dumps(entry.to_json()), str(folder), str(limit)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_second_process_waits_and_does_not_download(
    server: Server, entry: Entry, tmp_path: Path
) -> None:
    server.plans["tiny.pth"] = [half_then_gate]
    with start(entry, tmp_path) as first:
        wait_for(lambda: server.gets)
        with start(entry, tmp_path) as second:
            assert second.stdout is not None
            assert "waiting for another process" in second.stdout.readline()
            server.gate.set()
            out = second.communicate(timeout=15)
        assert first.wait(15) == 0
    assert second.returncode == 0, out
    assert server.gets == ["/tiny.pth"]
    assert left(tmp_path) == ["tiny.pth"]
    assert (tmp_path / "tiny.pth").read_bytes() == BODY


def test_killed_download_leaves_nothing_that_stays(
    server: Server, entry: Entry, tmp_path: Path
) -> None:
    server.plans["tiny.pth"] = [half_then_gate]
    part = tmp_path / ".incoming" / "tiny.pth.part"
    with start(entry, tmp_path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size)
        process.kill()
    server.gate.set()
    assert left(tmp_path) == [".incoming/tiny.pth.part"]
    server.files["other.pth"] = BODY
    other = tiny(server.url, name="other", file="other.pth", urls=(f"{server.url}/other.pth",))
    fetch(other, tmp_path)
    assert left(tmp_path) == ["other.pth"]
    assert fetch(entry, tmp_path).read_bytes() == BODY
    assert left(tmp_path) == ["other.pth", "tiny.pth"]


def test_sweep_spares_a_running_download(server: Server, entry: Entry, tmp_path: Path) -> None:
    server.plans["tiny.pth"] = [half_then_gate]
    part = tmp_path / ".incoming" / "tiny.pth.part"
    with start(entry, tmp_path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size)
        server.files["other.pth"] = BODY
        other = tiny(server.url, name="other", file="other.pth", urls=(f"{server.url}/other.pth",))
        fetch(other, tmp_path)
        assert part.exists()
        server.gate.set()
        assert process.wait(15) == 0
    assert left(tmp_path) == ["other.pth", "tiny.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
def test_no_room_for_the_file(entry: Entry, tmp_path: Path) -> None:
    with start(entry, tmp_path, limit=len(BODY) // 2) as process:
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert errors.startswith("OutputError: cannot write to the folder of weights")
    assert "File too large" in errors
    assert left(tmp_path) == []
