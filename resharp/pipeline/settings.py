"""The options of an upscaler, also as a JSON or TOML file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resharp.checks import plain, record, shown
from resharp.errors import OptionError, OutputError
from resharp.fsutil import replacing
from resharp.optional import require
from resharp.paths import as_path
from resharp.reading import parse_json, read_bounded
from resharp.runtime.bundle_lookup import DEFAULT_MODEL
from resharp.runtime.upscaler import Upscaler
from resharp.types import BackendName, Precision, Tile

SUFFIXES = (".json", ".toml")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of an :class:`~resharp.Upscaler`, which checks them when it is opened."""

    model: str = DEFAULT_MODEL
    """Name of a model, or folder of a bundle."""
    backend: BackendName = "auto"
    """``auto`` for the first that works, ``tensorrt``, ``torch`` or ``onnx``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    tile: Tile = "auto"
    """Largest side of a tile in pixels, ``auto`` or ``whole``."""
    scale: float | None = None
    """Output size over input size; None is the model's own."""
    denoise: float | None = None
    """Denoise strength 0..1, for a model that has one."""
    memory_fraction: float = 0.5
    """Fraction (0, 1] of the device's free memory that ``tile="auto"`` may use."""
    threads: int | None = None
    """CPU threads per image; None leaves it to the library."""
    store: str | None = None
    """Folder of the bundles; None is the default."""
    precision: Precision = "auto"
    """``auto`` for FP16 on a GPU where that preserves the image, or ``fp32``."""

    def upscaler(self) -> Upscaler:
        """Open an upscaler with these options; the caller closes it.

        Raises:
            ResharpError: as for :class:`~resharp.Upscaler`.
        """
        return Upscaler(**{one.name: getattr(self, one.name) for one in fields(Settings)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the options as JSON or TOML, by the file's extension, atomically.

        Raises:
            OptionError: the extension is neither .json nor .toml.
            OutputError: the file cannot be written.
        """
        target = as_path(path, "`path`", "a file")
        values = {name: _plain(value) for name, value in asdict(self).items() if value is not None}
        if _kind(target) == ".json":
            text = json.dumps(values, indent=2) + "\n"
        else:  # flat, and JSON strings, numbers and booleans are valid TOML
            text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        try:
            with replacing(target) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {target}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Settings:
        """Load settings from a JSON or TOML file.

        Raises:
            OptionError: the file cannot be read, or has an unknown option or one of another type.
        """
        source = as_path(path, "`path`", "a file")
        kind = _kind(source)
        try:
            text = read_bounded(source).decode("utf-8")
            values = parse_json(text) if kind == ".json" else _toml(text)
        except (OSError, ValueError) as error:
            raise OptionError(f"cannot read the settings in {source}: {error}") from error
        if not isinstance(values, dict):
            raise OptionError(f"{source} must be a table of options")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise OptionError(
                f"{source} has an unknown option {shown(unknown[0])}; known are {', '.join(known)}"
            )
        try:
            return record(cls, values)
        except ValueError as error:
            raise OptionError(f"{source} has an invalid option: {error}") from error


def _plain(value: Any) -> Any:
    """Convert to what JSON and TOML can hold: paths to text, numpy numbers to Python's."""
    return os.fspath(value) if isinstance(value, os.PathLike) else plain(value)


def _kind(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(
            f"settings must be a {' or '.join(SUFFIXES)} file, got {shown(path.name)}"
        )
    return path.suffix.lower()


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        tomllib = require("tomli", feature="Reading TOML with Python 3.10", extra="")
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return values
