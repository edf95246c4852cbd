"""Graphs that passed the parity gate, by the first of torch's exporters whose graphs do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from resharp import models
from resharp.engines import File, GraphParity
from resharp.engines.store import named
from resharp.errors import ParityError
from resharp.export import parity
from resharp.export.infer import Infer, in_onnxruntime, in_torch
from resharp.export.onnx.external_data import MIN_BYTES, Span, externalise, spans
from resharp.export.onnx.subprocess_trace import trace_in_subprocess
from resharp.export.onnx.trace import around_bytes, check, trace_for
from resharp.models.spandrel_models import brief, is_foreign, label
from resharp.types import Log


@dataclass(frozen=True, kw_only=True)
class CheckedGraphs:
    """Graphs that compute what PyTorch computes."""

    exporter: str
    """That they are of."""
    graphs: dict[str, File]
    """By dtype."""
    infer: dict[str, Infer]
    """The same in onnxruntime."""
    figures: GraphParity
    """How close they are."""


def checked_export(
    checkpoint: models.Checkpoint,
    modules: Mapping[str, nn.Module],
    weights: File,
    folder: Path,
    *,
    exporter: str | None = None,
    least: int = MIN_BYTES,
    report: Log = lambda line: None,
) -> CheckedGraphs:
    """Trace both graphs into ``folder`` and compare them with PyTorch.

    Our own networks have one exporter that suits them. Which one suits a network of spandrel's is
    tried, and some suit neither: their code bakes the sizes of the example.

    Args:
        checkpoint: that the modules are of.
        modules: by dtype.
        weights: its file, in ``folder``, that the graphs are to share.
        folder: to write into; what failed is removed.
        exporter: the only one to try; None tries those that suit the network.
        least: see :func:`externalise`.
        report: told the steps.

    Raises:
        ParityError: no graph passed; for spandrel's networks with the name and every reason.
    """
    exporters = checkpoint.exporters if exporter is None else (exporter,)
    reasons: list[str] = []
    for one in exporters:
        before = set(folder.iterdir())
        try:
            return _try(checkpoint, modules, weights, folder, one, least, report)
        except ParityError as error:
            if not is_foreign(checkpoint.architecture):
                raise
            reasons.append(f"{one}: {brief(error).partition('. Nothing was stored')[0]}")
            if one != exporters[-1]:
                report(f"{reasons[-1]}; trying {exporters[-1]}")
        for path in set(folder.iterdir()) - before:
            path.unlink()
    raise ParityError(
        f"{label(checkpoint.architecture)} cannot be exported: no trace of it generalises to other "
        f"sizes, so nothing was stored. {'; '.join(reasons)}. If it takes multiples only, say "
        "so: --parameter multiple=16"
    )


def _try(
    checkpoint: models.Checkpoint,
    modules: Mapping[str, nn.Module],
    weights: File,
    folder: Path,
    exporter: str,
    least: int,
    report: Log,
) -> CheckedGraphs:
    facts, known = checkpoint.facts, spans(folder / weights.name)
    graphs = {}
    if is_foreign(checkpoint.architecture):
        report(f"tracing both graphs of {label(checkpoint.architecture)} ({exporter})")
        trace_in_subprocess(folder / weights.name, tuple(modules), exporter, folder)
    large = facts.fixed_size is not None
    if large:
        report(f"tracing the graph ({exporter})")
        trace_for(facts, modules["float32"], "float32", folder / "float32.onnx", exporter)
        path = folder / "uint8.onnx"
        onnx.save_model(around_bytes(onnx.load(folder / "float32.onnx")), str(path))
        extra = [name for name, _ in facts.extra]
        check(onnx.load(path), path, side=facts.fixed_size, extra=extra)
    for dtype, module in modules.items():
        path = folder / f"{dtype}.onnx"
        if not path.exists():
            report(f"tracing the {dtype} graph ({exporter})")
            trace_for(facts, module, dtype, path, exporter)
        graphs[dtype] = _shared(path, weights, known, least)
    infer = {
        dtype: in_onnxruntime(folder / file.name, lean=large) for dtype, file in graphs.items()
    }
    report("comparing the graphs with PyTorch")
    figures = _compare(modules, infer, checkpoint)
    return CheckedGraphs(exporter=exporter, graphs=graphs, infer=infer, figures=figures)


def _shared(path: Path, weights: File, known: Mapping[bytes, Span], least: int) -> File:
    """The graph with its weights in the one file, under a name that carries its hash."""
    model = onnx.load(path)
    externalise(model, weights.name, known, least)
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path))
    return named(path, f"graph-{path.stem}")


def _compare(
    modules: Mapping[str, nn.Module], infer: Mapping[str, Infer], checkpoint: models.Checkpoint
) -> GraphParity:
    facts = checkpoint.facts
    large = facts.fixed_size is not None  # and slow: bytes are the floats, rounded
    tried = parity.cases(facts.fixed_size, len(facts.extra))
    if is_foreign(checkpoint.architecture):
        block = (int(checkpoint.parameters[name]) for name in ("minimum", "multiple"))
        tried += parity.wide(max(facts.size_multiple, *block))
    return parity.compare(
        None if large else in_torch(modules["uint8"]),
        in_torch(modules["float32"]),
        infer["uint8"],
        infer["float32"],
        tried=tried,
        limit=parity.FACE_LIMIT if large else parity.FLOAT_LIMIT,
    )
