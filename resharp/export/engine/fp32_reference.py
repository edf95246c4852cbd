"""The reference that export stores beside an engine, and graphs compared with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.drawing import draw, fitted, middle
from resharp.engines import Bundle, ParityResult
from resharp.engines.reference import Reference, likeness
from resharp.errors import OptionError
from resharp.export.infer import Infer, in_onnxruntime

HEIGHT, WIDTH = 96, 128


def make_reference(bundle: Bundle, tile: int, picture: NDArray[Any] | None = None) -> Reference:
    """Run the FP32 graph in onnxruntime.

    Args:
        bundle: a whole bundle.
        tile: largest side that the engine takes.
        picture: uint8 BGR photo, whose middle is used; None draws one.
    """
    manifest, side = bundle.manifest, bundle.manifest.fixed_size
    height, width = (min(HEIGHT, tile), min(WIDTH, tile)) if side is None else (side, side)
    if picture is None:
        picture = draw(height, width)
    picture = middle(picture, height, width) if side is None else fitted(picture, side)
    if picture.min() == picture.max():
        raise OptionError("the picture shows nothing in its middle: give another to --picture")
    infer = in_onnxruntime(bundle.path(manifest.graphs["float32"]))
    floats = picture.astype(np.float32) / np.float32(255)
    return Reference(picture, infer(floats[None], *manifest.extra_values())[0])


def compare(infer: Infer, reference: Reference, dtype: str) -> ParityResult:
    """How far a graph of either dtype is from the FP32 graph on the reference picture."""
    return likeness(infer(reference.input(dtype)[None])[0], reference.restored)
