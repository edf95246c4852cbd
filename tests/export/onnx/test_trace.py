from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from resharp import models
from resharp.errors import ParityError
from resharp.export import parity
from resharp.export.onnx.external_data import externalize, spans
from resharp.export.onnx.trace import EXPORTERS, INPUT, OPSET, check, trace
from resharp.export.parity import Infer, in_onnxruntime, in_torch
from resharp.types import Array
from tests.conftest import random_network


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", ["compact", "rrdb4", "rrdb2"])
def test_both_exporters_compute_what_torch_computes(
    kind: str, exporter: str, tmp_path: Path
) -> None:
    network = random_network(kind)
    both: tuple[nn.Module, nn.Module] = (models.ByteImage(network), models.FloatImage(network))
    infer = []
    for module, dtype in zip(both, ("uint8", "float32"), strict=True):
        path = tmp_path / f"{dtype}.onnx"
        model = trace(module.eval(), dtype, path, exporter=exporter)
        assert [item.version for item in model.opset_import if not item.domain] == [OPSET]
        infer.append(in_onnxruntime(path))
    figures = parity.compare(in_torch(both[0]), in_torch(both[1]), *infer)
    assert figures.shapes == parity.SHAPES
    assert figures.float_max_abs < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_cast_touches_the_bytes_directly(exporter: str, tmp_path: Path) -> None:
    """TensorRT refuses a graph whose uint8 input meets anything but a Cast."""
    module = models.ByteImage(random_network("compact")).eval()
    graph = trace(module, "uint8", tmp_path / "g.onnx", exporter=exporter).graph
    readers = [node.op_type for node in graph.node if INPUT in node.input]
    assert "Cast" in readers
    assert set(readers) <= {"Cast", "Shape"}
    makers = [node.op_type for node in graph.node if graph.output[0].name in node.output]
    assert makers == ["Cast"]


class BakesItsBatch(nn.Module):
    """As SwinIR's ``int(windows / ...)`` does under the legacy exporter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = int(x.shape[0])
        pooled = x.float().reshape(n, -1).mean(dim=1)
        return (x.float() + pooled.reshape(n, 1, 1, 1)).clamp(0, 255).to(torch.uint8)


def test_the_gate_sees_a_baked_batch(tmp_path: Path) -> None:
    path = tmp_path / "baked.onnx"
    module = BakesItsBatch()
    trace(module, "uint8", path)
    run = in_onnxruntime(path)
    with pytest.raises(
        ParityError, match=r"returns uint8 \(2, 24, 36, 3\), but PyTorch returns uint8 \(1,"
    ):
        parity.compare(in_torch(module), lambda x: x, run, lambda x: x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x + np.float32(0.01), "does not compute what PyTorch computes"),
        (lambda x: x * np.float32(np.nan), "gives NaN"),
        (lambda x: x[:, :-1], r"float32 \(1, 23, 36, 3\), but PyTorch returns float32"),
        (lambda x: x.astype(np.float64), "returns float64"),
    ],
)
def test_the_gate_sees_wrong_floats(wrong: Infer, message: str) -> None:
    with pytest.raises(ParityError, match=message):
        parity.compare(lambda x: x, lambda x: x, lambda x: x, wrong)


@pytest.mark.parametrize("step", [1, 2])
def test_the_gate_sees_wrong_bytes(step: int) -> None:
    def off(x: Array) -> Array:
        return np.where(x < 128, x + step, x - step).astype(np.uint8)

    with pytest.raises(ParityError, match=f"{step} levels of 255"):
        parity.compare(lambda x: x, lambda x: x, off, lambda x: x)


def test_the_gate_sees_one_value_two_levels_off() -> None:
    def off(x: Array) -> Array:
        found = x.copy()
        if x.shape[1] == 24:
            found[0, 3, 3, 0] ^= 2
        return found

    with pytest.raises(ParityError, match="2 levels of 255"):
        parity.compare(lambda x: x, lambda x: x, off, lambda x: x)


def test_a_fixed_axis_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2, 12, 20, 3, dtype=torch.uint8)

    with pytest.raises(ParityError, match="must have one input"):
        trace(Fixed(), "uint8", tmp_path / "fixed.onnx")


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    shape: list[str | int | None] = [2, "h", "w", 3]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["image"], ["restored"])],
            "fixed",
            [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, shape)],
            [onnx.helper.make_tensor_value_info("restored", onnx.TensorProto.UINT8, shape)],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    onnx.save_model(model, str(tmp_path / "fixed.onnx"))
    with pytest.raises(ParityError, match=r"fixed shape \[2, 0, 0, 3\]"):
        check(model, tmp_path / "fixed.onnx")


def test_weights_are_shared_and_not_copied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.SRVGGNetCompact(num_feat=16, num_conv=2, upscale=2).eval()
    torch.save(network.state_dict(), tmp_path / "n.pth")
    weights = tmp_path / "w.safetensors"
    models.save_safetensors(models.read_checkpoint(tmp_path / "n.pth"), weights)
    path = tmp_path / "g.onnx"
    model = trace(models.ByteImage(network), "uint8", path)
    before = in_onnxruntime(path)
    moved = externalize(model, weights.name, spans(weights))
    shared = tmp_path / "shared.onnx"
    onnx.save_model(model, str(shared))
    assert moved > 0.9 * sum(p.numel() * 4 for p in network.parameters() if p.dim() == 4)
    assert shared.stat().st_size + moved - path.stat().st_size < 4096
    picture = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(in_onnxruntime(shared)(picture), before(picture))
