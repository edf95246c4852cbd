"""Trace a module to an ONNX graph with dynamic n, h and w, by either of torch's exporters.

Networks that take one size only have dynamic n alone.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from resharp.errors import ParityError, ResharpError
from resharp.export.onnx.dynamic_batch_patches import any_batch
from resharp.models import NetworkFacts

OPSET = 20
"""What both exporters give by default and TensorRT 10 and newer read."""
EXPORTERS = ("legacy", "dynamo")
INPUT, OUTPUT = "image", "restored"
TRACED = 2
"""Pictures of the example."""


def trace(
    module: nn.Module,
    dtype: str,
    path: Path,
    *,
    exporter: str = "legacy",
    facts: NetworkFacts | None = None,
) -> onnx.ModelProto:
    """Export ``module`` to ``path`` and return the graph, checked.

    The example has n = 2 and h != w, since an example of one picture, or of a square one, bakes
    these numbers into some networks without a word.

    Args:
        module: takes and returns ``[n, h, w, 3]``; see ``models.for_pictures``.
        dtype: of both: ``uint8`` or ``float32``.
        path: of the ONNX file to write.
        exporter: ``legacy`` (TorchScript, seconds) or ``dynamo`` (torch.export, a minute).
        facts: of the network, for the one size that it takes and the names of its further inputs,
            float32 tensors of one number each; None: any h and w, and no such.

    Raises:
        ParityError: the exporter fails, the graph is not valid ONNX, or n, h or w are not dynamic.
    """
    side, extra = _needs(facts)
    height, width = (12, 20) if side is None else (side, side)
    example = torch.zeros(TRACED, height, width, 3, dtype=getattr(torch, dtype))
    inputs = (example, *(torch.full((1,), 0.5) for _ in extra))
    free = range(3 if side is None else 1)
    options: dict[str, Any]
    if exporter == "dynamo":
        shapes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC), *(None for _ in extra))
        options = {"dynamic_shapes": shapes, "external_data": False, "verbose": False}
    else:
        axes, axes_out = ("n", "h", "w"), ("n", "h_out", "w_out")
        named = {
            INPUT: {axis: axes[axis] for axis in free},
            OUTPUT: {axis: axes_out[axis] for axis in free},
        }
        options = {"dynamic_axes": named}
    with torch.no_grad(), any_batch(module), _quiet():
        try:
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=exporter == "dynamo",
                opset_version=OPSET,
                input_names=[INPUT, *extra],
                output_names=[OUTPUT],
                **options,
            )
        except (ResharpError, MemoryError):
            raise
        except Exception as error:  # a tracer runs the network's code and raises almost anything
            why = error.__cause__ or error  # dynamo wraps it in advice to the network's author
            raise ParityError(f"torch's {exporter} exporter fails: {why}") from error
    model = onnx.load(path)
    check(model, path, facts)
    return model


def around_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for bytes from that for floats in 0..1, in place: two nodes before, three behind.

    What tracing ``ByteFace`` would give, without tracing a large network twice.

    Args:
        model: takes float32 pictures, and gives such between 0 and 1.
    """
    graph, byte = model.graph, onnx.TensorProto.UINT8
    given, result = graph.input[0], graph.output[0]
    inner, restored = f"{given.name}_unit", f"{result.name}_unit"
    for node in graph.node:
        _rename(node.input, given.name, inner)
        _rename(node.input, result.name, restored)
        _rename(node.output, result.name, restored)
    node = onnx.helper.make_node
    before = [
        node("Cast", [given.name], [f"{inner}_levels"], to=onnx.TensorProto.FLOAT),
        node("Mul", [f"{inner}_levels", f"{inner}_factor"], [inner]),
    ]
    behind = [
        node("Mul", [restored, f"{restored}_factor"], [f"{restored}_levels"]),
        node("Round", [f"{restored}_levels"], [f"{restored}_rounded"]),  # half to even
        node("Cast", [f"{restored}_rounded"], [result.name], to=byte),
    ]
    for name, factor in ((f"{inner}_factor", 1 / 255), (f"{restored}_factor", 255.0)):
        graph.initializer.append(
            onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [factor])
        )
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (given, result):
        value.type.tensor_type.elem_type = byte
    return model


def _rename(names: MutableSequence[str], before: str, after: str) -> None:
    for index, name in enumerate(names):
        if name == before:
            names[index] = after


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice to their authors from our users; failures still raise.

    The legacy one prints the whole graph when it fails.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check(model: onnx.ModelProto, path: Path, facts: NetworkFacts | None = None) -> None:
    """See that ONNX accepts the graph and that n, h and w, or n alone, are dynamic.

    Raises:
        ParityError: it does not, or they are not.
    """
    side, extra = _needs(facts)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ParityError(f"the exporter wrote a graph that ONNX refuses: {error}") from error
    graph = model.graph
    names = [value.name for value in graph.input]
    if not names or names[1:] != extra or len(graph.output) != 1:
        wanted = f"the inputs {', '.join((INPUT, *extra))}" if extra else "one input"
        raise ParityError(f"the exported graph must have {wanted} and one output, not {names}")
    for value in (graph.input[0], graph.output[0]):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if side is None and (len(sizes) != 4 or any(sizes[:3])):
            raise ParityError(
                f"{value.name} of the exported graph has the fixed shape {sizes}: n, h and w must "
                "be dynamic"
            )
        fixed = (0, side, side, 3)  # the legacy exporter may not know the output's
        if side is not None and not all(a in (0, b) for a, b in zip(sizes, fixed, strict=True)):
            raise ParityError(
                f"{value.name} of the exported graph has the shape {sizes}, not n x {side} x "
                f"{side} x 3 with a dynamic n"
            )


def _needs(facts: NetworkFacts | None) -> tuple[int | None, list[str]]:
    """The one size that a network takes, and the names of its further inputs."""
    return (None, []) if facts is None else (facts.fixed_size, [name for name, _ in facts.extra])
