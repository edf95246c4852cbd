"""An upscaler's options in a file: JSON or TOML."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resharp.errors import OptionError, OutputError
from resharp.fsutil import replacing
from resharp.optional import require
from resharp.runtime.bundle_lookup import DEFAULT_MODEL
from resharp.runtime.upscaler import Upscaler
from resharp.types import BackendName, Precision

SUFFIXES = (".json", ".toml")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of an :class:`~resharp.Upscaler`; :meth:`upscaler` checks them."""

    model: str = DEFAULT_MODEL
    backend: BackendName = "auto"
    device: str = "auto"
    tile: int | str = "auto"
    scale: float | None = None
    denoise: float | None = None
    memory_fraction: float = 0.5
    threads: int | None = None
    store: str | None = None
    precision: Precision = "auto"

    def upscaler(self) -> Upscaler:
        """One with these options; the caller closes it.

        Raises:
            ResharpError: see :class:`~resharp.Upscaler`.
        """
        return Upscaler(**{one.name: getattr(self, one.name) for one in fields(Settings)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them, whole or not at all, as what the file's ending says.

        Raises:
            OptionError: the ending is neither .json nor .toml.
            OutputError: it cannot be written.
        """
        target = Path(path)
        values = {name: _plain(value) for name, value in asdict(self).items() if value is not None}
        if _kind(target) == ".json":
            text = json.dumps(values, indent=2) + "\n"
        else:  # flat, and JSON's strings, numbers and booleans are TOML's too
            text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        try:
            with replacing(target) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {target}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Settings:
        """Read what :meth:`save`, or a hand, wrote.

        Raises:
            OptionError: the file is not there, is no such file, or holds an option that there is
                not.
        """
        source = Path(path)
        kind = _kind(source)
        try:
            text = source.read_text(encoding="utf-8")
            values = json.loads(text) if kind == ".json" else _toml(text)
        except (OSError, ValueError) as error:
            raise OptionError(f"settings {source} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise OptionError(f"settings {source} are no table of options")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise OptionError(
                f"settings {source}: there is no option {unknown[0]!r}, only {', '.join(known)}"
            )
        return cls(**values)


def _plain(value: Any) -> Any:
    """What JSON and TOML can hold: paths as text, numbers of numpy as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") else value


def _kind(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"settings are {' or '.join(SUFFIXES)} files, not {path.name!r}")
    return path.suffix.lower()


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        tomllib = require("tomli", feature="Reading TOML with Python 3.10", extra="")
    values: dict[str, Any] = tomllib.loads(text)
    return values
