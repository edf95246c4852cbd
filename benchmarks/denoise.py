"""``python -m benchmarks.denoise``: three ways to a denoise strength for TensorRT, compared.

An engine for each strength; one engine whose weights are refitted; one whose graph mixes two sets
of weights. realesr-general-x4v3 in full size, with random weights, built with TensorRT-RTX, which
needs no GPU. What refitting costs, and what mixed weights cost at run time, a GPU has to say.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import json_option, report
from resharp import models
from resharp.engines import Source, Store
from resharp.engines.blend import blended
from resharp.engines.target import NAMED, Target
from resharp.export import ExportOptions
from resharp.export.engine import EngineOptions, build_engines
from resharp.export.run import export_origin
from resharp.export.sources import Origin, Part
from resharp.gpu import tensorrt as trt

SIDE = 256
ROUNDS = 7


class Mixing(nn.Module):
    """SRVGGNetCompact whose weights are mixed in every run; float32 or half, planes in and out."""

    def __init__(self, own: Any, other: Any) -> None:
        super().__init__()
        self.own, self.other = own, other

    def forward(self, x: Tensor, strength: Tensor) -> Tensor:
        """As the network at that strength."""
        share, out = strength.to(x.dtype), x
        for own, other in zip(self.own.body, self.other.body, strict=True):
            weight = share * own.weight + (1 - share) * other.weight
            if isinstance(own, nn.Conv2d):
                assert own.bias is not None
                bias = share * own.bias + (1 - share) * other.bias
                out = F.conv2d(out, weight, bias, padding=1)
            else:
                out = F.prelu(out, weight)
        return F.pixel_shuffle(out, 4) + F.interpolate(x, scale_factor=4.0)


def _mixing(paths: list[Path]) -> Mixing:
    return Mixing(*(models.load_network(path) for path in paths)).eval()


def _networks(folder: Path) -> list[Path]:
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = models.find("SRVGGNetCompact").build(num_conv=32, upscale=4)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.copy_(torch.rand(parameter.shape) * 0.5)
        paths.append(folder / f"net{seed}.pth")
        torch.save({"params": network.state_dict()}, paths[-1])
    return paths


def _origin(paths: list[Path]) -> Origin:
    parts = [Part(path=p, source=Source(name=p.name, sha256="0" * 64)) for p in paths]
    return Origin(
        name="general",
        title="general",
        task="upscale",
        licence="none",
        terms="",
        parts=(parts[0],),
        twin=parts[1],
    )


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def _built(graph: Path, refit: bool = False) -> tuple[Any, Any, str]:
    """Seconds, MB and GPUs of an engine: for all kinds of GPU together, or else for one."""
    for targets in (NAMED, NAMED[-1:]):
        try:
            seconds, count = _build(graph, targets, refit)
        except click.ClickException:
            continue
        return round(seconds, 1), round(count / 1e6, 2), "+".join(targets)
    return "-", "-", "refused"


def _build(graph: Path, targets: Sequence[str], refit: bool) -> tuple[float, int]:
    """Seconds and bytes of a TensorRT-RTX engine of a graph."""
    rtx = trt.load(trt.RTX)
    log = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(log)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise click.ClickException(str(parser.get_error(0)))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, 64, 64), (1, 3, 256, 256), (4, 3, 512, 512))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(targets)
    for index, name in enumerate(targets):
        config.set_compute_capability(getattr(rtx.ComputeCapability, name.upper()), index)
    if refit:
        config.set_flag(rtx.BuilderFlag.REFIT)
    seconds, engine = _timed(lambda: builder.build_serialized_network(network, config))
    if engine is None:
        raise click.ClickException("TensorRT-RTX built nothing")
    return seconds, engine.nbytes


def _planes(module: nn.Module, extra: tuple[Tensor, ...], path: Path) -> Path:
    example = torch.zeros(2, 3, 12, 20, dtype=next(module.parameters()).dtype)
    axes = {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example, *extra),
            str(path),
            dynamo=False,
            opset_version=20,
            input_names=["image", "strength"][: 1 + len(extra)],
            output_names=["restored"],
            dynamic_axes={"image": axes, "restored": axes},
        )
    return path


def _ratio(constant: Path, mixing: Path) -> float:
    """Time of onnxruntime on the CPU with mixed weights over that with constant ones, by pairs."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(path)) for path in (constant, mixing)]
    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    feeds = [{"image": image}, {"image": image, "strength": np.array([0.5], np.float32)}]
    ratios = []
    for _ in range(ROUNDS):
        taken = [
            _timed(lambda s=s, f=f: s.run(None, f))[0]  # type: ignore[misc]
            for s, f in zip(sessions, feeds, strict=True)
        ]
        ratios.append(taken[1] / taken[0])
    return float(np.median(ratios))


@click.command()
@json_option
def main(json_file: Path | None) -> None:
    """Make and build all three."""
    rows: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _networks(folder)
        store = folder / "store"
        first, base = _timed(lambda: export_origin(_origin(paths), ExportOptions(), engines=store))
        made, variant = _timed(lambda: blended(base, 0.37, Store(store)))
        again, _ = _timed(lambda: blended(base, 0.37, Store(store)))
        options = EngineOptions(flavour=trt.RTX, dtypes=("uint8",), precision="fp16")
        target = Target(targets=NAMED)
        build, (done,) = _timed(lambda: build_engines(variant, target, options))
        repeat, _ = _timed(lambda: build_engines(variant, target, options))
        size = round(done.engine.file.size / 1e6, 2)
        rows.append(("an engine for each strength", round(build, 1), size, "+".join(NAMED), 1.0))
        share = torch.full((1,), 0.5)
        constant = _planes(models.load_network(paths[0]), (), folder / "constant.onnx")
        graph = _planes(_mixing(paths), (share,), folder / "mixing.onnx")
        ratio = _ratio(constant, graph)
        graph = _planes(_mixing(paths).half(), (share,), folder / "mixing-half.onnx")
        rows.append(("weights mixed in the graph", *_built(graph), round(ratio, 2)))
        graph = _planes(models.load_network(paths[0]).half(), (), folder / "half.onnx")
        rows.append(("one engine that can be refitted", *_built(graph, refit=True), 1.0))
        rows.append(("the same, not refittable", *_built(graph), 1.0))
    summary = {
        "export with the twin, once (s)": round(first, 1),
        "another strength (s)": round(made, 3),
        "the same strength again (s)": round(again, 4),
        "its engine (s)": round(build, 1),
        "its engine again (s)": round(repeat, 2),
    }
    columns = ("way", "build (s)", "engine (MB)", "for", "time of a run, onnxruntime, CPU")
    report("A denoise strength for TensorRT", columns, rows, summary, json_file)


if __name__ == "__main__":
    main()
