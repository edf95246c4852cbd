"""How the library's messages read on the command line.

It may not import the rest of the package, whose import can be what has failed.
"""

from __future__ import annotations

import re

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)`")
_FLAGS = {
    "dst": "-o",
    "dtypes": "--dtype",
    "model_path": "--model_path",
    "parameters": "--parameter",
    "pre_pad": "--pre_pad",
    "tile_pad": "--tile_pad",
    "cpus": "--cpus-per-worker",
    "gpus": "--gpus-per-worker",
}
"""Arguments whose option is not their name."""


def with_flags(message: str) -> str:
    """Return a library's message with its arguments, in backticks, as command-line options."""
    return _ARGUMENT.sub(
        lambda found: _FLAGS.get(found[1]) or "--" + found[1].replace("_", "-"), message
    )


def printable(text: str) -> str:
    """Replace the bytes of file names that are not text, which no stream takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
