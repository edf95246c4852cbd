"""Cases, what they run, and the interface of a kind of cases."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Material = Mapping[str, bytes]
"""Small files to mutate, by name."""


@dataclass(frozen=True)
class CaseId:
    """Repeats a case: ``pictures:7:123``."""

    kind: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.seed}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> CaseId:
        """Parse the text form.

        Raises:
            ValueError: it is none.
        """
        kind, seed, number = text.split(":")
        return cls(kind, int(seed), int(number))

    def random(self) -> random.Random:
        """Return the source of all decisions of the case."""
        return random.Random(str(self))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one case runs, in an empty folder."""

    files: Mapping[str, bytes]
    """Files to create, by their path in that folder."""
    command: tuple[str, ...] = ()
    """Arguments of the command line."""
    call: Callable[[], int] | None = None
    """Called in place of the command line; returns the exit code."""
    source: str = ""
    """The file that the command restores, for the size of the result."""
    named: str = ""
    """What the message of a refusal must contain; empty: any message will do."""
    output: str = ""
    """The folder, or file, that may exist afterwards."""
    may_change: tuple[str, ...] = ()
    """Files that the command may rewrite, e.g. a journal."""
    made: Literal["image", "video", ""] = ""
    """What exit code 0 promises: a readable result of this sort in :attr:`output`."""
    scale: int = 4
    """Size of the result over that of :attr:`source`."""
    codes: tuple[int, ...] = (0, 1)
    """Exit codes that it may end with."""
    anywhere: bool = False
    """Whether new files may be anywhere, as after an option that names a file."""
    lines: bool = True
    """Whether a refusal must be one line."""


class Kind(Protocol):
    """One sort of hostile input; each is a module of :mod:`tests.fuzz.kinds`."""

    name: str
    share: float
    """Share of the time that its cases get, relative to those of other kinds."""

    def material(self) -> Material:
        """Return the files to mutate; called in a child, since encoders start threads."""

    def trial(self, random: random.Random, material: Material) -> Trial:
        """Return what a case runs; the same for the same state of ``random``."""
