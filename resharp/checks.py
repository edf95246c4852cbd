"""Checks of arguments: numbers in a range, and strings from a list.

Numpy integers and floats are numbers. Booleans are not, although Python computes with them. NaN and
infinities are out of every range.
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
        OptionError: it is not an integer, or not in ``low``..``high``.
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
        above: whether ``low`` itself is out of range.

    Raises:
        OptionError: it is not a finite number, or out of range.
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
    except OverflowError:  # an integer that is too large for a float
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
    """Return an argument that must be one of several strings.

    Raises:
        OptionError: it is not one of them.
    """
    if isinstance(value, str) and value in known:
        return value
    raise OptionError(f"{_shown(name)} must be one of {', '.join(known)}, got {value!r}")


def check_text(name: str, value: object) -> str:
    """Return an argument that must be a string.

    Raises:
        OptionError: it is not a string.
    """
    if isinstance(value, str):
        return value
    raise OptionError(f"{_shown(name)} must be a string, got {value!r}")


def plain(value: Any) -> Any:
    """Convert a numpy number to a Python number, which JSON can hold; return others unchanged."""
    return value.item() if hasattr(value, "item") else value


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    return int(value) if isinstance(value, Integral) else None


def _shown(name: str) -> str:
    """Put the name of an argument in backticks, which the command line shows as its option."""
    return f"`{name}`" if name.isidentifier() else name
