"""Types that the rooms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array; each function states its shape and dtype."""
Image: TypeAlias = NDArray[Any]
"""An image ``[h, w]`` or ``[h, w, c]``, BGR or BGRA unless stated otherwise, as uint8, uint16 or
float32 in 0..1; or a batch ``[n, h, w, c]`` of such images."""
Log = Callable[[str], object]
"""Called with one line of text for the user."""
BackendName = Literal["auto", "tensorrt", "torch", "onnx"]
"""A backend, or ``auto`` for the first that works."""
Precision = Literal["auto", "fp32"]
"""``auto``: FP16 on a GPU where that preserves the image; ``fp32``: never FP16."""
EnginePrecision = Literal["fp16", "mixed", "fp32", "bf16"]
"""The arithmetic of a TensorRT engine."""
Variant = Literal["tensorrt", "tensorrt_rtx"]
"""TensorRT, or TensorRT-RTX."""
Tile = int | Literal["auto", "whole"]
"""The largest side of a tile in pixels; ``auto``: as free memory allows; ``whole``: as few tiles as
that allows."""
Tta = Literal[1, 2, 4, 8]
"""Flips and rotations to average over (test-time augmentation)."""


class Progress(Protocol):
    """How far a piece of work is: ``progress(done, total)``.

    Called in the caller's thread; raising in it cancels the work and releases every resource. The
    unit depends on the function: tiles, images (a folder counts fractions of one), frames.
    """

    def __call__(self, done: float, total: float, /) -> object:
        """Take the amount done and the total; a total of 0 means that it is not known yet."""
