"""Records that were never measured: a run on a CPU, one on a GPU, one where nothing worked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from resharp.bench.cases import Case
from resharp.bench.records import (
    ABSENT,
    DROPPED,
    FAILED,
    MEASURED,
    CaseParity,
    Estimate,
    PeakMemory,
    Rates,
    Record,
    Records,
    ResolvedCase,
    RunInfo,
    StageTimes,
)
from resharp.types import Tile

MIB = 2**20
FACTORS = {"tensorrt": 3.4, "torch": 2.1, "torch-eager": 1.4, "onnx-cuda": 1.7, "onnx": 1.05}
"""Speeds of subjects as ratios to upstream, of the synthetic machine."""


def run(name: str = "20250102-030405-abcd", **changes: object) -> RunInfo:
    """Facts that all cases of a run share."""
    made = RunInfo(
        run=name,
        began="2025-01-02T03:04:05+00:00",
        suite="quick",
        environment={
            "cpu": "Some CPU <32 threads>",
            "commit": "0123abc",
            "memory available (bytes)": 125 * 2**30,
            "gpu": {"name": "Some GPU", "driver": "550.1", "clocks": [1980, 2619]},
            "packages": {"torch": "2.6.0", "onnxruntime": "1.20.1"},
        },
        matrix_rate={"cuda fp16": 7.1e14},
        noise={"resharp-x4 640x360": 0.0123},
        memory_check={
            "device": {"allocated": 512 * MIB, "measured": 514 * MIB, "error": 0.0039},
            "host": {"allocated": 256 * MIB, "measured": 256 * MIB, "error": 0.0},
        },
        seconds=321.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def wobble(case: Case) -> float:
    """Something between 0 and 1 that looks random, the same for a case each time."""
    return hashlib.sha256(case.id.encode()).digest()[0] / 255


def estimate(median: float, relative: float = 0.03) -> Estimate:
    """A median with an interval."""
    return Estimate(
        median=median, low=median * (1 - relative), high=median * (1 + relative), values=(median,)
    )


def record(
    subject: str = "torch",
    *,
    model: str = "resharp-x4",
    size: tuple[int, int] = (360, 640),
    tile: Tile = 256,
    batch: int | None = None,
    lanes: int = 1,
    gpu: bool = True,
    name: str = "20250102-030405-abcd",
) -> Record:
    """A measured case with every figure."""
    case = Case(
        model=model,
        subject=subject,
        height=size[0],
        width=size[1],
        tile="auto" if subject in ("upstream", "onnxruntime") else tile,
        batch=batch,
        lanes=lanes,
    )
    side = tile if isinstance(tile, int) and not case.is_baseline else None
    whole = max(size)
    ratio = FACTORS.get(subject, 1.0) * (0.7 + 0.3 * min((side or whole) / 768, 1.0))
    ratio *= (1 + 0.08 * (lanes - 1)) * (1 + 0.04 * ((batch or 1) - 1))
    ratio = ratio * (0.95 + 0.1 * wobble(case)) if subject != "upstream" else 1.0
    seconds = (0.02 if gpu else 1.4) * size[0] * size[1] / 230400 / ratio
    pixels = size[0] * size[1] / 1e6
    area = (side or whole) ** 2 * (batch or 1) * lanes
    return Record(
        run=name,
        case=case,
        status=MEASURED,
        baseline=None if subject == "upstream" else "upstream",
        actual=ResolvedCase(
            backend=subject,
            device="cuda:0" if gpu else "cpu",
            tile=side,
            windows=6,
            batch=batch or 1,
            lanes=lanes,
        ),
        parity=CaseParity(
            reference="torch FP32", psnr=66.04, levels=1, differing=0.001, floor=40.0, passed=True
        ),
        seconds=estimate(seconds),
        ratio=None if subject == "upstream" else estimate(ratio, 0.05),
        noise=0.0123,
        rates=Rates(
            frames=1 / seconds,
            input_megapixels=pixels / seconds,
            output_megapixels=16 * pixels / seconds,
            flops=1.2e6 * pixels * 1e6 / seconds,
            matrix_share=0.41 if gpu else None,
            joules_per_megapixel=12.3 if gpu else None,
        ),
        memory=PeakMemory(
            host=int((600 + 0.0006 * area + 90 * wobble(case)) * MIB),
            host_before=300 * MIB,
            device=int((420 + 0.0021 * area + 60 * wobble(case)) * MIB) if gpu else None,
            device_by="nvml, process" if gpu else "",
        ),
        stages=StageTimes(
            read=0.004,
            upload=0.05 * seconds,
            compute=0.8 * seconds,
            download=0.1 * seconds,
            write=0.006,
            by="events",
        ),
    )


def without(subject: str, status: str, reason: str, **options: object) -> Record:
    """A case that has no figures."""
    made = record(subject, **options)  # type: ignore[arg-type]
    parity = replace(made.parity, psnr=31.0, levels=40, passed=False) if made.parity else None
    return Record(
        run=made.run,
        case=made.case,
        status=status,
        reason=reason,
        parity=parity if status == DROPPED else None,
    )


FAILURES = (
    without("openvino", ABSENT, "openvino is not installed: pip install openvino"),
    without("ncnn", FAILED, "exit code 139 | <segmentation fault> & more", tile=512),
    without("onnx-cuda", DROPPED, "31.0 dB is under the floor of 40.0 dB"),
)


def cpu(model: str = "resharp-x4") -> Records:
    """A run on a CPU: a few cases and a baseline."""
    subjects = ("onnx", "torch")
    cases = [record("upstream", model=model, gpu=False)]
    cases += [
        record(subject, model=model, tile=tile, gpu=False)
        for subject in subjects
        for tile in (128, 256, "whole")
    ]
    return Records(
        run(environment={"cpu": "Some CPU"}, matrix_rate={"cpu fp32": 1.1e11}),
        (*cases, FAILURES[0]),
    )


def gpu(
    models: Sequence[str] = ("resharp-x4",),
    tiles: Sequence[Tile] = (128, 192, 256, 384, 512, "whole"),
    lanes: Sequence[int] = (1, 2),
    batches: Sequence[int | None] = (None, 4),
) -> Records:
    """A run on a GPU: a product of options with a front, and all kinds of failures."""
    cases = [
        replace(
            record("upstream", model=model), baseline="upstream", ratio=estimate(1.0), twin=True
        )
        for model in models
    ]
    for model in models:
        cases += [record("upstream", model=model), record("onnxruntime", model=model)]
        cases += [
            record(subject, model=model, tile=tile, batch=batch, lanes=lane)
            for subject in ("tensorrt", "torch")
            for batch in batches
            for lane in lanes
            for tile in tiles
        ]
        cases.append(record("onnx", model=model, gpu=False))
    return Records(run(), (*cases, *FAILURES))


def failures() -> Records:
    """A run where nothing has figures."""
    return Records(run(noise={}, memory_check={}, seconds=None), FAILURES)


def single() -> Records:
    """A run of one case that was not paired."""
    return Records(run(), (replace(record("torch"), ratio=None, baseline=None, stages=None),))
