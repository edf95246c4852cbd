"""A picture and what the FP32 graph makes of it: what an engine is checked against.

It is stored beside the engine, so that the machine that runs it needs no onnxruntime.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.engines import Bundle, File, Likeness
from resharp.export.infer import Infer, in_onnxruntime
from resharp.export.picture import draw

Array = NDArray[Any]
FLOOR_DB = 40.0
"""PSNR under which an engine, or a typed graph, is not used."""
PERFECT_DB = 200.0
HEIGHT, WIDTH = 96, 128


@dataclass(frozen=True)
class Reference:
    """A picture and its restoration in fp32."""

    picture: Array
    """uint8 BGR ``[h, w, 3]``."""
    restored: Array
    """float32 BGR ``[h * s, w * s, 3]`` in 0..1."""
    data: bytes
    """Both as an ``.npz`` file, the same bytes for the same arrays."""

    @property
    def file(self) -> File:
        """Name, hash and size that it is stored under."""
        digest = hashlib.sha256(self.data).hexdigest()
        return File(name=f"reference-{digest[:12]}.npz", sha256=digest, size=len(self.data))


def make_reference(bundle: Bundle, tile: int, picture: Array | None = None) -> Reference:
    """Run the FP32 graph in onnxruntime.

    Args:
        bundle: a whole bundle.
        tile: largest side that the engine takes.
        picture: uint8 BGR photo, whose middle is used; None draws one.
    """
    height, width = min(HEIGHT, tile), min(WIDTH, tile)
    if picture is None:
        picture = draw(height, width)
    y, x = max(picture.shape[0] - height, 0) // 2, max(picture.shape[1] - width, 0) // 2
    picture = np.ascontiguousarray(picture[y : y + height, x : x + width])
    infer = in_onnxruntime(bundle.path(bundle.manifest.graphs["float32"]))
    restored = infer(picture[None].astype(np.float32) / np.float32(255))[0]
    return Reference(picture, restored, _packed(picture=picture, restored=restored))


def compare(infer: Infer, reference: Reference, dtype: str) -> Likeness:
    """How far a graph of either dtype is from the FP32 graph on the reference picture."""
    batch = reference.picture[None]
    if dtype == "float32":
        batch = batch.astype(np.float32) / np.float32(255)
    found = infer(batch)[0].astype(np.float64)
    wanted = reference.restored.astype(np.float64)
    if dtype == "uint8":
        found, wanted = found / 255, np.rint(wanted * 255) / 255
    if not np.isfinite(found).all():
        return Likeness(psnr=0.0, levels=255, passed=False)
    error = float(np.mean((found - wanted) ** 2))
    psnr = min(-10 * np.log10(error), PERFECT_DB) if error else PERFECT_DB
    levels = round(float(np.abs(found - wanted).max()) * 255)
    return Likeness(psnr=round(float(psnr), 2), levels=levels, passed=bool(psnr >= FLOOR_DB))


def _packed(**arrays: Array) -> bytes:
    """``numpy.savez`` without the time of day in it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in arrays.items():
            inner = io.BytesIO()
            np.save(inner, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, inner.getvalue())
    return packed.getvalue()
