"""A bundle whose network only doubles pixels, so that cases spend their time on the input."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np

MODEL = "model"
"""Folder of the bundle in a case."""
SCALE = 2
USE = ("-m", MODEL, "--backend", "onnx")
"""Options that restore with it."""


def bundle(name: str = "doubler") -> dict[str, bytes]:
    """Return the files of the bundle by name."""
    from safetensors.numpy import save

    weights = save({"unused": np.zeros(4, np.float32)})
    graphs = {"uint8": _graph("uint8"), "float32": _graph("float32")}
    files = {f"graph-{dtype}-{_hash(data)[:12]}.onnx": data for dtype, data in graphs.items()}
    files[f"weights-{_hash(weights)[:12]}.safetensors"] = weights
    listed = [_listed(file, data) for file, data in files.items()]
    manifest = {
        "schema": 1,
        "name": name,
        "title": "Doubles pixels",
        "task": "upscale",
        "scale": SCALE,
        "graphs": {"uint8": listed[0], "float32": listed[1]},
        "weights": listed[2],
        "overlap": 0,
        "overlap_curve": [[0, 0.5], [2, 0.0]],
        "value_range": [0.0, 1.0],
        "license": "MIT",
        "parameters": {"num_feat": 4},
        "parity": {
            "shapes": [[1, 24, 36]],
            "float_max_abs": 1e-7,
            "uint8_max_levels": 0,
            "uint8_differing": 0.0,
        },
        "activation_bytes": 24.0,
        "flops_per_pixel": 12.0,
        "sources": [{"name": "doubler.pth", "sha256": "0" * 64, "weight": 1.0}],
        "versions": {"opset": "20"},
    }
    return {**files, "manifest.json": json.dumps(manifest, indent=2).encode()}


def inside(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files by their path below a folder."""
    return {f"{folder}/{name}": data for name, data in files.items()}


def _listed(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "sha256": _hash(data), "size": len(data)}


def _hash(data: bytes) -> str:
    return sha256(data).hexdigest()


def _graph(dtype: str) -> bytes:
    import onnx
    from onnx import helper

    kind = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}[dtype]
    factors = helper.make_tensor("factors", onnx.TensorProto.FLOAT, [4], [1, SCALE, SCALE, 1])
    node = helper.make_node(
        "Resize",
        ["image", "", "factors"],
        ["restored"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    graph = helper.make_graph(
        [node],
        "doubler",
        [helper.make_tensor_value_info("image", kind, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("restored", kind, ["n", "H", "W", 3])],
        [factors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data
