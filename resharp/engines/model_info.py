"""What a model is and takes, from its bundle, without running it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resharp.engines.bundle import Bundle
from resharp.errors import BundleError

_LARGEST_HEADER = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts of one model."""

    name: str
    title: str
    task: str
    scale: int
    architecture: str
    parameters: int
    """Numbers in its weights, integer tables aside."""
    bytes: int
    """Of the bundle on the disk, engines aside."""
    overlap: int
    """Context pixels around a tile."""
    memory_per_megapixel: int | None
    """Bytes of working memory per million input pixels of a tile, on the CPU in fp32; None where
    it was not measured."""
    license: str
    terms: str
    """Limits on the use of the weights; empty where the license says it all."""
    engines: int
    """TensorRT engines that were built of it."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def info_of(bundle: Bundle) -> ModelInfo:
    """What is known of a bundle's model.

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
    """Floating-point numbers of a safetensors file, from its header."""
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _LARGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(stream.read(size))
        return sum(
            math.prod(tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__" and str(tensor["dtype"]).startswith(("F", "BF"))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error}): export the model again") from error
