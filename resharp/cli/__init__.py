"""The command line: thin click commands over the public functions, each imported when called."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import IO, Any

import click

from resharp import __version__, joining
from resharp.checks import shown
from resharp.cli.interrupts import INTERRUPTED, code_of, handled_signals
from resharp.cli.streams import standard_streams
from resharp.errors import MissingExtraError, OptionError, OutOfMemoryError, ResharpError

COMMANDS = {
    "upscale": ("upscale:command", "Restore images: files, folders and globs."),
    "video": ("video:command", "Restore a video with its audio and timestamps."),
    "models": ("models:models", "List, fetch, import, export, verify and remove models."),
    "engines": ("engines:engines", "Build, list, verify and prune TensorRT engines."),
    "doctor": ("doctor:command", "Show which backends work here, and why others do not."),
}
"""The everyday commands: each one's module in this room and its name there, and its help line."""
MORE = {
    "info": ("info:command", "Show facts about an exported model."),
    "export": ("export:command", "Same as 'models export'."),
    "export-engines": ("export_engines:command", "Same as 'engines build'."),
    "bench": ("bench:bench", "Measure speed and memory, and compare runs."),
    "cluster": ("cluster:cluster", "Restore folders and video on a Ray cluster."),
    "realesrgan": ("realesrgan:command", "Real-ESRGAN's own command and options."),
}
JSON = "resharp.json"
"""Key in click's ``meta``: whether an error must be printed as JSON."""
HIDDEN = {"weights": ("models:models", "The former name of 'models'.")}


class Failed(click.ClickException):
    """An error of resharp, shown without a trace but with its code and documentation."""

    def __init__(self, error: ResharpError) -> None:
        from resharp.cli.wording import printable, with_flags

        super().__init__(printable(with_flags(str(error)), lines=True))
        self.error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message, and where its kind of error is explained."""
        super().show(file)
        click.echo(f"See {self.error.docs_url}", file=file, err=file is None)


class LazyGroup(click.Group):
    """A group that imports a command when it is called and prints our errors without a trace."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return [*COMMANDS, *MORE]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module; see click."""
        known = {**COMMANDS, **MORE, **HIDDEN}
        if name not in known:
            return None
        module, _, attribute = known[name][0].partition(":")
        try:
            loaded = importlib.import_module(f"{__name__}.{module}")
        except ImportError as error:  # of a package that resharp always needs
            if isinstance(error, ResharpError):
                raise
            raise MissingExtraError(
                f"resharp cannot be loaded ({error}): reinstall it with its packages, "
                "pip install --force-reinstall resharp"
            ) from error
        command: click.Command = getattr(loaded, attribute)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line with safe standard streams; see click for the arguments."""
        run = partial(super().main, args, prog_name, complete_var, False, **extra)
        if not standalone_mode:
            return run()
        with standard_streams():
            code = _code(run)
        if joining.left_behind():  # it would block the shutdown, or crash in it
            os._exit(code)
        sys.exit(code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest names; see click."""
        if args and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {shown(args[0])}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        for title, commands in (("Commands", COMMANDS), ("More commands", MORE)):
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a :class:`ResharpError` becomes a message and exit code 1.

        With ``--json`` it is also printed as an object, in place of the results. An interrupt
        becomes one line and its exit code.
        """
        try:
            return super().invoke(ctx)
        except ResharpError as error:
            failed = Failed(error)
            if ctx.meta.get(JSON):
                click.echo(json.dumps({"error": failed.message, "code": error.code}, indent=2))
            raise failed from error
        except MemoryError as error:
            raise Failed(
                OutOfMemoryError("the memory is exhausted: free some, or raise the limit on it")
            ) from error
        except KeyboardInterrupt as error:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(code_of(error)) from None


def _code(run: Callable[[], Any]) -> int:
    """Run the command line, show its error, and return the exit code."""
    try:
        with handled_signals():
            found = run()
    except click.ClickException as error:
        if isinstance(error, click.UsageError):  # click quotes what it cannot parse
            from resharp.cli.wording import printable

            error.message = printable(error.message, lines=True)  # type: ignore[misc]
        error.show()
        return error.exit_code
    except ResharpError as error:  # e.g. --help cannot write to standard output
        Failed(error).show()
        return Failed.exit_code
    except click.Abort:  # Ctrl-C before a command started
        return INTERRUPTED
    return found if isinstance(found, int) else 0


class _Flags(logging.Formatter):
    """Shows the arguments in log messages as options."""

    def format(self, record: logging.LogRecord) -> str:
        from resharp.cli.wording import printable, with_flags

        return printable(with_flags(super().format(record)), lines=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="resharp")
@click.option("-v", "--verbose", count=True, help="Show progress messages; -vv for debugging.")
def main(verbose: int) -> None:
    """Restore and upscale images and video with the Real-ESRGAN family.

    \b
    resharp upscale photo.jpg -o out/
    resharp doctor
    """  # noqa: D301  # \b is a character: click keeps the lines as they are
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setFormatter(_Flags("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    try:
        Path.cwd()
    except OSError as error:
        raise OptionError(
            "the current folder does not exist any more, or cannot be read: change to another one"
        ) from error


def export_engines() -> None:
    """Run the console script ``export-engines``: the command of that name, alone."""
    main(["export-engines", *sys.argv[1:]], prog_name="resharp")
