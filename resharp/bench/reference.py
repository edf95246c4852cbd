"""The exact result that every case is held against before it is timed, and how far one is off."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np

from resharp.engines import Bundle
from resharp.engines.reference import FLOOR_DB, PERFECT_DB
from resharp.errors import MissingExtraError
from resharp.runtime import Upscaler
from resharp.types import Image

IDENTICAL = PERFECT_DB
"""PSNR in dB of pictures without a difference."""
EXACT_FLOOR = 50.0
"""PSNR that an arithmetic of FP32 must reach: it differs by rounding and by tiles alone."""
HALF_FLOOR = FLOOR_DB
"""PSNR that FP16 must reach, as engines must."""


ROWS = 64


def exact(bundle: Bundle, image: Image) -> tuple[Image, str]:
    """The result in FP32 of the whole picture at once, and what made it.

    By PyTorch where it is installed, on the GPU if it finds one (without TF32); else by
    onnxruntime on the CPU.
    """
    try:
        return _by_torch(bundle, image)
    except MissingExtraError:
        pass
    with Upscaler(bundle, backend="onnx", device="cpu", tile="whole", tuning=None) as upscaler:
        whole = max(image.shape[:2]) <= upscaler.tile
        return upscaler(image), f"onnxruntime fp32, {'whole picture' if whole else 'tiled'}"


def _by_torch(bundle: Bundle, image: Image) -> tuple[Image, str]:
    from resharp.optional import require

    torch = require("torch", feature="The reference", extra="torch")
    require("safetensors", feature="The reference", extra="torch")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with Upscaler(
        bundle,
        backend="torch",
        device="cuda" if on_gpu else "cpu",
        tile="whole",
        precision="fp32",
        tuning=None,
    ) as upscaler:
        whole = max(image.shape[:2]) <= upscaler.tile
        place = "cuda" if on_gpu else "cpu"
        return upscaler(image), f"torch fp32 on {place}, {'whole picture' if whole else 'tiled'}"


def likeness(result: Image, reference: Image) -> dict[str, Any]:
    """PSNR in dB, largest difference in levels, and share of values that differ."""
    if result.shape != reference.shape or result.dtype != reference.dtype:
        return {"psnr": 0.0, "levels": 255, "differing": 1.0}
    squares, worst, differing = 0, 0, 0
    for first in range(0, len(result), ROWS):  # in bands, since a whole picture of gaps is large
        band = slice(first, first + ROWS)
        gap = np.abs(result[band].astype(np.int16) - reference[band])
        squares += int(np.square(gap, dtype=np.int64).sum())
        worst, differing = max(worst, int(gap.max(initial=0))), differing + int((gap > 0).sum())
    psnr = IDENTICAL
    if squares:
        psnr = float(10 * np.log10(255**2 * result.size / squares))
    return {"psnr": psnr, "levels": worst, "differing": differing / max(result.size, 1)}


def file_seconds(image: Image, result: Image) -> dict[str, Any]:
    """Seconds of reading the picture from a PNG file and of writing the result to one."""
    done, data = cv2.imencode(".png", image)
    if not done:
        return {}
    began = time.perf_counter()
    cv2.imdecode(data, cv2.IMREAD_COLOR)
    read = time.perf_counter()
    cv2.imencode(".png", result)
    return {"read": read - began, "write": time.perf_counter() - read}
