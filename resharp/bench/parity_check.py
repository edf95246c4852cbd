"""The FP32 result that every case is compared with before it is timed, and that comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.implementations import Image
from resharp.bench.records import CaseParity, ResolvedCase
from resharp.bench.worker_process import WorkerProcess
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.engines.reference import FLOOR_DB, PERFECT_DB
from resharp.errors import MissingExtraError, ResharpError
from resharp.optional import require
from resharp.runtime import Upscaler
from resharp.types import BackendName, Log, Precision

EXACT_FLOOR = 50.0
"""PSNR in dB that FP32 arithmetic must reach: it differs by rounding and by tiles alone."""
HALF_FLOOR = FLOOR_DB
"""PSNR in dB that FP16 must reach, as engines must."""
ROWS = 64
"""Rows that are compared at once, since the differences of a whole picture take much memory."""


class DroppedError(ResharpError):
    """The output is too far from the exact result."""

    def __init__(self, parity: CaseParity) -> None:
        super().__init__(
            f"{parity.psnr:.1f} dB from {parity.reference}, up to {parity.levels} levels off: "
            f"under {parity.floor:g} dB"
        )
        self.parity = parity


@dataclass(frozen=True, kw_only=True)
class ParityReference:
    """A model and a picture, and what FP32 makes of it."""

    bundle: Bundle
    picture: Path
    """The input, a file of numpy's."""
    result: Path
    """The exact result, a file of numpy's."""
    made_by: str
    """What made the result, in words."""


def make_reference(
    bundle: Bundle, height: int, width: int, folder: Path, log: Log
) -> ParityReference:
    """Draw a picture and make its exact result, in a process that ends when it is done.

    Raises:
        BackendError: FP32 does not run here.
    """
    name = f"{bundle.manifest.name}-{width}x{height}"
    log(f"{bundle.manifest.name}, {width}x{height}: the exact result")
    picture, result = folder / f"{name}.npy", folder / f"{name}-exact.npy"
    np.save(picture, draw(height, width))
    with WorkerProcess() as process:
        found = process.request(
            "reference", folder=str(bundle.folder), picture=str(picture), out=str(result)
        )
    return ParityReference(
        bundle=bundle, picture=picture, result=result, made_by=found["reference"]
    )


def open_case(
    process: WorkerProcess, case: Case, reference: ParityReference, bundle: Bundle | None = None
) -> tuple[ResolvedCase, CaseParity]:
    """Open a case, compare it with the exact result and warm it up.

    Args:
        process: that runs the case.
        case: what to open.
        reference: what to compare with.
        bundle: the model, if it is not the reference's: with other engines.

    Raises:
        DroppedError: it is too far off.
        MissingExtraError: its library is not installed.
        BackendError: it cannot run.
    """
    actual = ResolvedCase(**process.open(case, bundle or reference.bundle, reference.picture))
    is_exact = case.precision == "fp32" or actual.device == "cpu"
    floor = EXACT_FLOOR if is_exact else HALF_FLOOR
    found = process.request("check", reference=str(reference.result))
    passed = bool(found["psnr"] >= floor)  # NaN compares false
    parity = CaseParity(reference=reference.made_by, floor=floor, passed=passed, **found)
    if not passed:
        raise DroppedError(parity)
    for _ in range(2):  # the second may record graphs
        process.request("warm")
    process.suspend()
    return actual, parity


def exact_result(bundle: Bundle, image: Image) -> tuple[Image, str]:
    """The result in FP32 of the whole picture at once, and what made it.

    By PyTorch where it is installed, on the GPU if it finds one (without TF32); else by
    onnxruntime on the CPU.
    """
    backend: BackendName
    precision: Precision
    try:
        torch = require("torch", feature="The reference", extra="torch")
        require("safetensors", feature="The reference", extra="torch")
    except MissingExtraError:
        backend, device, made_by = "onnx", "cpu", "onnxruntime fp32"
    else:
        backend, device = "torch", "cuda" if torch.cuda.is_available() else "cpu"
        made_by = f"torch fp32 on {device}"
        if device == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    precision = "fp32" if backend == "torch" else "auto"
    with Upscaler(
        bundle, backend=backend, device=device, tile="whole", precision=precision, tuning=None
    ) as upscaler:
        whole = max(image.shape[:2]) <= upscaler.tile
        return upscaler(image), f"{made_by}, {'whole picture' if whole else 'tiled'}"


def image_difference(result: Image, reference: Image) -> dict[str, Any]:
    """PSNR in dB, largest difference in levels, and share of values that differ."""
    if result.shape != reference.shape or result.dtype != reference.dtype:
        return {"psnr": 0.0, "levels": 255, "differing": 1.0}
    squares, worst, differing = 0, 0, 0
    for first in range(0, len(result), ROWS):
        band = slice(first, first + ROWS)
        gap = np.abs(result[band].astype(np.int16) - reference[band])
        squares += int(np.square(gap, dtype=np.int64).sum())
        worst, differing = max(worst, int(gap.max(initial=0))), differing + int((gap > 0).sum())
    psnr = float(10 * np.log10(255**2 * result.size / squares)) if squares else PERFECT_DB
    return {"psnr": psnr, "levels": worst, "differing": differing / max(result.size, 1)}
