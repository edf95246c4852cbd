"""What is known of one checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

Parameter = int | float | str | bool | tuple[int, ...]

TASKS = ("upscale", "denoise", "artifacts", "restoration", "face-restoration", "face-detection")
BUILTIN = "resharp-x4"
"""Name of the model inside the package, which no other may take."""
EXPORTED = ("RRDBNet", "SRVGGNetCompact", "SwinIR", "GFPGANv1Clean", "CodeFormer", "RestoreFormer")
"""Architectures that are exported; the face detector comes as ONNX, for OpenCV."""
STATE_KEYS = ("params_ema", "params", None)

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_FILE = re.compile(r"(?:local/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One checkpoint: which network it is for, where it comes from, what its bytes are.

    Raises:
        ValueError: a value that makes no sense; the message names the entry and the field.
    """

    name: str
    """Name in kebab-case, unique: ``realesrgan-x4plus``."""
    title: str
    """One line for people."""
    task: str
    """One of :data:`TASKS`."""
    architecture: str
    """Class of the network, as its authors call it: ``RRDBNet``."""
    parameters: Mapping[str, Parameter] = field(hash=False)
    """Arguments of that class, by their official names."""
    scale: int
    """Output pixels per input pixel and side; 1 where the size stays."""
    file: str
    """Official file name, or ``local/...``; relative to the folder of weights."""
    urls: tuple[str, ...] = ()
    """Where to download it, best first; empty for a checkpoint of the user's own."""
    bytes: int | None = None
    """Size of the file; None where it is not known."""
    sha256: str | None = None
    """SHA-256 of the file, 64 lower-case hex digits; None where it is not known."""
    hash_sources: int = 0
    """Independent public catalogues that state this hash (5 means 5 or more)."""
    state_key: str | None = None
    """Key of the state dict in the file; None: bare, or not confirmed (accept any)."""
    license: str = "unknown"
    """SPDX expression of the weights' license, or ``unknown``."""
    terms: str | None = None
    """Limits of use that must be shown before a download."""
    blend: str | None = None
    """Name of the checkpoint to mix with: ``s * this + (1 - s) * blend`` is ``--denoise s``."""
    aliases: tuple[str, ...] = ()
    """Other names that people use for it."""

    def __post_init__(self) -> None:
        for name, fits in self._checks().items():
            if not fits:
                raise ValueError(f"checkpoint {self.name!r}: bad {name} {getattr(self, name)!r}")

    def _checks(self) -> dict[str, bool]:
        return {
            "name": bool(_NAME.fullmatch(self.name)),
            "title": bool(self.title),
            "task": self.task in TASKS,
            "architecture": self.architecture.isidentifier(),
            "scale": self.scale >= 1,
            "file": bool(_FILE.fullmatch(self.file)),
            "urls": all(
                url.startswith(("https://", "http://")) and url.rpartition("/")[2] == self.file
                for url in self.urls
            ),
            "bytes": self.bytes is None or self.bytes > 0,
            "sha256": self.sha256 is None or bool(_SHA256.fullmatch(self.sha256)),
            "hash_sources": self.hash_sources >= 0,
            "state_key": self.state_key in STATE_KEYS,
            "license": bool(self.license),
            "blend": self.blend != self.name,
        }

    @property
    def exports(self) -> bool:
        """Whether it is exported; the face detector, which runs as it is, is not."""
        return self.architecture in EXPORTED

    @property
    def stem(self) -> str:
        """The file's name without folder and suffix: ``RealESRGAN_x4plus``."""
        return PurePosixPath(self.file).stem

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        data: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        data["parameters"] = dict(self.parameters)
        data["blend"] = {"with": self.blend} if self.blend else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelEntry:
        """Build an entry from what :meth:`to_json` gave, or from a row of the catalogue.

        Raises:
            ValueError: a field is missing, unknown, of the wrong kind or makes no sense.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("parameters"), Mapping):
            raise ValueError("a checkpoint is an object with 'parameters'")
        values = {key: _tuple(value) for key, value in data.items()}
        if "licence" in values:  # how stores older than 0.1.0 spell it
            values["license"] = values.pop("licence")
        values["parameters"] = {k: _tuple(v) for k, v in data["parameters"].items()}
        values["blend"] = (data.get("blend") or {}).get("with")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"checkpoint {data.get('name')!r}: {error}") from error


def check_sha256(text: str) -> str:
    """``text`` as a SHA-256 in lower case.

    Raises:
        ValueError: it is not 64 hex digits.
    """
    value = text.strip().lower()
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{text!r} is not a SHA-256: 64 hex digits are expected")
    return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
