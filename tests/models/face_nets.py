"""Tiny face networks, bundles of them, and what each of them has to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.engines.target import NAMED, Target
from resharp.errors import ImageError, OptionError
from resharp.export import ExportOptions, export
from resharp.export.engine import Built, EngineOptions, build_engines
from resharp.gpu import tensorrt as variants
from resharp.models import NetworkFacts, for_images
from resharp.runtime.backends import BackendOptions
from resharp.runtime.fallback import load_backend

SIDE = 32
needs_rtx = pytest.mark.skipif(
    variants.RTX not in variants.installed(), reason="TensorRT-RTX is not installed (extra rtx)"
)


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Biases and gains begin at 0 or 1 and would hide in sums and products."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.squeeze().ndim < 2:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network.eval()


def faces(count: int, side: int = SIDE, seed: int = 0) -> Tensor:
    """Noise in -1..1, ``[count, 3, side, side]``."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def crops(count: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Drawn images."""
    return np.stack([draw(side, side, seed=index) for index in range(count)])


def exported(network: nn.Module, folder: Path) -> Bundle:
    """Through the parity gate, by the exporter that is fast for tiny networks."""
    torch.save({"params_ema": network.state_dict()}, folder / "tiny.pth")
    options = ExportOptions(exporter="legacy")
    return export(folder / "tiny.pth", options, store=folder / "store")


def as_run(
    bundle: Bundle, name: str, batch: NDArray[Any], extra: dict[str, float] | None = None
) -> NDArray[Any]:
    """What a backend makes of a batch on the CPU."""
    with load_backend(name)(bundle, BackendOptions()) as backend:
        found: NDArray[Any] = backend.infer(batch, extra)
    return found


def check_backends(bundle: Bundle, extra: dict[str, float] | None = None) -> None:
    """onnx and torch agree, for n other than that of the trace and both dtypes."""
    for count in (1, 3):
        batch = crops(count)
        found, expected = (as_run(bundle, name, batch, extra) for name in ("onnx", "torch"))
        assert found.shape == batch.shape
        assert int(np.abs(found.astype(int) - expected.astype(int)).max()) <= 1
        assert found.std() > 5
    floats = batch.astype(np.float32) / np.float32(255)
    first, second = (as_run(bundle, name, floats, extra) for name in ("onnx", "torch"))
    np.testing.assert_allclose(first, second, atol=2e-4)
    np.testing.assert_allclose(first * 255, expected, atol=1.01)


def check_refusals(bundle: Bundle) -> None:
    """Other sizes and unknown inputs, by both backends."""
    for name in ("onnx", "torch"):
        with pytest.raises(OptionError, match=f"images of {SIDE}x{SIDE} pixels, got 24x16"):
            as_run(bundle, name, np.zeros((1, 16, 24, 3), np.uint8))
        with pytest.raises(OptionError, match="has no input strength"):
            as_run(bundle, name, crops(1), {"strength": 0.5})


def check_pictures(network: nn.Module, facts: NetworkFacts) -> None:
    """The wrappers: colors swapped on both ends, -1..1 inside, rounded at the end."""
    batch = torch.from_numpy(crops(2))
    found = for_images(network, facts, "uint8")(batch)
    planes = batch.permute(0, 3, 1, 2).flip(1).float() / 127.5 - 1
    with torch.inference_mode():
        wanted = (network(planes).clamp(-1, 1) + 1) * 127.5
    assert found.dtype is torch.uint8
    assert float((found.permute(0, 3, 1, 2).flip(1) - wanted).abs().max()) <= 0.51
    for wrong in (batch.float(), batch[0], batch[:, :8], batch[..., :1]):
        with pytest.raises(ImageError, match="faces"):
            for_images(network, facts, "uint8")(wrong)


def build(bundle: Bundle, precision: str | None = None) -> Built:
    """The uint8 engine for every kind that TensorRT-RTX names."""
    options = EngineOptions(variant=variants.RTX, precision=precision, dtypes=("uint8",))
    (built,) = build_engines(bundle, Target(targets=NAMED), options)
    profile = built.engine.spec.profile
    assert (profile.smallest, profile.tile, profile.batch) == (SIDE, SIDE, 4)
    assert built.engine.graph.passed
    return built


def unrounded(network: nn.Module, half: nn.Module, stays: Callable[[str], bool]) -> None:
    """Exactly the tensors that ``stays`` names are float32 still, with every bit of them."""
    before = network.state_dict()
    for name, tensor in half.state_dict().items():
        assert (tensor.dtype is torch.float32) == stays(name), name
        if stays(name):
            assert torch.equal(tensor, before[name])
