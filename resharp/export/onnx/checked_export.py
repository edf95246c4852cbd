"""Graphs that passed the parity gate, by the first of torch's exporters whose graphs do."""

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
from resharp.export.onnx.external_data import MIN_BYTES, externalise, spans
from resharp.export.onnx.subprocess_trace import trace_in_subprocess
from resharp.export.onnx.trace import around_bytes, check, trace
from resharp.models.io import DTYPES
from resharp.models.spandrel_models import is_foreign, label, shorten
from resharp.types import Log


@dataclass(frozen=True, kw_only=True)
class CheckedGraphs:
    """Graphs that compute what PyTorch computes."""

    exporter: str
    """That they are of."""
    graphs: dict[str, File]
    """By dtype."""
    infer: dict[str, parity.Infer]
    """The same in onnxruntime."""
    figures: GraphParity
    """How close they are."""


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

    Our own networks have one exporter that suits them. Which one suits a network of spandrel's is
    tried, and some suit neither: their code bakes the sizes of the example.

    Args:
        checkpoint: that the network is of.
        network: in fp32, on the CPU.
        weights: its file, in ``folder``, that the graphs are to share.
        folder: to write into; what failed is removed.
        exporter: the only one to try; None tries those that suit the network.
        least: see :func:`externalise`.
        log: told the steps.

    Raises:
        ParityError: no graph passed; for spandrel's networks with the name and every reason.
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
        f"{label(checkpoint.architecture)} cannot be exported: no trace of it generalises to other "
        f"sizes, so nothing was stored. {'; '.join(reasons)}. If it takes multiples only, say "
        "so: --parameter multiple=16"
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
    """Write ``DTYPE.onnx`` beside the weights for each of ``DTYPES``."""
    facts, folder = checkpoint.facts, weights.parent
    if is_foreign(checkpoint.architecture):
        log(f"tracing both graphs of {label(checkpoint.architecture)} ({exporter})")
        trace_in_subprocess(weights, DTYPES, exporter, folder)
    elif facts.fixed_size is None:
        for dtype in DTYPES:
            log(f"tracing the {dtype} graph ({exporter})")
            module = models.for_pictures(network, facts, dtype)
            trace(module, dtype, folder / f"{dtype}.onnx", exporter=exporter, facts=facts)
    else:  # large: one trace serves both
        log(f"tracing the graph ({exporter})")
        module, path = models.for_pictures(network, facts, "float32"), folder / "uint8.onnx"
        floats = trace(module, "float32", folder / "float32.onnx", exporter=exporter, facts=facts)
        onnx.save_model(around_bytes(floats), str(path))
        check(onnx.load(path), path, facts)


def _share(folder: Path, weights: File, least: int) -> dict[str, File]:
    """Both graphs with their weights in the one file, under names that carry their hashes."""
    graphs, known = {}, spans(folder / weights.name)
    for dtype in DTYPES:
        path = folder / f"{dtype}.onnx"
        model = onnx.load(path)
        externalise(model, weights.name, known, least)
        onnx.save_model(model, str(path))
        onnx.checker.check_model(str(path))
        graphs[dtype] = named(path, f"graph-{dtype}")
    return graphs
