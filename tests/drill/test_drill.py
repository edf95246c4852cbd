"""The short form of every drill."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.held import ROOT

DRILLS = ["folders", "clips", "processes", "threads", "calls", "options"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_the_drills_find_nothing() -> None:
    command = [sys.executable, "-m", "tests.drill", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == DRILLS
