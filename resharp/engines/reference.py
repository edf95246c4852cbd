"""Reference for checking an engine: an image and its result from the FP32 graph.

It is stored next to the engine, so the machine that runs the engine needs no onnxruntime.
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
from resharp.reading import read_bounded
from resharp.types import Array

FLOOR_DB = 40.0
"""PSNR in dB below which an engine or a typed graph is rejected."""
PERFECT_DB = 200.0
LARGEST = 1 << 30
"""Largest size of a reference file in bytes."""


@dataclass(frozen=True)
class Reference:
    """An image and its restoration in fp32."""

    picture: Array
    """uint8 BGR ``[h, w, 3]``."""
    restored: Array
    """float32 BGR ``[h * s, w * s, 3]``; white is 1."""

    def input(self, dtype: str) -> Array:
        """Return the image as input for a graph of that dtype."""
        if dtype == "float32":
            return self.picture.astype(np.float32) / np.float32(255)
        return self.picture

    def packed(self) -> bytes:
        """Return both arrays as an ``.npz`` file; equal arrays give equal bytes."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, array in (("picture", self.picture), ("restored", self.restored)):
                inner = io.BytesIO()
                np.save(inner, array, allow_pickle=False)
                # numpy.savez would store the current time.
                info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                archive.writestr(info, inner.getvalue())
        return packed.getvalue()


def reference_file(packed: bytes) -> File:
    """Return the name, hash and size with which a packed reference is stored."""
    digest = sha256_of(packed)
    return File(name=f"reference-{digest[:12]}.npz", sha256=digest, size=len(packed))


def read_reference(path: Path) -> Reference:
    """Read a file that holds the output of :meth:`Reference.packed`.

    Raises:
        BundleError: the file is not a reference.
    """
    try:
        # Uncompressed arrays cannot be larger than the file.
        packed = io.BytesIO(read_bounded(path, LARGEST))
        with zipfile.ZipFile(packed) as archive:
            if any(one.compress_type or one.file_size > LARGEST for one in archive.infolist()):
                raise ValueError("its arrays are compressed")
        with np.load(packed, allow_pickle=False) as stored:
            found = Reference(stored["picture"], stored["restored"])
    except Exception as error:  # a damaged file makes zipfile and numpy raise almost anything
        raise BundleError(f"{path} is not a reference image ({error})") from error
    for array, dtype in ((found.picture, np.uint8), (found.restored, np.float32)):
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != dtype or not array.size:
            raise BundleError(f"{path} is not a reference image ({array.dtype} {array.shape})")
    return found


def compare_images(found: Array, restored: Array) -> ParityResult:
    """Compare two results clipped to 0..1, as differences beyond that range are not visible.

    Args:
        found: computed result, uint8, or float with white at 1.
        restored: result of the FP32 graph, float32, of the same shape.
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
    black = not levels.any() and bool(wanted.any())  # black would pass for a dark image
    return ParityResult(
        psnr=round(psnr, 2), levels=round(float(gap.max())), passed=psnr >= FLOOR_DB and not black
    )
