"""Children with deliberate faults, to test that the verdict finds them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.trials import Material, Trial


def _refuse() -> int:
    print("Error: in.txt is not what it claims: copy it again", file=sys.stderr)  # noqa: T201
    return 1


def _crash() -> int:
    os.abort()


def _hang() -> int:
    time.sleep(600)
    return 0


def _raise() -> int:
    raise RecursionError("too deep")


def _fill() -> int:
    held = [bytearray(b"x") * (8 << 20) for _ in range(100)]
    return len(held) * 0


def _silent() -> int:
    return 1


def _nameless() -> int:
    print("Error: it is damaged", file=sys.stderr)  # noqa: T201
    return 1


def _wordy() -> int:
    print("Error: in.txt is damaged\nand more", file=sys.stderr)  # noqa: T201
    return 1


def _color() -> int:
    print("Error: in.txt is \x1b[31mdamaged", file=sys.stderr)  # noqa: T201
    return 1


def _odd_code() -> int:
    return 3


def _partial() -> int:
    Path("out").mkdir()
    Path("out/.in.txt.0123abcd.part").write_bytes(b"x")
    return _refuse()


def _result_though_refused() -> int:
    Path("out").mkdir()
    Path("out/in.png").write_bytes(b"x")
    return _refuse()


def _elsewhere() -> int:
    Path("other.txt").write_text("x")
    return _refuse()


def _change() -> int:
    Path("in.txt").write_text("other")
    return _refuse()


def _delete() -> int:
    Path("in.txt").unlink()
    return _refuse()


def _nothing() -> int:
    return 0


def _unreadable() -> int:
    Path("out").mkdir()
    Path("out/in.png").write_bytes(b"no image")
    return 0


def _vain() -> int:
    Path("out/in.mkv.resharp").mkdir(parents=True)
    Path("out/in.mkv.resharp/journal.jsonl").write_text("{}")
    return _refuse()


PLANTED: tuple[tuple[Callable[[], int], str], ...] = (
    (_refuse, ""),
    (_crash, "ended by signal 6"),
    (_hang, "over 0.5 seconds"),
    (_raise, "a trace: RecursionError: too deep"),
    (_fill, "MiB of memory"),
    (_silent, "exit code 1 without a message"),
    (_nameless, "no message names in.txt"),
    (_wordy, "a message goes on in another line: and more"),
    (_color, "control characters"),
    (_odd_code, "exit code 3"),
    (_partial, ".part was left"),
    (_result_though_refused, "out/in.png exists though exit code is 1"),
    (_elsewhere, "other.txt appeared"),
    (_change, "in.txt was changed"),
    (_delete, "in.txt was removed"),
    (_nothing, "exit code 0 without a result"),
    (_unreadable, "OpenCV cannot read the result"),
    (_vain, "a run that made nothing left out/in.mkv.resharp"),
)
"""What a child does, and what the verdict must say of it."""
HANG = 2
"""Index of the fault that needs a small limit to be found quickly."""


class Planted:
    """One kind for each fault.

    Args:
        number: index in :data:`PLANTED`.
    """

    share = 1.0

    def __init__(self, number: int) -> None:
        self.name, self._work = f"planted{number}", PLANTED[number][0]

    def material(self) -> Material:
        """Return nothing."""
        return {}

    def trial(self, random: Random, material: Material) -> Trial:
        """Return the fault."""
        return Trial(
            files={"in.txt": b"given"},
            call=self._work,
            named="in.txt",
            output="out",
            made="image",
        )
