"""The code blocks of the README and of docs/, and why some of them do not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON, SHELL = "python", ("bash", "console", "sh")
NOT_CODE = ("json", "text", "toml")
"""Languages of blocks that show output or files."""

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>[^\s`]*)[^`]*$")
_MARK = re.compile(r"^<!-- not run: (?P<reason>\S.*) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    """Path of the page from the repository's root."""
    line: int
    """Line of its fence, from 1."""
    language: str
    text: str
    reason: str | None
    """Why it does not run, from the comment above it; None: it runs."""

    @property
    def place(self) -> str:
        """Where it is, as editors understand it."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page with blocks that are checked, by its path from the repository's root."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in order.

    Raises:
        ValueError: a fence has no language, an unknown one, or no end.
    """
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return list(_blocks(page, lines))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        begin, indent = number, fence["indent"]
        end = begin + 1
        while end < len(lines) and lines[end].strip() != fence["ticks"]:
            end += 1
        if end == len(lines):
            raise ValueError(f"{page}:{begin + 1}: the block has no end")
        language = fence["language"]
        if language not in (PYTHON, *SHELL, *NOT_CODE):
            raise ValueError(f"{page}:{begin + 1}: a block in {language or 'no language'!r}")
        if language not in NOT_CODE:
            text = "\n".join(line.removeprefix(indent) for line in lines[begin + 1 : end])
            mark = _MARK.match(lines[begin - 1].strip()) if begin else None
            yield Block(page, begin + 1, language, text, mark and mark["reason"])
        number = end + 1


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words; prompts, comments and output are left out."""
    joined = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in joined):  # a console: the rest is output
        joined = [line.removeprefix("$ ") for line in joined if line.startswith("$ ")]
    found = []
    for line in joined:
        words = shlex.split(line, comments=True)
        while "&&" in words:
            at = words.index("&&")
            found.append(words[:at])
            words = words[at + 1 :]
        found.append(words)
    return [words for words in found if words]


def resharp_arguments(words: list[str]) -> list[str] | None:
    """The arguments of ``resharp`` in a command, its variables aside; None: another command."""
    words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    match words:
        case ["resharp", *arguments]:
            return arguments
        case ["export-engines", *arguments]:
            return ["export-engines", *arguments]
    return None
