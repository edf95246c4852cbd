"""One weights file shared by several graphs: ONNX external data in a safetensors file.

A safetensors file is a length (8 bytes), a JSON header and raw little-endian tensors, so ONNX's
(location, offset, length) can point to any of them. The uint8 graph, the float graph and PyTorch
then read the same 67 MB instead of three copies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

MIN_BYTES = 1024
"""Size in bytes below which constants stay in the graph, where they are readable."""


@dataclass(frozen=True)
class Span:
    """Position of a tensor in a file, in bytes from the start."""

    offset: int
    length: int


def spans(path: Path) -> dict[bytes, Span]:
    """Return the positions of the tensors in a safetensors file, by their raw bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    found = {}
    for name, item in header.items():
        if name != "__metadata__":
            first, stop = item["data_offsets"]
            found[data[start + first : start + stop]] = Span(start + first, stop - first)
    return found


def externalize(
    model: onnx.ModelProto, location: str, known: Mapping[bytes, Span], least: int = MIN_BYTES
) -> int:
    """Replace initializers that are in the weights file by references to it, in place.

    Args:
        model: graph whose initializers hold raw data.
        location: name of the weights file, in the folder of the graph.
        known: result of :func:`spans` for that file.
        least: size in bytes of the smallest constant to replace.

    Returns:
        Number of bytes removed from the graph.
    """
    moved = 0
    for tensor in model.graph.initializer:
        raw = onnx.numpy_helper.to_array(tensor).tobytes()
        span = known.get(raw)
        if span is None or span.length < least:
            continue
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        del tensor.external_data[:]
        for key, value in (
            ("location", location),
            ("offset", str(span.offset)),
            ("length", str(span.length)),
        ):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        moved += span.length
    return moved
