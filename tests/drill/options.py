"""Odd values of every option of the commands that restore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click
import cv2
import numpy as np

from tests.drill.kit import BACKEND, Drill, tiny_clip
from tests.fuzz.campaign import Campaign
from tests.fuzz.trials import CaseId, Material, Trial

VALUES = (
    *("", "0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e308", "1e-320", "9" * 30, "abc"),
    *("\x1b[31m", "\udcff", "\N{ARABIC-INDIC DIGIT THREE}", "1/0", "0x10", "/", ".", "a" * 300),
)
ENDLESS = ("watch", "help", "version")
"""Options after which a command does not end, or does nothing else."""


class Options:
    """The table, as a kind of cases: the number of a case is its row.

    Args:
        image: a small image.
        clip: a small clip.
    """

    name = "options"
    share = 1.0

    def __init__(self, image: bytes, clip: bytes) -> None:
        self.rows = list(_rows(image, clip))

    def material(self) -> Material:
        """Return nothing: every row has its files."""
        return {}

    def trial(self, random: object, material: Material) -> Trial:
        """Not used: rows are taken by number."""
        raise NotImplementedError


class Table(Campaign):
    """Runs rows by number."""

    def trial(self, case: CaseId) -> Trial:
        """Return a row."""
        kind = self.kinds[case.kind]
        assert isinstance(kind, Options)
        return kind.rows[case.number]


def options(drill: Drill) -> str:
    """Give each option each odd value, every ``count``-th row of the table."""
    image = cv2.imencode(".png", np.full((8, 9, 3), 90, np.uint8))[1].tobytes()
    tiny_clip(drill.folder / "clip.mkv", 3)
    kind = Options(image, (drill.folder / "clip.mkv").read_bytes())
    table = Table([kind], drill.folder / "scratch", drill.folder / "faults")
    rows = range(0, len(kind.rows), drill.count)
    found, codes = [], Counter[int]()
    for result in table.run(CaseId(kind.name, 0, row) for row in rows):
        codes[result.code] += 1
        words = " ".join(kind.rows[result.case.number].command)
        found += [f"resharp {words[:200]!r}: {fault}" for fault in result.faults]
    assert not found, "\n".join(found)
    counted = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items()))
    return f"{len(rows)} odd values of options: no trace, exit codes {counted}"


def _rows(image: bytes, clip: bytes) -> Iterator[Trial]:
    from resharp.cli import main

    context = click.Context(main)
    for name, file, data, output in (
        ("upscale", "in.png", image, ("-o", "out/")),
        ("video", "clip.mkv", clip, ("-o", "out/clip.mkv")),
        ("realesrgan", "in.png", image, ("-o", "out")),
    ):
        command = main.get_command(context, name)
        assert command is not None
        start = (name, *(("-i", file) if name == "realesrgan" else (file,)), *output)
        start += BACKEND if name != "realesrgan" else ()
        for words in _words(command):
            yield Trial(
                files={file: data},
                command=(*start, *words),
                output="",
                codes=(0, 1, 2),
                anywhere=True,
                lines=False,
            )


def _words(command: click.Command) -> Iterator[tuple[str, ...]]:
    for option in command.params:
        if not isinstance(option, click.Option) or option.name in ENDLESS:
            continue
        if option.is_flag:
            yield (option.opts[-1],)
        else:
            yield from ((option.opts[-1], value) for value in VALUES)
