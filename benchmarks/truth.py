"""``python -m benchmarks.truth PHOTOS``: fp16 and mixed against fp32, each network at full size.

Runs the graphs that TensorRT would get with onnxruntime on the CPU and compares the outputs in
fp32. Trained weights are available only for some networks; the others have random weights from a
seed, whose activations say little about a trained network's. They still show the effect of the
arithmetic and whether fp16 breaks a network outright. Engines are checked separately on their GPU.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from benchmarks.common import json_option, load, photos_argument, quarter, report
from benchmarks.exports import SIZES
from resharp import models
from resharp.errors import ResharpError
from resharp.export.engine.typed_graph import typed_checkpoint
from resharp.export.measure.costs import example
from resharp.faces.alignment import SIDE, cut, to_crop
from resharp.faces.detection import YuNet
from resharp.models.precision import LARGE, choose_precision, peak
from resharp.runtime import DEFAULT_MODEL
from resharp.runtime.bundle_lookup import builtin_store
from resharp.types import Array

CROP = 96
"""Side of the center crop of each photo, taken at a quarter of the photo's size."""
OFFICIAL = {"realesr-animevideov3": "realesr-animevideov3.pth"}
NAMES = (DEFAULT_MODEL, *OFFICIAL, *SIZES)
COLUMNS = (
    "network",
    "weights",
    "parameters (M)",
    "pictures",
    "largest activation",
    "in",
    "on the drawn picture",
    "over 10,000",
    "begins with",
    "fp16 (dB)",
    "fp16 (levels)",
    "mixed (dB)",
    "mixed (levels)",
    "codes: fp16",
    "codes: mixed",
)
Run = Callable[[Array], tuple[Array, Array | None]]
"""Maps float32 ``[1, h, w, 3]`` in 0..1 to the restored image and the chosen codes, if any."""


def checkpoint_of(name: str, weights: Path | None, folder: Path) -> tuple[models.Checkpoint, str]:
    """Return the checkpoint of a network and its kind: ours, official or random."""
    if name == DEFAULT_MODEL:
        bundle = builtin_store().find(name)
        return models.read_checkpoint(bundle.path(bundle.manifest.weights)), "ours"
    if name in OFFICIAL:
        if weights is None:
            raise click.ClickException(
                f"{name} is an official checkpoint: pass its folder with --weights-dir"
            )
        return models.read_checkpoint(weights / OFFICIAL[name]), "official"
    architecture, parameters = SIZES[name]
    torch.manual_seed(0)
    network = models.find(architecture).build(**parameters)
    shake(network)
    torch.save({"params_ema": network.state_dict()}, folder / "random.pth")
    found = models.read_checkpoint(folder / "random.pth", parameters=parameters)
    return found, "random"


def shake(network: torch.nn.Module) -> None:
    """Also randomize tables initialized to constants; otherwise no code would be preferred."""
    with torch.no_grad():
        for name, one in network.named_parameters():
            if one.squeeze().ndim < 2:
                one.add_(torch.randn(one.shape) * 0.1)
            elif name in ("position_emb", "quantize.embedding.weight"):
                one.normal_()


def pictures(photos: Mapping[str, Array], count: int) -> list[Array]:
    """Return the center crop of each photo at a quarter of its size, uint8."""
    found = []
    for photo in list(photos.values())[:count]:
        small = quarter(photo)
        y, x = (max(side - CROP, 0) // 2 for side in small.shape[:2])
        found.append(np.ascontiguousarray(small[y : y + CROP, x : x + CROP]))
    return found


def faces(photos: Mapping[str, Array], weights: Path | None) -> list[Array]:
    """Return the most confident face of each photo, aligned; without a detector, its center."""
    try:
        detector = YuNet(weights)
    except ResharpError as error:
        click.echo(f"no face detector, using the center of each photo: {error}", err=True)
        return [_square(photo) for photo in photos.values()]
    found = [(photo, detector(photo)) for photo in photos.values()]
    return [cut(photo, to_crop(seen[0].landmarks)) for photo, seen in found if seen]


def _square(photo: Array) -> Array:
    side = min(photo.shape[:2])
    y, x = ((length - side) // 2 for length in photo.shape[:2])
    return np.asarray(cv2.resize(photo[y : y + side, x : x + side], (SIDE, SIDE)))


def runner(path: Path, extra: tuple[float, ...]) -> Run:
    """Open a float graph in onnxruntime, with its choice of codes as an additional output."""
    import onnxruntime

    model = onnx.load(str(path))
    chosen = [node for node in model.graph.node if node.op_type in ("ArgMax", "ArgMin")]
    for node in chosen:
        value = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT64, None)
        model.graph.output.append(value)
    onnx.save_model(model, str(path))
    settings = onnxruntime.SessionOptions()
    settings.enable_cpu_mem_arena, settings.log_severity_level = False, 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    numbers = [np.array([number], np.float32) for number in extra]

    def run(batch: Array) -> tuple[Array, Array | None]:
        restored, *codes = session.run(None, dict(zip(names, (batch, *numbers), strict=True)))
        return np.asarray(restored), np.asarray(codes[0]) if codes else None

    return run


def distance(found: Array, exact: Array) -> tuple[float, int]:
    """Return the PSNR in dB and the largest difference in levels; 0 and 255 if not finite."""
    if not np.isfinite(found).all():
        return 0.0, 255
    gap = np.clip(found, 0, 1).astype(np.float64) - np.clip(exact, 0, 1)
    levels = [np.rint(np.clip(one, 0, 1) * 255).astype(np.int16) for one in (found, exact)]
    psnr = -10 * np.log10(max(float(np.square(gap).mean()), 1e-20))
    return float(psnr), int(np.abs(levels[0] - levels[1]).max())


def measure(
    checkpoint: models.Checkpoint, kind: str, shown: list[Array], folder: Path
) -> dict[str, Any]:
    """Measure one network and return its row of the table."""
    facts, network = checkpoint.facts, models.build(checkpoint)
    batches = [one[None].astype(np.float32) / np.float32(255) for one in shown]
    tops = [peak(network, models.planes(torch.from_numpy(one), facts)) for one in batches]
    top, layer = max(tops)
    drawn, _ = peak(network, example(facts))
    row: dict[str, Any] = {
        "weights": kind,
        "parameters (M)": round(sum(one.numel() for one in network.parameters()) / 1e6, 2),
        "pictures": len(shown),
        "largest activation": round(top, 2),
        "in": layer,
        "on the drawn picture": round(drawn, 2),
        "over 10,000": "yes" if top > LARGE else "no",
        "begins with": choose_precision(drawn),
    }
    exporter = facts.exporters[0]
    extra = tuple(number for _, number in facts.extra)
    exact: list[tuple[Array, NDArray[Any] | None]] = []
    for precision in ("fp32", "fp16", "mixed"):
        path, _ = typed_checkpoint(checkpoint, "float32", precision, folder, exporter)
        run = runner(path, extra)
        results = [run(batch) for batch in batches]
        path.unlink()
        if precision == "fp32":
            exact = results
            continue
        pairs = list(zip(results, exact, strict=True))
        apart = [distance(found[0], wanted[0]) for found, wanted in pairs]
        row[f"{precision} (dB)"] = round(min(psnr for psnr, _ in apart), 2)
        row[f"{precision} (levels)"] = max(levels for _, levels in apart)
        codes = [(a, b) for (_, a), (_, b) in pairs if a is not None and b is not None]
        row[f"codes: {precision}"] = _share([a != b for a, b in codes])
    return row


def _share(differ: list[NDArray[Any]]) -> str:
    if not differ:
        return "-"
    total = sum(one.size for one in differ)
    return f"{sum(int(np.count_nonzero(one)) for one in differ)} of {total}"


@click.command()
@photos_argument
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option(
    "--weights-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the official checkpoints and the face detector.",
)
@click.option(
    "--face",
    "more",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Additional photo with a face; can be repeated.",
)
@click.option("--count", default=4, show_default=True, help="Number of photos for other networks.")
@json_option
def main(
    photos: Path,
    names: tuple[str, ...],
    weights_dir: Path | None,
    more: tuple[Path, ...],
    count: int,
    json_file: Path | None,
) -> None:
    """Measure each network (default: all); existing rows of others in the JSON file are kept."""
    found = load(photos)
    for path in more:
        found[path.stem] = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
    crops, people = pictures(found, count), None
    rows = _earlier(json_file)
    for name in names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, kind = checkpoint_of(name, weights_dir, Path(folder))
            if checkpoint.facts.fixed_size is not None:
                people = people or faces(found, weights_dir)
                shown = people
            else:
                shown = crops
            row = {"network": name, **measure(checkpoint, kind, shown, Path(folder))}
        click.echo(json.dumps(row), err=True)
        rows[name] = row
    ordered = [tuple(rows[one][c] for c in COLUMNS) for one in NAMES if one in rows]
    report("FP16 and mixed against FP32", COLUMNS, ordered, _summary(rows), json_file)


def _earlier(json_file: Path | None) -> dict[str, dict[str, Any]]:
    if json_file is None or not json_file.exists():
        return {}
    rows = json.loads(json_file.read_text(encoding="utf-8"))["rows"]
    return {row["network"]: row for row in rows}


def _summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    trained = [name for name, row in rows.items() if not row["weights"].startswith("random")]
    return {
        "trained": ", ".join(trained) or "none",
        "random": "all others, seed 0: activations and codes say little about trained networks",
        "flagged": ", ".join(n for n, row in rows.items() if row["over 10,000"] == "yes") or "none",
    }


if __name__ == "__main__":
    main()
