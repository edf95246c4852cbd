"""``python -m benchmarks.gpu.kit KIT``: prepare files that take long to create on the GPU machine.

The kit holds the stand-ins of the suite ``gpu`` as bundles without weights, the seeds to recreate
the weights from (see ``weights.py``), and images with their FP32 results by onnxruntime.
``.ci/gpu-kit`` adds wheels. With ``--tiny``, networks and images are tiny, for a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import weights
from resharp import Upscaler
from resharp.bench import cases
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.export import ExportOptions, export

REFERENCES = "references"
BUILT_IN = "resharp-x4"
SIZES = {BUILT_IN: (360, 640)}
SIZE, TINY = (256, 256), (64, 80)
"""Height and width of the images."""
SMALL: dict[str, dict[str, Any]] = {
    "SRVGGNetCompact": {"num_feat": 16, "num_conv": 2, "upscale": 4},
    "RRDBNet": {"num_feat": 16, "num_grow_ch": 8, "num_block": 1, "scale": 4},
}
MOST = 20 << 20
"""Maximum size of a kit, in bytes."""


def stand_ins(tiny: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and data of each stand-in of the suite."""
    for name, given in cases.load("gpu").stand_ins.items():
        data = {key: given[key] for key in ("architecture", "parameters")}
        if tiny:
            data["parameters"] = SMALL[data["architecture"]]
        yield name, weights.settled(data, given["last"]) if "last" in given else data


def bundle(name: str, data: dict[str, Any], store: Path) -> Bundle:
    """Export a stand-in into a store."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / f"{name}.pth"
        torch.save({"params": weights.seeded(data).state_dict()}, checkpoint)
        return export(checkpoint, ExportOptions(name=name, offline=True), store=store)


def reference(model: str | Bundle, height: int, width: int, path: Path) -> None:
    """Save an image and its FP32 result, computed untiled on the CPU."""
    picture = draw(height, width)
    with Upscaler(model, backend="onnx", device="cpu", tile="whole", tuning=None) as upscaler:
        np.savez_compressed(path, picture=picture, restored=upscaler(picture))


def pack(kit: Path, tiny: bool) -> None:
    """Write all files of the kit."""
    store, references = kit / weights.STORE, kit / REFERENCES
    for folder in (store, references):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    seeds = {}
    for name, data in stand_ins(tiny):
        sys.stdout.write(f"{name}: exporting and computing the reference\n")
        seeds[name] = data
        made = bundle(name, data, store)
        reference(made, *(TINY if tiny else SIZE), references / f"{name}.npz")
        made.path(made.manifest.weights).unlink()
    reference(BUILT_IN, *(TINY if tiny else SIZES[BUILT_IN]), references / f"{BUILT_IN}.npz")
    (kit / weights.SEEDS).write_text(json.dumps(seeds, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(store / ".locks", ignore_errors=True)


def main() -> None:
    """Pack the kit and check its size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kit", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    pack(options.kit, options.tiny)
    size = sum(path.stat().st_size for path in options.kit.rglob("*") if path.is_file())
    sys.stdout.write(f"{size / 2**20:.1f} MiB\n")
    if size > MOST:
        sys.exit(f"the kit must be at most {MOST} bytes, got {size}")


if __name__ == "__main__":
    main()
