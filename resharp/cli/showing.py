"""What the user sees of a run over pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click

from resharp.errors import ResharpError
from resharp.optional import require
from resharp.runtime.folders import FolderRun, Hooks, Report, Result

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def once(make: Callable[[Hooks], FolderRun], as_json: bool) -> None:
    """Run once, with a bar, and print what became of all; exit code 1 if one failed.

    Args:
        make: the run, for who is to be told.
        as_json: print JSON.
    """
    with ExitStack() as stack:
        run = make(Hooks(progress=bar(stack)))
        try:
            result = run.run()
        except KeyboardInterrupt:
            stack.close()
            if run.begun:
                report(run.report(), as_json)
            say("stopped: what is finished is kept, and the same command goes on")
            raise click.exceptions.Exit(INTERRUPTED) from None
        except ResharpError:
            stack.close()
            if run.begun:  # the disk is full, say: what was done before is done
                report(run.report(), as_json)
            raise
    report(result, as_json)
    if result.failed:
        raise click.exceptions.Exit(1)


def bar(stack: ExitStack) -> Callable[[float, int, str], None]:
    """A bar on the terminal, made when there is something to show."""
    bars: list[Any] = []

    def show(done: float, total: int, name: str) -> None:
        if not bars:
            tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
            form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
            bars.append(
                stack.enter_context(tqdm(total=total, bar_format=form, disable=None, leave=False))
            )
        (one,) = bars
        one.total = total
        one.set_description_str(f"{name} ({min(int(done + 1e-6) + 1, total)}/{total})", False)
        one.update(done - one.n)

    return show


def report(done: Report, as_json: bool) -> None:
    if as_json:
        sum_up(done, as_json)
    for result in done.results:
        say_notes(result)
        if result.error:
            say(f"failed: {result.input}: {result.error}")
    if not as_json:
        sum_up(done, as_json)


def sum_up(report: Report, as_json: bool) -> None:
    text = json.dumps(report.as_dict(), indent=2) if as_json else printable(report.summary())
    click.echo(text)


def say_notes(result: Result) -> None:
    for note in result.notes:
        say(f"note: {result.output}: {note}")


def say(text: str) -> None:
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Without the bytes of file names that are no text, which no stream takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
