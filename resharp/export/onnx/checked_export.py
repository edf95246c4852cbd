"""Graphs that pass the parity check, from the first of torch's exporters whose graphs do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from resharp import models
from resharp.engines import File, GraphParity
from resharp.engines.store import named
from resharp.errors import ParityError
from resharp.export import parity
from resharp.export.onnx.external_data import MIN_BYTES, externalize, spans
from resharp.export.onnx.subprocess_trace import trace_in_subprocess
from resharp.export.onnx.trace import around_bytes, check, trace
from resharp.models.io import DTYPES
from resharp.models.spandrel_models import is_foreign, label, shorten
from resharp.types import Log


@dataclass(frozen=True, kw_only=True)
class CheckedGraphs:
    """Graphs whose results match PyTorch's."""

    exporter: str
    """Exporter that wrote them, ``legacy`` or ``dynamo``."""
    graphs: dict[str, File]
    """ONNX files, by dtype."""
    infer: dict[str, parity.Infer]
    """The graphs opened in onnxruntime, by dtype."""
    figures: GraphParity
    """Differences from PyTorch."""


def checked_export(
    checkpoint: models.Checkpoint,
    network: nn.Module,
    weights: File,
    folder: Path,
    *,
    exporter: str | None = None,
    least: int = MIN_BYTES,
    log: Log = lambda line: None,
) -> CheckedGraphs:
    """Trace both graphs into ``folder`` and compare them with PyTorch.

    Each of our own networks has one exporter that suits it. For spandrel's networks both are tried,
    and some work with neither: their code bakes in the sizes of the example.

    Args:
        checkpoint: checkpoint of the network.
        network: network in fp32, on the CPU.
        weights: its weights file in ``folder``, which the graphs will share.
        folder: folder to write into; files of a failed exporter are removed.
        exporter: the only exporter to try; None tries those that suit the network.
        least: size in bytes from which constants move to the weights file.
        log: called with a line for each step.

    Raises:
        ParityError: no graph passed; for spandrel's networks the message has every reason.
    """
    exporters = checkpoint.facts.exporters if exporter is None else (exporter,)
    reasons: list[str] = []
    for one in exporters:
        before = set(folder.iterdir())
        try:
            return _try(checkpoint, network, weights, folder, one, least, log)
        except ParityError as error:
            if not is_foreign(checkpoint.architecture):
                raise
            reasons.append(f"{one}: {shorten(error).partition('. Nothing was stored')[0]}")
            if one != exporters[-1]:
                log(f"{reasons[-1]}; trying {exporters[-1]}")
        for path in set(folder.iterdir()) - before:
            path.unlink()
    raise ParityError(
        f"{label(checkpoint.architecture)} cannot be exported: its traces do not work at other "
        f"sizes, so nothing was stored. {'; '.join(reasons)}. If it accepts only multiples of a "
        "size, run export with e.g. `parameters` multiple=16."
    )


def _try(
    checkpoint: models.Checkpoint,
    network: nn.Module,
    weights: File,
    folder: Path,
    exporter: str,
    least: int,
    log: Log,
) -> CheckedGraphs:
    _trace(checkpoint, network, folder / weights.name, exporter, log)
    graphs = _share(folder, weights, least)
    large = checkpoint.facts.fixed_size is not None
    infer = {
        dtype: parity.in_onnxruntime(folder / file.name, lean=large)
        for dtype, file in graphs.items()
    }
    log("comparing the graphs with PyTorch")
    figures = parity.check_graphs(checkpoint, network, infer)
    return CheckedGraphs(exporter=exporter, graphs=graphs, infer=infer, figures=figures)


def _trace(
    checkpoint: models.Checkpoint, network: nn.Module, weights: Path, exporter: str, log: Log
) -> None:
    """Write ``DTYPE.onnx`` next to the weights for each of ``DTYPES``."""
    facts, folder = checkpoint.facts, weights.parent
    if is_foreign(checkpoint.architecture):
        log(f"tracing both graphs of {label(checkpoint.architecture)} ({exporter})")
        trace_in_subprocess(weights, DTYPES, exporter, folder)
    elif facts.fixed_size is None:
        for dtype in DTYPES:
            log(f"tracing the {dtype} graph ({exporter})")
            module = models.for_images(network, facts, dtype)
            trace(module, dtype, folder / f"{dtype}.onnx", exporter=exporter, facts=facts)
    else:  # a large network: one trace serves both
        log(f"tracing the graph ({exporter})")
        module, path = models.for_images(network, facts, "float32"), folder / "uint8.onnx"
        floats = trace(module, "float32", folder / "float32.onnx", exporter=exporter, facts=facts)
        onnx.save_model(around_bytes(floats), str(path))
        check(onnx.load(path), path, facts)


def _share(folder: Path, weights: File, least: int) -> dict[str, File]:
    """Point both graphs to the shared weights file, and put their hashes into their names."""
    graphs, known = {}, spans(folder / weights.name)
    for dtype in DTYPES:
        path = folder / f"{dtype}.onnx"
        model = onnx.load(path)
        externalize(model, weights.name, known, least)
        onnx.save_model(model, str(path))
        onnx.checker.check_model(str(path))
        graphs[dtype] = named(path, f"graph-{dtype}")
    return graphs
