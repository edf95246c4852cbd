"""A CUDA driver without a GPU for the tests, built by the system's C compiler.

``python -m tests.fakes.fake_cuda FOLDER`` builds it for others: pycuda's build links against it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import LIMIT

SOURCES = Path(__file__).parent / "cuda_driver"
NOTHING_LIVE = dict.fromkeys(
    ("buffers", "pinned", "streams", "events", "graphs", "contexts", "depth"), 0
)


@dataclass(frozen=True)
class Done:
    """Result of a script that ran with the fake driver."""

    returncode: int
    stdout: str
    stderr: str
    live: dict[str, int]
    """Objects left alive; empty if the process was killed or loaded no driver."""
    launches: int
    """Number of graphs launched."""


def compiler() -> str | None:
    """Return the C compiler; None if the fake driver cannot be built."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


def build(folder: Path) -> Path:
    """Build ``libcuda.so.1`` in ``folder``, and ``libcuda.so`` for linkers; return ``folder``."""
    found = compiler()
    assert found is not None, "no C compiler"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libcuda.so.1"
    sources = [str(SOURCES / "fake.c"), str(SOURCES / "stubs.c")]
    options = ["-O1", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([found, *options, "-o", str(library), *sources, "-ldl"], check=True)
    link = folder / "libcuda.so"
    link.unlink(missing_ok=True)
    link.symlink_to(library.name)
    return folder


def run(script: str, folder: Path, **settings: str) -> Done:
    """Run Python code with the driver in ``folder``; ``settings`` are environment variables."""
    report = folder / "report"
    report.unlink(missing_ok=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_CUDA_REPORT": str(report)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        env=environment | settings,
        check=False,
        timeout=LIMIT,
    )
    words = report.read_text().split() if report.exists() else []
    live = {name: int(number) for name, number in (word.split("=") for word in words)}
    launches = live.pop("launches", 0)
    return Done(done.returncode, done.stdout, done.stderr, live, launches)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
