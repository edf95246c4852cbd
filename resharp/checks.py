"""Checks of arguments: numbers in a range, and names out of a list.

Integers and floats of numpy are numbers; booleans and texts are not, although Python would compute
with the former and compare the latter. NaN and infinities are in no range.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, get_args

from resharp.errors import OptionError
from resharp.types import Tta


def check_int(name: str, value: object, low: int = 1, high: int | None = None) -> int:
    """Return an argument as an integer.

    Raises:
        OptionError: it is none, or not in ``low``..``high``.
    """
    number = _integer(value)
    if number is not None and low <= number and (high is None or number <= high):
        return number
    wanted = f"an integer between {low} and {high}"
    if high is None:
        wanted = "a positive integer" if low == 1 else f"an integer of at least {low}"
    raise OptionError(f"{_shown(name)} must be {wanted}, got {value!r}")


def check_number(
    name: str, value: object, low: float, high: float = math.inf, *, above: bool = False
) -> float:
    """Return an argument as a finite number.

    Args:
        name: the argument's name, or words for it.
        value: what was passed.
        low: smallest number.
        high: largest number.
        above: whether it must be above ``low``, and not ``low`` itself.

    Raises:
        OptionError: it is none, or out of range.
    """
    if is_number(value) and low <= value <= high and not (above and value == low):  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    if high == math.inf:
        wanted = f"a number above {low:g}" if above else f"a number of at least {low:g}"
        wanted = "a finite number" if low == -math.inf else wanted
    else:
        wanted = f"in ({low:g}, {high:g}]" if above else f"between {low:g} and {high:g}"
    raise OptionError(f"{_shown(name)} must be {wanted}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def check_tta(value: object) -> int:
    """Return a number of flips and rotations.

    Raises:
        OptionError: it is not one of :data:`~resharp.types.Tta`.
    """
    number = _integer(value)
    if number is not None and number in get_args(Tta):
        return number
    raise OptionError(f"`tta` must be 1, 2, 4 or 8, got {value!r}")


def check_choice(name: str, value: object, known: Collection[str]) -> str:
    """Return an argument that must be one of several names.

    Raises:
        OptionError: it is none of them.
    """
    if isinstance(value, str) and value in known:
        return value
    raise OptionError(f"{_shown(name)} must be one of {', '.join(known)}, got {value!r}")


def check_text(name: str, value: object) -> str:
    """Return an argument that must be a text.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, str):
        return value
    raise OptionError(f"{_shown(name)} must be a text, got {value!r}")


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, which JSON can hold; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    return int(value) if isinstance(value, Integral) else None


def _shown(name: str) -> str:
    """Mark an argument, which the command line shows as its option."""
    return f"`{name}`" if name.isidentifier() else name
