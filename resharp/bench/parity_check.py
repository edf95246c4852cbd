"""Parity check: every case is compared with an FP32 result before it is timed."""

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
"""Minimum PSNR in dB for FP32, which differs only by rounding and by tiling."""
HALF_FLOOR = FLOOR_DB
"""Minimum PSNR in dB for FP16, the same as for engines."""
ROWS = 64
"""Rows compared at once, which limits the memory of the comparison."""


class DroppedError(ResharpError):
    """A case whose output is too far from the exact result."""

    def __init__(self, parity: CaseParity) -> None:
        super().__init__(
            f"PSNR must be at least {parity.floor:g} dB, got {parity.psnr:.1f} dB (up to "
            f"{parity.levels} levels off) against {parity.reference}"
        )
        self.parity = parity


@dataclass(frozen=True, kw_only=True)
class ParityReference:
    """A model, an input image and its FP32 result."""

    bundle: Bundle
    picture: Path
    """Input image, a ``.npy`` file."""
    result: Path
    """Exact result, a ``.npy`` file."""
    made_by: str
    """Description of how the result was computed, e.g. 'torch fp32 on cpu, whole image'."""


def make_reference(
    bundle: Bundle, height: int, width: int, folder: Path, log: Log
) -> ParityReference:
    """Draw an image and compute its exact result in a separate, short-lived process.

    Raises:
        BackendError: FP32 does not run on this machine.
    """
    name = f"{bundle.manifest.name}-{width}x{height}"
    log(f"{bundle.manifest.name}, {width}x{height}: computing the exact result")
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
        process: process to run the case in.
        case: case to open.
        reference: exact result to compare with.
        bundle: the model with other engines; None: the reference's bundle.

    Raises:
        DroppedError: the output is too far from the exact result.
        MissingExtraError: a library is not installed.
        BackendError: the case cannot run.
    """
    actual = ResolvedCase(**process.open(case, bundle or reference.bundle, reference.picture))
    is_exact = case.precision == "fp32" or actual.device == "cpu"
    floor = EXACT_FLOOR if is_exact else HALF_FLOOR
    found = process.request("check", reference=str(reference.result))
    passed = bool(found["psnr"] >= floor)  # NaN compares false
    parity = CaseParity(reference=reference.made_by, floor=floor, passed=passed, **found)
    if not passed:
        raise DroppedError(parity)
    for _ in range(2):  # the second run may record CUDA graphs
        process.request("warm")
    process.suspend()
    return actual, parity


def exact_result(bundle: Bundle, image: Image) -> tuple[Image, str]:
    """Return the FP32 result of the whole image at once, and a description of how it was computed.

    Uses PyTorch if it is installed, on the GPU if there is one (without TF32), else onnxruntime on
    the CPU.
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
        return upscaler(image), f"{made_by}, {'whole image' if whole else 'tiled'}"


def image_difference(result: Image, reference: Image) -> dict[str, Any]:
    """Return the PSNR in dB, the largest difference in levels, and the fraction that differs."""
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
