"""Check that a rehearsal of the GPU check is complete: every stage is recorded and none failed.

usage: python .ci/check_gpu.py OUT     (in the checkout)
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.runner import ABSENT, ARCHIVE, OK, STAGES  # noqa: E402
from benchmarks.gpu.stages import Setting, stages  # noqa: E402

MOST_FILES, MOST_SECONDS = 8, 360.0
MAY_BE_ABSENT = ("provider pycuda", "standin pycuda", "bars", "shapes", "sanitizer")
"""Stages that need pycuda, a GPU or NVIDIA's tools."""


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problems(out: Path) -> Iterator[str]:
    """Yield everything that is wrong with the rehearsal."""
    records = {one["stage"]: one for one in lines(out / STAGES) if one["event"] == "end"}
    setting = Setting(out=out, scratch=out, kit=out, fake=True)
    for stage in stages(setting):
        found = records.get(stage.name)
        if found is None:
            yield f"{stage.name} is not recorded"
        elif found["status"] == ABSENT and not stage.name.startswith(MAY_BE_ABSENT):
            yield f"{stage.name} was skipped: {found['reason']}"
        elif found["status"] not in (OK, ABSENT):
            yield f"{stage.name}: {found['status']}: {found['reason']}\n{found['tail']}"
    estimate = sum(one["estimate"] for one in records.values())
    if estimate >= MOST_SECONDS:
        yield f"the estimates must add up to less than {MOST_SECONDS:.0f} s, got {estimate:.0f} s"
    files = sorted(path.name for path in out.iterdir())
    if len(files) > MOST_FILES:
        yield f"expected at most {MOST_FILES} files, got {files}"
    with tarfile.open(out / ARCHIVE) as archive:
        inside = set(archive.getnames())
    missing = ({*files} - {ARCHIVE} | {"torch.xml", "memory.xml", "extras.jsonl"}) - inside
    if missing:
        yield f"the archive lacks {sorted(missing)}"


def main(out: Path) -> None:
    """Exit with a message if anything is wrong."""
    found = list(problems(out))
    if found:
        sys.exit("\n".join(found))
    took = sum(one["seconds"] for one in lines(out / STAGES) if one["event"] == "end")
    sys.stdout.write(f"the GPU check is complete: its stages took {took:.0f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
