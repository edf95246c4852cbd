"""Facts about a model, read from its bundle without running it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resharp.engines.bundle import Bundle
from resharp.errors import BundleError
from resharp.reading import open_regular, parse_json

_LARGEST_HEADER = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts about one model."""

    name: str
    title: str
    task: str
    scale: int
    architecture: str
    parameters: int
    """Number of floating-point parameters; integer tables are not counted."""
    bytes: int
    """Size of the bundle on disk in bytes, without engines."""
    overlap: int
    """Context pixels around a tile."""
    memory_per_megapixel: int | None
    """Working memory in bytes per million input pixels of a tile, on the CPU in fp32; None if it
    was not measured."""
    license: str
    terms: str
    """Restrictions on the use of the weights; empty if the license covers everything."""
    engines: int
    """Number of TensorRT engines built for the model."""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as a JSON-serializable dictionary."""
        return asdict(self)


def info_of(bundle: Bundle) -> ModelInfo:
    """Return the facts about a bundle's model.

    Raises:
        BundleError: the bundle is damaged.
    """
    manifest = bundle.manifest
    per_pixel = manifest.activation_bytes
    return ModelInfo(
        name=manifest.name,
        title=manifest.title,
        task=manifest.task,
        scale=manifest.scale,
        architecture=manifest.architecture,
        parameters=_count(bundle.path(manifest.weights)),
        bytes=sum(file.size for file in manifest.files()),
        overlap=manifest.overlap,
        memory_per_megapixel=None if per_pixel is None else round(per_pixel * 1e6),
        license=manifest.license,
        terms=manifest.terms,
        engines=len(bundle.engine_store.engines()[0]),
    )


def _count(path: Path) -> int:
    """Count the floating-point numbers in a safetensors file, using its header."""
    try:
        with open_regular(path) as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _LARGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = parse_json(stream.read(size))
        return sum(
            math.prod(tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__" and str(tensor["dtype"]).startswith(("F", "BF"))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error}): export the model again") from error
