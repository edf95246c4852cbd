"""Types that the rooms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from numpy.typing import NDArray

Array = NDArray[Any]
"""An array; each function says its shape and dtype."""
Image = NDArray[Any]
"""An image ``[h, w]`` or ``[h, w, c]``, BGR or BGRA where a function says no other order, as uint8,
uint16 or float32 in 0..1; or a batch ``[n, h, w, c]`` of such."""
Progress = Callable[[int, int], object]
"""``progress(done, total)``, called in the caller's thread; what it raises cancels the work."""
Log = Callable[[str], object]
"""Takes one line for the user."""
BackendName = Literal["auto", "tensorrt", "torch", "onnx"]
"""What restores: a backend, or the first that works."""
Precision = Literal["auto", "fp32"]
"""``auto``: FP16 on a GPU, where that keeps the image; ``fp32``: never FP16."""
