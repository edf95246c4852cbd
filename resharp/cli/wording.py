"""How the library's messages read on the command line.

It must not import the rest of the package, since that import may be what failed.
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
"""Arguments whose option has another name."""
_LONG_WORD = re.compile(r"(\S{80})\S{4096,}(\S)")
"""What is longer than any path: a value that click, or the library of a package, quotes whole."""
_NO_TEXT = dict.fromkeys((*range(0xD800, 0xDC80), *range(0xDD00, 0xE000)), "\ufffd")
"""Surrogates, except those that stand for bytes."""
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(10), *range(11, 32), *range(127, 160))}


def with_flags(message: str) -> str:
    """Return a library's message with its arguments, in backticks, as command-line options."""
    return _ARGUMENT.sub(
        lambda found: _FLAGS.get(found[1]) or "--" + found[1].replace("_", "-"), message
    )


def printable(text: str, *, lines: bool = False) -> str:
    """Escape what a terminal should not get: control characters, and bytes that are not text.

    Names of files and texts in models may contain them, such as codes that move the cursor.
    Words longer than any path are cut.

    Args:
        text: anything.
        lines: whether it may have several lines.
    """
    text = _LONG_WORD.sub(r"\1...\2", text)
    text = text.translate(_NO_TEXT).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text.translate(_CONTROLS if lines else _CONTROLS | {10: "\\x0a"})
