"""A picture and what the FP32 graph makes of it: what an engine is checked against.

It is stored beside the engine, so that the machine that runs it needs no onnxruntime. No other
module of this room needs numpy.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resharp.engines.engine import ParityResult
from resharp.engines.manifest import File
from resharp.errors import BundleError
from resharp.fsutil import sha256_of
from resharp.types import Array

FLOOR_DB = 40.0
"""PSNR under which an engine, or a typed graph, is not used."""
PERFECT_DB = 200.0


@dataclass(frozen=True)
class Reference:
    """A picture and its restoration in fp32."""

    picture: Array
    """uint8 BGR ``[h, w, 3]``."""
    restored: Array
    """float32 BGR ``[h * s, w * s, 3]``; white is 1."""

    def input(self, dtype: str) -> Array:
        """The picture as a graph of that dtype takes it."""
        if dtype == "float32":
            return self.picture.astype(np.float32) / np.float32(255)
        return self.picture

    def packed(self) -> bytes:
        """Both as an ``.npz`` file, the same bytes for the same arrays."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, array in (("picture", self.picture), ("restored", self.restored)):
                inner = io.BytesIO()
                np.save(inner, array, allow_pickle=False)
                # numpy.savez would put the time of day into it.
                info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                archive.writestr(info, inner.getvalue())
        return packed.getvalue()


def reference_file(packed: bytes) -> File:
    """Name, hash and size that a packed reference is stored under."""
    digest = sha256_of(packed)
    return File(name=f"reference-{digest[:12]}.npz", sha256=digest, size=len(packed))


def read_reference(path: Path) -> Reference:
    """Read what :meth:`Reference.packed` gave.

    Raises:
        BundleError: the file holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Reference(stored["picture"], stored["restored"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is no reference picture ({error})") from error


def compare_images(found: Array, restored: Array) -> ParityResult:
    """Compare within 0..1, beyond which no picture shows a difference.

    Args:
        found: what was computed, uint8, or float with white at 1.
        restored: what the FP32 graph gave, float32, of the same shape.
    """
    wanted = np.clip(restored.astype(np.float64), 0, 1) * 255
    if found.dtype == np.uint8:
        levels, wanted = found.astype(np.float64), np.rint(wanted)
    elif np.isfinite(found).all():
        levels = np.clip(found.astype(np.float64), 0, 1) * 255
    else:
        return ParityResult(psnr=0.0, levels=255, passed=False)
    gap = np.abs(levels - wanted)
    error = float(np.square(gap).mean())
    psnr = min(10 * math.log10(255**2 / error), PERFECT_DB) if error else PERFECT_DB
    black = not levels.any() and bool(wanted.any())  # near a dark picture, black would pass
    return ParityResult(
        psnr=round(psnr, 2), levels=round(float(gap.max())), passed=psnr >= FLOOR_DB and not black
    )
