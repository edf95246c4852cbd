"""Checks of values: arguments of functions, and fields of dataclasses from JSON or TOML.

Numpy integers and floats are numbers. Booleans are not, although Python computes with them. NaN and
infinities are out of every range.

A file may contain a number instead of a string, ``true`` instead of a number, or 1e308: each would
fail later, far from the file. So :func:`record` checks them by the annotations of the fields, and
by the ranges and patterns in their metadata: see :func:`between` and :func:`matching`.
"""

from __future__ import annotations

import functools
import math
import re
import reprlib
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from resharp.errors import OptionError
from resharp.types import Tta

T = TypeVar("T")

LONGEST = 10_000
"""Most items of a list or an object."""
DEEPEST = 32
"""Most levels of lists and objects within a value of type Any."""
_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
QUOTED = 80
"""Characters of a value that a message quotes."""


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
    raise OptionError(f"{_marked(name)} must be {wanted}, got {shown(value)}")


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
    raise OptionError(f"{_marked(name)} must be {wanted}, got {shown(value)}")


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
    raise OptionError(f"`tta` must be 1, 2, 4 or 8, got {shown(value)}")


def check_choice(name: str, value: object, known: Collection[str]) -> str:
    """Return an argument that must be one of several strings.

    Raises:
        OptionError: it is not one of them.
    """
    if isinstance(value, str) and value in known:
        return value
    raise OptionError(f"{_marked(name)} must be one of {', '.join(known)}, got {shown(value)}")


def check_text(name: str, value: object) -> str:
    """Return an argument that must be a string.

    Raises:
        OptionError: it is not a string.
    """
    if isinstance(value, str):
        return value
    raise OptionError(f"{_marked(name)} must be a string, got {shown(value)}")


class _Short(reprlib.Repr):
    """Cuts whatever is long, in depth too, and survives objects that cannot be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = QUOTED

    def repr_str(self, x: str, level: int) -> str:
        return repr(x) if len(x) <= QUOTED else f"{x[:QUOTED]!r}..."

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # more digits than Python converts
            return f"an integer of {x.bit_length()} bits"


_SHORT = _Short()


def shown(value: object) -> str:
    """Return how a message quotes a value: its ``repr`` on one line, cut where it is long."""
    return _SHORT.repr(value).replace("\n", " ")


def shortened(text: str, most: int = QUOTED) -> str:
    """Return a text, cut after ``most`` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def plain(value: Any) -> Any:
    """Convert a numpy number to a Python number, which JSON can hold; return others unchanged."""
    return value.item() if hasattr(value, "item") else value


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    return int(value) if isinstance(value, Integral) else None


def _marked(name: str) -> str:
    """Put the name of an argument in backticks, which the command line shows as its option."""
    return f"`{name}`" if name.isidentifier() else name


def between(low: float, high: float) -> dict[str, Any]:
    """Return metadata of a field whose number, unless it is None, must lie in ``low..high``."""
    return {"between": (low, high)}


def matching(pattern: str, what: str) -> dict[str, Any]:
    """Return metadata of a field whose text must match ``pattern``; ``what`` describes it."""
    return {"matching": (re.compile(pattern), what)}


def record(kind: type[T], data: object, **parsed: Any) -> T:
    """Create a dataclass from a JSON object; unknown keys are ignored.

    Integers become floats where the annotation says so, and lists become tuples.

    Args:
        kind: the dataclass.
        data: the parsed object.
        parsed: values of fields that replace those of the object.

    Raises:
        ValueError: a field is missing, or its value has the wrong type or is out of range; the
            message names it.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{kind.__name__} must be an object, got {shown(data)}")
    hints, values = _hints(kind), dict(parsed)  # type: ignore[arg-type]
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in parsed:
            continue
        if one.name in data:
            values[one.name] = _conform(data[one.name], hints[one.name], one.name)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{one.name} is missing")
    made = kind(**values)
    check_ranges(made)
    return made


def check_ranges(item: Any) -> None:
    """Check the fields of a dataclass against their metadata.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """
    for one in fields(item):
        value = getattr(item, one.name)
        if value is None:
            continue
        if "between" in one.metadata:
            low, high = one.metadata["between"]
            if not is_number(value) or not low <= value <= high:  # False for NaN
                raise ValueError(
                    f"{one.name} must be between {low:g} and {high:g}, got {shown(value)}"
                )
        if "matching" in one.metadata:
            pattern, what = one.metadata["matching"]
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise ValueError(f"{one.name} must be {what}, got {shown(value)}")


def is_schema(found: object, wanted: int) -> bool:
    """Return whether a value of JSON is that version; ``true`` and 1.0 are not 1."""
    return type(found) is int and found == wanted


def known_fields(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items that are fields of ``kind``; newer minor versions may add others."""
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _conform(value: Any, hint: Any, name: str) -> Any:
    """Return ``value`` converted to the annotated type, or raise ValueError."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _conform_union(value, inner, name)
    if origin is Literal:
        if not any(type(value) is type(one) and value == one for one in inner):
            raise ValueError(f"{name} must be {_listed(map(repr, inner))}, got {shown(value)}")
        return value
    if hint is Any:
        _check_plain(value, name)
    elif is_dataclass(hint) and isinstance(hint, type):
        return record(hint, value)
    elif origin is tuple:
        return _conform_tuple(value, inner, name)
    elif origin is Mapping:
        if not isinstance(value, dict) or len(value) > LONGEST:
            raise ValueError(f"{name} must be an object, got {shown(value)}")
        return {key: _conform(one, inner[1], f"{name}.{key}") for key, one in value.items()}
    elif hint is float and is_number(value):
        return float(value)
    elif type(value) is not hint or hint is float:
        raise ValueError(f"{name} must be {_NAMES.get(hint, 'null')}, got {shown(value)}")
    return value


def _conform_union(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return _conform(value, others[0], name)
    for kind in others:
        try:
            return _conform(value, kind, name)
        except ValueError:
            continue
    texts = [_NAMES.get(one) or _listed(map(repr, get_args(one))) for one in others]
    raise ValueError(f"{name} must be {' or '.join(texts)}, got {shown(value)}")


def _conform_tuple(value: Any, kinds: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > LONGEST:
        raise ValueError(f"{name} must be a list, got {shown(value)}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ValueError(f"{name} must have {len(kinds)} items, got {shown(value)}")
    return tuple(_conform(one, kind, name) for one, kind in zip(value, kinds, strict=True))


def _check_plain(value: Any, name: str, depth: int = 0) -> None:
    """Refuse numbers that are not finite, and values that are nested too deeply to write."""
    if depth > DEEPEST:
        raise ValueError(f"{name} is nested too deeply")
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_plain(one, name, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {shown(value)}")


def _listed(names: Any) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else str(last)
