"""Description of one checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from resharp.checks import record, shown

Parameter = int | float | str | bool | tuple[int, ...]

TASKS = ("upscale", "denoise", "artifacts", "restoration", "face-restoration", "face-detection")
BUILTIN = "resharp-x4"
"""Name of the model inside the package, reserved for it."""
EXPORTED = ("RRDBNet", "SRVGGNetCompact", "SwinIR", "GFPGANv1Clean", "CodeFormer", "RestoreFormer")
"""Architectures that can be exported; the face detector is ONNX already, for OpenCV."""
STATE_KEYS = ("params_ema", "params", None)

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_FILE = re.compile(r"(?:local/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One checkpoint: its network, its sources, and the size and hash of its file.

    Raises:
        ValueError: a value is invalid; the message names the entry and the field.
    """

    name: str
    """Unique name in kebab-case, e.g. ``realesrgan-x4plus``."""
    title: str
    """One-line description for users."""
    task: str
    """Task of the model, one of :data:`TASKS`."""
    architecture: str
    """Class of the network, named as upstream, e.g. ``RRDBNet``."""
    parameters: Mapping[str, Parameter] = field(hash=False)
    """Arguments of the network's class, by official name."""
    scale: int
    """Output size divided by input size; 1 if the size is unchanged."""
    file: str
    """Path relative to the weights folder: the official file name, or ``local/...``."""
    urls: tuple[str, ...] = ()
    """Download URLs, best first; empty for the user's own checkpoints."""
    bytes: int | None = None
    """Size of the file in bytes; None if unknown."""
    sha256: str | None = None
    """SHA-256 of the file, 64 lower-case hex digits; None if unknown."""
    hash_sources: int = 0
    """Number of independent public catalogues that list this hash (5 means 5 or more)."""
    state_key: str | None = None
    """Key of the state dict in the file; None if top-level or unconfirmed (any is accepted)."""
    license: str = "unknown"
    """SPDX expression of the weights' license, or ``unknown``."""
    terms: str | None = None
    """Restrictions on use that must be shown before a download."""
    blend: str | None = None
    """Name of the checkpoint to blend with: ``denoise=s`` is ``s * this + (1 - s) * blend``."""
    aliases: tuple[str, ...] = ()
    """Other common names of the checkpoint."""

    def __post_init__(self) -> None:
        for name, fits in self._checks().items():
            if not fits:
                raise ValueError(
                    f"checkpoint {shown(self.name)}: invalid {name} {shown(getattr(self, name))}"
                )

    def _checks(self) -> dict[str, bool]:
        return {
            "name": bool(_NAME.fullmatch(self.name)),
            "title": bool(self.title),
            "task": self.task in TASKS,
            "architecture": self.architecture.isidentifier(),
            "scale": type(self.scale) is int and 1 <= self.scale <= 32,
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
        """Whether the model can be exported; the face detector runs without an export."""
        return self.architecture in EXPORTED

    @property
    def stem(self) -> str:
        """File name without folder and suffix, e.g. ``RealESRGAN_x4plus``."""
        return PurePosixPath(self.file).stem

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON-compatible values."""
        data: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        data["parameters"] = dict(self.parameters)
        data["blend"] = {"with": self.blend} if self.blend else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelEntry:
        """Create an entry from the output of :meth:`to_json` or from a row of the catalogue.

        Raises:
            ValueError: a field is missing, unknown, of the wrong type or invalid.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("parameters"), Mapping):
            raise ValueError("a checkpoint must be an object with 'parameters'")
        values = dict(data)
        if "licence" in values:  # spelling of versions before 0.1.0
            values["license"] = values.pop("licence")
        blend = values.get("blend") or {}
        if not isinstance(blend, Mapping):
            raise ValueError(f"checkpoint {shown(data.get('name'))}: invalid blend {shown(blend)}")
        values["blend"] = blend.get("with")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(str(key) for key in values if key not in known):
            raise ValueError(f"checkpoint {shown(data.get('name'))}: unknown {shown(unknown[0])}")
        return record(cls, values)


def check_sha256(text: str) -> str:
    """Return a SHA-256 in lower case.

    Raises:
        ValueError: ``text`` is not 64 hex digits.
    """
    value = text.strip().lower()
    if not _SHA256.fullmatch(value):
        raise ValueError(f"a SHA-256 must be 64 hex digits, got {shown(text)}")
    return value
