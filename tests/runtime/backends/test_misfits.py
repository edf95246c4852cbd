"""Bundles whose graphs are not what their manifest says: an error, never a wrong image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from resharp import Upscaler
from resharp.engines import Bundle, ExtraInput
from resharp.errors import BackendError, OutOfMemoryError
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.base import check_result
from resharp.runtime.backends.onnx import OnnxBackend
from resharp.runtime.backends.torch import TorchBackend

BYTES = np.zeros((1, 8, 12, 3), np.uint8)


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, **changes))


@pytest.mark.parametrize("scale", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_scale_that_the_graph_has_not(compact: Bundle, scale: int, dtype: Any) -> None:
    lying = with_manifest(compact, scale=scale)
    with (
        OnnxBackend(lying, BackendOptions()) as backend,
        pytest.raises(
            BackendError,
            match=f"graph of compact returned 2 times the size, but its manifest says {scale}: ",
        ),
    ):
        backend.infer(BYTES.astype(dtype))


def test_an_image_is_not_cropped(compact: Bundle) -> None:
    lying = with_manifest(compact, scale=1)
    with Upscaler(lying, backend="onnx") as upscaler:
        for call in (upscaler, lambda image: upscaler.batch([image, image])):
            with pytest.raises(BackendError, match="returned 2 times the size"):
                call(np.zeros((40, 48, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 4}, "scale 2, but its manifest says 4"),
        ({"channels": 1}, "channels 3, but its manifest says 1"),
        ({"fixed_size": 64}, "fixed_size None, but its manifest says 64"),
        ({"extra": (ExtraInput(name="f", default=0),)}, r"extra \[\], but its manifest says \['f"),
    ],
)
def test_weights_of_another_network(compact: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        TorchBackend(with_manifest(compact, **changes), BackendOptions())


def test_graphs_that_are_swapped(compact: Bundle) -> None:
    graphs = compact.manifest.graphs
    swapped = {"uint8": graphs["float32"], "float32": graphs["uint8"]}
    with pytest.raises(BackendError, match=r"is tensor\(float\) .*, expected tensor\(uint8\)"):
        OnnxBackend(with_manifest(compact, graphs=swapped), BackendOptions())


def test_an_input_that_the_graph_has_not(compact: Bundle) -> None:
    lying = with_manifest(compact, extra=(ExtraInput(name="fidelity", default=0),))
    with pytest.raises(BackendError, match="expected one input and fidelity"):
        OnnxBackend(lying, BackendOptions())


def more_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))


def more_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = model.graph.node[0].output[0]
    model.graph.output[1].type.tensor_type.ClearField("shape")


def fixed(model: onnx.ModelProto) -> None:
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 64


def weights_elsewhere(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"


def weights_beyond(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(10**12)


EDITS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "more inputs": (more_inputs, "expected one input"),
    "more outputs": (more_outputs, "does not match its manifest|cannot load"),
    "a fixed size": (fixed, r"takes images of \[64, 64\], expected any size"),
    "weights elsewhere": (weights_elsewhere, "onnxruntime cannot load"),
    "weights beyond": (weights_beyond, "onnxruntime cannot load"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_graph(compact: Bundle, tmp_path: Path, kind: str) -> None:
    edit, message = EDITS[kind]
    graph = compact.manifest.graphs["uint8"]
    model = onnx.load(compact.path(graph), load_external_data=False)
    edit(model)
    (tmp_path / graph.name).write_bytes(model.SerializeToString())
    weights = compact.manifest.weights
    (tmp_path / weights.name).write_bytes(compact.path(weights).read_bytes())
    with pytest.raises(BackendError, match=message):
        OnnxBackend(replace(compact, folder=tmp_path), BackendOptions())


def test_a_graph_without_its_weights(compact: Bundle, tmp_path: Path) -> None:
    graph = compact.manifest.graphs["uint8"]
    (tmp_path / graph.name).write_bytes(compact.path(graph).read_bytes())
    with pytest.raises(BackendError, match="onnxruntime cannot load"):
        OnnxBackend(replace(compact, folder=tmp_path), BackendOptions())


class Failing:
    """A session, or a module, that fails as libraries do."""

    def __init__(self, real: Any, error: Exception) -> None:
        self._real, self._error = real, error

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def run(self, *_: Any) -> Any:
        raise self._error

    __call__ = run


@pytest.mark.parametrize(
    ("error", "ours"),
    [(RuntimeError("a node failed"), BackendError), (ValueError("odd"), BackendError)],
)
def test_errors_of_onnxruntime_become_ours(
    compact: Bundle, error: Exception, ours: type[Exception]
) -> None:
    with closing(OnnxBackend(compact, BackendOptions())) as backend:
        backend._sessions["uint8"] = Failing(backend._sessions["uint8"], error)
        with pytest.raises(ours, match=f"onnxruntime failed .*{error}") as caught:
            backend.infer(BYTES)
    assert caught.value.__cause__ is error


def test_errors_of_torch_become_ours(compact: Bundle) -> None:
    import torch

    with closing(TorchBackend(compact, BackendOptions())) as backend:
        modules: dict[Any, Any] = backend._modules
        modules[torch.uint8] = Failing(None, RuntimeError("size mismatch"))
        with pytest.raises(BackendError, match="torch failed: size mismatch"):
            backend.infer(BYTES)
        modules[torch.uint8] = Failing(None, RuntimeError("DefaultCPUAllocator: can't allocate"))
        with pytest.raises(OutOfMemoryError):
            backend.infer(BYTES)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 16, 24, 3), np.float32, r"returned float32 \(2, 16, 24, 3\), expected uint8"),
        ((1, 16, 24, 3), np.uint8, r"returned uint8 \(1, 16, 24, 3\), expected uint8 \(2, 16"),
        ((2, 16, 24, 1), np.uint8, r"returned uint8 \(2, 16, 24, 1\)"),
        ((2, 16, 48, 3), np.uint8, r"returned uint8 \(2, 16, 48, 3\)"),
        ((16, 24), np.uint8, r"returned uint8 \(16, 24\)"),
    ],
)
def test_any_other_shape_or_dtype(shape: tuple[int, ...], dtype: Any, message: str) -> None:
    given = np.zeros((8, 12, 3), np.uint8)
    check_result(np.zeros((2, 16, 24, 3), np.uint8), given, 2, 2, "m")
    with pytest.raises(BackendError, match=message):
        check_result(np.zeros(shape, dtype), given, 2, 2, "m")
