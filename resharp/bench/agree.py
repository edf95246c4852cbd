"""A case is opened, held against the exact result, and only then worth timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.records import Actual, Parity
from resharp.bench.reference import EXACT_FLOOR, HALF_FLOOR
from resharp.bench.seat import Seat
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import ResharpError


class DroppedError(ResharpError):
    """The output is too far from the exact result."""

    def __init__(self, parity: Parity) -> None:
        super().__init__(
            f"{parity.psnr:.1f} dB from {parity.reference}, up to {parity.levels} levels off: "
            f"under {parity.floor:g} dB"
        )
        self.parity = parity


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A model and a picture, and what FP32 makes of it."""

    bundle: Bundle
    picture: Path
    """The input, a file of numpy's."""
    exact: Path
    """The exact result, a file of numpy's."""
    how: str
    """What made that."""


def scene(
    bundle: Bundle, height: int, width: int, folder: Path, report: Callable[[str], object]
) -> Scene:
    """Draw a picture and make its exact result, in a process that goes when it is done.

    Raises:
        BackendError: FP32 does not run here.
    """
    stem = f"{bundle.manifest.name}-{width}x{height}"
    report(f"{bundle.manifest.name}, {width}x{height}: the exact result")
    picture, exact = folder / f"{stem}.npy", folder / f"{stem}-exact.npy"
    np.save(picture, draw(height, width))
    with Seat() as seat:
        found = seat.ask(
            "reference", folder=str(bundle.folder), picture=str(picture), out=str(exact)
        )
    return Scene(bundle=bundle, picture=picture, exact=exact, how=found["reference"])


def open_case(seat: Seat, case: Case, scene: Scene, bundle: Bundle) -> tuple[Actual, Parity]:
    """Open a case, hold it against the exact result and warm it up.

    Raises:
        DroppedError: it is too far off.
        MissingExtraError: its library is not here.
        BackendError: it cannot run.
    """
    actual = Actual(**seat.open(case, bundle, scene.picture))
    is_exact = case.precision == "fp32" or actual.device == "cpu"
    floor = EXACT_FLOOR if is_exact else HALF_FLOOR
    found = seat.ask("check", reference=str(scene.exact))
    passed = bool(found["psnr"] >= floor)  # NaN compares false
    parity = Parity(reference=scene.how, floor=floor, passed=passed, **found)
    if not passed:
        raise DroppedError(parity)
    for _ in range(2):  # the second may record graphs
        seat.ask("warm")
    seat.rest()
    return actual, parity
