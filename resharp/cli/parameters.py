"""``--parameter act_type=leakyrelu``: what weights cannot tell of their network."""

from __future__ import annotations

from collections.abc import Iterable

import click

from resharp.errors import OptionError

parameter_option = click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of the network that its weights cannot tell: act_type=leakyrelu.",
)


def parse_parameters(items: Iterable[str]) -> dict[str, int | str]:
    """``KEY=VALUE`` texts as a dictionary; whole numbers become numbers.

    Raises:
        OptionError: one has no key, or no ``=``.
    """
    found: dict[str, int | str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise OptionError(f"--parameter {item!r} is not KEY=VALUE")
        found[key] = int(value) if value.lstrip("-").isdecimal() else value
    return found
