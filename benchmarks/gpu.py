"""``python -m benchmarks.gpu --out FOLDER``: every backend against Real-ESRGAN's script, on a GPU.

Each backend is first compared with FP32; one that is off is dropped. Then it, its stream and the
script's algorithm (``upstream.py``) take turns within one run, so that a change of clocks meets
all of them.
"""

from __future__ import annotations

import copy
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from benchmarks.common import Image, report
from benchmarks.gpu_measure import Memory, facts, kernel_seconds, matrix_rate, network_seconds
from benchmarks.upstream import Upstream, flops
from resharp import Upscaler, models, trt
from resharp.engines import Bundle
from resharp.errors import ResharpError
from resharp.export import ExportOptions, export
from resharp.drawing import draw
from resharp.runtime import Tile
from resharp.runtime.pipeline import choose_tiling, plan_for

DEVICE = "cuda"
BACKENDS = {
    "torch": "torch",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt",
    "onnx-cuda": "onnx",
}
"""Name in the report, name for Upscaler. The flavours of TensorRT have a row each."""
FLOOR_DB = 40.0
"""PSNR against FP32 under which a backend's times say nothing."""
AHEAD = 3
MOST_OVER_DEVICE = 1.10
LEAST_MATRIX_SHARE = 0.40


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network on one size of picture."""

    name: str
    make: Callable[[], nn.Module]
    height: int
    width: int
    least: float
    """Times faster than upstream, at least."""
    share: bool = False
    """Whether its share of the matrix rate has a bar."""


def cases(checkpoint: Path | None) -> tuple[Case, ...]:
    """The two cases; the first takes the checkpoint's weights, if one is given."""

    def compact() -> nn.Module:
        if checkpoint is not None:
            return models.load_network(checkpoint)
        torch.manual_seed(1)
        return models.SRVGGNetCompact(num_feat=64, num_conv=16, upscale=4)

    # Not the checkpoint's own name: export keeps the catalogue's names for the official files.
    name = "srvgg-16x64" if checkpoint is None else f"srvgg-{_kebab(checkpoint.stem)}"
    return (
        Case(name=name, make=compact, height=1080, width=1920, least=3.0),
        Case(name="rrdbnet-23", make=rrdb, height=512, width=512, least=1.5, share=True),
    )


def rrdb(blocks: int = 23) -> nn.Module:
    """A random RRDBNet x4 whose result fills 0..1: a black picture would hide what is off."""
    torch.manual_seed(2)
    network = models.RRDBNet(num_block=blocks, scale=4).eval()
    picture = torch.from_numpy(draw(64, 64)).permute(2, 0, 1)[None] / 255
    last = network.get_submodule("conv_last")
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        result = network(picture)
        factor = 0.2 / float(result.std())
        last.weight.mul_(factor)
        last.bias.mul_(factor).add_(0.5 - factor * float(result.mean()))
    return network


COLUMNS = (
    *("case", "backend", "PSNR (dB)", "worst level", "single (ms)", "stream (ms)", "upstream (ms)"),
    *("x upstream", "x upstream, stream", "range of x", "device (ms)", "device by"),
    *("single / device", "stream / device", "matrix share", "torch peak (MB)", "VRAM (MB)", "note"),
)
Row = dict[str, Any]


class Bench:
    """The measurements of one case. Keeps the reference and the upstream of all backends."""

    def __init__(self, case: Case, store: Path, rate: float, pairs: int, frames: int) -> None:
        self.case, self._rate, self._pairs, self._frames = case, rate, pairs, frames
        self._store = store
        self.image: Image = draw(case.height, case.width)
        self.network = case.make().eval()
        self.bundle = self._export()
        self.exact = self._reference()
        self.flops = flops(self.network, case.height, case.width)
        self.upstream = Upstream(
            copy.deepcopy(self.network), self.bundle.manifest.scale, device=DEVICE, half=_on_gpu()
        )

    def upstream_row(self) -> Row:
        """The yardstick by itself."""
        memory = Memory()
        result = self.upstream.fit(self.image)
        peak, vram = memory.taken()
        psnr, worst = likeness(result, self.exact)
        return {
            **_row(self.case, "upstream", psnr, worst, peak, vram),
            "upstream (ms)": statistics.median(_ms(self._old) for _ in range(self._pairs)),
            "note": f"tile {self.upstream.tile or 'none'}",
        }

    def row(self, name: str) -> Row:
        """All figures of one backend.

        Raises:
            ResharpError: it cannot run here.
            click.ClickException: it is too far from FP32.
        """
        answer = self._build_engine(name) if name in trt.FLAVOURS else ""
        memory = Memory()
        with Upscaler(self.bundle, backend=BACKENDS[name], device=DEVICE) as upscaler:
            psnr, worst = likeness(upscaler(self.image), self.exact)
            if not psnr >= FLOOR_DB:
                raise click.ClickException(
                    f"dropped: {psnr:.1f} dB from FP32, {worst} levels at worst"
                )
            upscaler(self.image)
            self._stream(upscaler)
            peak, vram = memory.taken()  # before upstream's memory comes on top
            times = self._times(upscaler)
            device, by = self._device(upscaler, name)
            note = "; ".join(filter(None, [upscaler.links[-1].reason, answer]))
        return {
            **_row(self.case, name, psnr, worst, peak, vram),
            **times,
            "device (ms)": device,
            "device by": by,
            "single / device": device and times["single (ms)"] / device,
            "stream / device": device and times["stream (ms)"] / device,
            "matrix share": device and self.flops / (device / 1e3) / self._rate,
            "note": note,
        }

    def _times(self, upscaler: Upscaler) -> Row:
        """Milliseconds in interleaved pairs after a warm-up of all; the stream's are a frame's."""
        works: dict[str, Callable[[], object]] = {
            "single (ms)": lambda: upscaler(self.image),
            "stream (ms)": lambda: self._stream(upscaler),
            "upstream (ms)": self._old,
        }
        for work in works.values():
            work()
            work()
        taken: dict[str, list[float]] = {name: [] for name in works}
        for index in range(self._pairs):
            for name in list(works)[:: -1 if index % 2 else 1]:
                frames = self._frames if name == "stream (ms)" else 1
                taken[name].append(_ms(works[name]) / frames)
        old = taken["upstream (ms)"]
        ratios = [u / s for u, s in zip(old, taken["single (ms)"], strict=True)]
        streams = [u / s for u, s in zip(old, taken["stream (ms)"], strict=True)]
        return {
            **{name: statistics.median(values) for name, values in taken.items()},
            "x upstream": statistics.median(ratios),
            "x upstream, stream": statistics.median(streams),
            "range of x": f"{min(ratios):.3g}..{max(ratios):.3g}",
        }

    def _device(self, upscaler: Upscaler, name: str) -> tuple[float | None, str]:
        """Milliseconds of the network alone on the tiles of the picture."""
        if name == "torch":
            network = copy.deepcopy(self.network).to(DEVICE)
            return 1e3 * network_seconds(network, self._tiles(upscaler), self._pairs), "events"
        found = [kernel_seconds(lambda: upscaler(self.image)) for _ in range(3)]
        seconds = [one for one in found if one is not None]
        return (1e3 * statistics.median(seconds), "profiler") if seconds else (None, "unknown")

    def _tiles(self, upscaler: Upscaler) -> tuple[Tile, ...]:
        backend = upscaler._backend
        size = choose_tiling(backend, None).size
        return plan_for(backend, self.case.height, self.case.width, size)

    def _stream(self, upscaler: Upscaler) -> None:
        for _ in upscaler.stream((self.image for _ in range(self._frames)), ahead=AHEAD):
            pass

    def _old(self) -> Image:
        return self.upstream.fit(self.image)

    def _export(self) -> Bundle:
        checkpoint = self._store / f"{self.case.name}.pth"
        torch.save({"params": self.network.state_dict()}, checkpoint)
        options = ExportOptions(name=self.case.name, offline=True)
        return export(checkpoint, options, engines=self._store / "engines")

    def _build_engine(self, flavour: str) -> str:
        """Build for this GPU, with that flavour's engine alone on the shelf.

        Returns:
            What TensorRT answered to the ways that failed.

        Raises:
            ResharpError: all did.
        """
        for engine in self.bundle.shelf.engines()[0]:
            self.bundle.shelf.remove(engine)
        command = [sys.executable, "-m", "resharp", "export-engines", self.case.name, "--offline"]
        command += ["--dtype", "uint8", "--engines", str(self._store / "engines")]
        command += ["--flavour", flavour]
        refused: list[str] = []
        # A GPU that TensorRT-RTX cannot name gets a portable engine, or else one built on itself.
        for gpu in ("0", "current") if flavour == trt.RTX else ("0",):
            done = subprocess.run(
                [*command, "--gpu", gpu], capture_output=True, text=True, check=False
            )
            if not done.returncode:
                return "; ".join(refused)
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            refused.append(f"--gpu {gpu}: {lines[-1]}")
        raise ResharpError(f"no engine was built: {'; '.join(refused)}")

    def _reference(self) -> Image:
        """FP32 on the whole picture, without TF32."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            exact = models.ByteImage(copy.deepcopy(self.network)).eval().to(DEVICE)
            batch = torch.from_numpy(self.image)[None].to(DEVICE)
            return np.asarray(exact(batch)[0].cpu().numpy())


def likeness(one: Image, two: Image) -> tuple[float, int]:
    """PSNR of two uint8 pictures, and the largest difference in levels."""
    gap = np.abs(one.astype(np.int16) - two)
    error = float(np.mean(np.square(gap, dtype=np.float64)))
    return float(10 * np.log10(255**2 / max(error, 1e-12))), int(gap.max())


def bars(case: Case, row: Row) -> dict[str, str]:
    """What is promised, and whether it is met."""
    checks = [
        (f"at least {case.least:g} x upstream", row["x upstream"], True, case.least),
        (
            f"at least {case.least:g} x upstream, stream",
            row["x upstream, stream"],
            True,
            case.least,
        ),
        ("single at most 1.10 x device", row["single / device"], False, MOST_OVER_DEVICE),
        ("stream at most 1.10 x device", row["stream / device"], False, MOST_OVER_DEVICE),
    ]
    if case.share:
        share = ("at least 40 % of the matrix rate", row["matrix share"], True, LEAST_MATRIX_SHARE)
        checks.append(share)
    found = {}
    for text, value, least, bar in checks:
        met = value is not None and (value >= bar if least else value <= bar)
        figure = "unknown" if value is None else f"{value:.3g}"
        found[f"{row['case']}, {row['backend']}: {text}"] = (
            f"{'met' if met else 'MISSED' if value is not None else 'not measured'} ({figure})"
        )
    return found


@click.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of an SRVGGNetCompact, realesr-animevideov3.pth say (default: random ones).",
)
@click.option("--quick", is_flag=True, help="3 pairs and 4 frames instead of 7 and 16.")
def main(out: Path, checkpoint: Path | None, quick: bool) -> None:
    """Measure every backend that works here; needs an NVIDIA GPU that torch can use."""
    if not torch.cuda.is_available():
        raise click.ClickException(
            f"torch {torch.__version__} finds no usable NVIDIA GPU: this benchmark needs one "
            "(a CUDA build of torch, and the driver)"
        )
    about = facts()
    out.mkdir(parents=True, exist_ok=True)
    rows, summary = measure(cases(checkpoint), quick)
    report(
        f"Backends against Real-ESRGAN's script on {about['gpu']}",
        COLUMNS,
        [[row[column] for column in COLUMNS] for row in rows],
        {**about, **summary},
        out / f"gpu-{_kebab(about['gpu'])}.json",
    )


def measure(all_cases: tuple[Case, ...], quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Rows of the table, and the facts below it: rate, bars, and why a backend is missing."""
    rows: list[Row] = []
    rate = matrix_rate()
    summary: dict[str, Any] = {"FP16 matrix rate (TFLOP/s)": rate / 1e12}
    with tempfile.TemporaryDirectory(prefix="resharp-gpu-") as folder:
        for case in all_cases:
            click.echo(f"{case.name}: exporting", err=True)
            bench = Bench(case, Path(folder), rate, *((3, 4) if quick else (7, 16)))
            summary[f"{case.name}: GFLOP of a picture"] = bench.flops / 1e9
            rows.append(bench.upstream_row())
            for name in BACKENDS:
                click.echo(f"{case.name}: {name}", err=True)
                try:
                    rows.append(bench.row(name))
                    summary |= bars(case, rows[-1])
                except (ResharpError, click.ClickException, RuntimeError, OSError) as error:
                    summary[f"{case.name}, {name}"] = str(error) or type(error).__name__
            with Upscaler(bench.bundle) as upscaler:
                summary[f"{case.name}, chain"] = upscaler.explain()
    return rows, summary


def _row(case: Case, name: str, psnr: float, worst: int, peak: float, vram: float) -> Row:
    found: Row = dict.fromkeys(COLUMNS)
    found |= {"case": case.name, "backend": name, "PSNR (dB)": psnr, "worst level": worst}
    return found | {"torch peak (MB)": peak, "VRAM (MB)": vram}


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def _on_gpu() -> bool:
    return DEVICE == "cuda"


def _kebab(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    main()
