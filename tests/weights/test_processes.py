"""Fetches of real processes: two at once, killed in the middle, out of space."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from resharp.weights import ModelEntry, fetch
from tests import held
from tests.waiting import LIMIT, until
from tests.weights.conftest import BODY, left, tiny
from tests.weights.server import Server, half_then_gate

pytestmark = pytest.mark.processes

SCRIPT = """
import json, logging, sys
from resharp.weights import ModelEntry, fetch
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
limit = int(sys.argv[3])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    entry = ModelEntry.from_json(json.loads(sys.argv[1]))
    print(fetch(entry, sys.argv[2], timeout=float(sys.argv[4])), flush=True)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(entry: ModelEntry, folder: Path, limit: int = 0) -> held.Child:
    return held.start(
        "-c", SCRIPT, json.dumps(entry.to_json()), str(folder), str(limit), str(LIMIT)
    )


def test_second_process_waits_and_does_not_download(
    server: Server, entry: ModelEntry, tmp_path: Path
) -> None:
    server.plans["tiny.pth"] = [half_then_gate]
    with start(entry, tmp_path) as first:
        until(lambda: server.gets, alive=first)
        with start(entry, tmp_path) as second:
            assert second.stdout is not None
            assert "waiting for another process" in second.stdout.readline()
            server.gate.set()
            out = second.communicate(timeout=LIMIT)
        assert first.wait(LIMIT) == 0
    assert second.returncode == 0, out
    assert server.gets == ["/tiny.pth"]
    assert left(tmp_path) == ["tiny.pth"]
    assert (tmp_path / "tiny.pth").read_bytes() == BODY


def test_killed_download_leaves_nothing_that_stays(
    server: Server, entry: ModelEntry, tmp_path: Path
) -> None:
    server.plans["tiny.pth"] = [half_then_gate]
    part = tmp_path / ".incoming" / "tiny.pth.part"
    with start(entry, tmp_path) as process:
        until(lambda: part.exists() and part.stat().st_size, alive=process)
        process.kill()
    server.gate.set()
    assert left(tmp_path) == [".incoming/tiny.pth.part"]
    server.files["other.pth"] = BODY
    other = tiny(server.url, name="other", file="other.pth", urls=(f"{server.url}/other.pth",))
    fetch(other, tmp_path, timeout=LIMIT)
    assert left(tmp_path) == ["other.pth"]
    assert fetch(entry, tmp_path, timeout=LIMIT).read_bytes() == BODY
    assert left(tmp_path) == ["other.pth", "tiny.pth"]


def test_sweep_spares_a_running_download(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    server.plans["tiny.pth"] = [half_then_gate]
    part = tmp_path / ".incoming" / "tiny.pth.part"
    with start(entry, tmp_path) as process:
        until(lambda: part.exists() and part.stat().st_size, alive=process)
        server.files["other.pth"] = BODY
        other = tiny(server.url, name="other", file="other.pth", urls=(f"{server.url}/other.pth",))
        fetch(other, tmp_path, timeout=LIMIT)
        assert part.exists()
        server.gate.set()
        assert process.wait(LIMIT) == 0
    assert left(tmp_path) == ["other.pth", "tiny.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
def test_no_room_for_the_file(entry: ModelEntry, tmp_path: Path) -> None:
    with start(entry, tmp_path, limit=len(BODY) // 2) as process:
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert errors.startswith("OutputError: cannot write to the weights folder")
    assert "File too large" in errors
    assert left(tmp_path) == []
