"""See that a rehearsal of the GPU check is whole: every stage on record, none failed.

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
"""Where there is no pycuda, no GPU and no tool of NVIDIA's."""


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problems(out: Path) -> Iterator[str]:
    """Whatever is wrong with it."""
    records = {one["stage"]: one for one in lines(out / STAGES) if one["event"] == "end"}
    setting = Setting(out=out, scratch=out, kit=out, fake=True)
    for stage in stages(setting):
        found = records.get(stage.name)
        if found is None:
            yield f"{stage.name} is not on record"
        elif found["status"] == ABSENT and not stage.name.startswith(MAY_BE_ABSENT):
            yield f"{stage.name} was left out: {found['reason']}"
        elif found["status"] not in (OK, ABSENT):
            yield f"{stage.name}: {found['status']}: {found['reason']}\n{found['tail']}"
    estimate = sum(one["estimate"] for one in records.values())
    if estimate >= MOST_SECONDS:
        yield f"the estimates come to {estimate:.0f} s"
    files = sorted(path.name for path in out.iterdir())
    if len(files) > MOST_FILES:
        yield f"more than {MOST_FILES} files: {files}"
    with tarfile.open(out / ARCHIVE) as archive:
        inside = set(archive.getnames())
    missing = ({*files} - {ARCHIVE} | {"torch.xml", "memory.xml", "extras.jsonl"}) - inside
    if missing:
        yield f"the archive lacks {sorted(missing)}"


def main(out: Path) -> None:
    """Exit with a message where something is wrong."""
    found = list(problems(out))
    if found:
        sys.exit("\n".join(found))
    took = sum(one["seconds"] for one in lines(out / STAGES) if one["event"] == "end")
    sys.stdout.write(f"the GPU check is whole: its stages took {took:.0f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
