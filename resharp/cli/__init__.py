"""The command line: thin click commands over the public functions. Each loads only when called."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import click

from resharp import __version__
from resharp.errors import ResharpError

COMMANDS = {
    "upscale": ("upscale:command", "Restore pictures: files, folders, globs."),
    "video": ("video:command", "Restore a video, with its sound and timestamps."),
    "cluster": ("cluster:cluster", "Folders and video over many machines, on Ray."),
    "realesrgan": ("realesrgan:command", "The options of Real-ESRGAN's own script."),
    "weights": ("weights:weights", "List, fetch, verify and import checkpoints."),
    "export": ("export:command", "Turn a checkpoint into an ONNX bundle of the store."),
    "engines": ("engines:command", "List, verify and remove the bundles of the store."),
    "export-engines": ("export_engines:command", "Build TensorRT engines, once per GPU."),
    "info": ("info:command", "Say what a model is and takes."),
    "bench": ("bench:bench", "Measure speed and memory, and compare."),
    "doctor": ("doctor:command", "Say which backends work here, and why the others do not."),
}
"""Each command's module in this room and its name there, and its line in the help."""


class LazyGroup(click.Group):
    """A group that imports a command when it is wanted and prints our errors without a trace."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module; see click."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a :class:`ResharpError` becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except ResharpError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="resharp")
@click.option("-v", "--verbose", count=True, help="Say more; twice says all.")
def main(verbose: int) -> None:
    """Restore and upscale pictures with the Real-ESRGAN family.

    \b
    resharp upscale photo.jpg -o out/
    resharp doctor
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")


def export_engines() -> None:
    """The console script ``export-engines``: the command of that name, alone."""
    main(["export-engines", *sys.argv[1:]], prog_name="resharp")
