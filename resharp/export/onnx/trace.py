"""Traces a module to an ONNX graph with dynamic n, h and w, by either of torch's exporters.

For networks with a fixed size, only n is dynamic.
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
"""Default opset of both exporters, supported by TensorRT 10 and newer."""
EXPORTERS = ("legacy", "dynamo")
INPUT, OUTPUT = "image", "restored"
TRACED = 2
"""Number of images in the example."""


def trace(
    module: nn.Module,
    dtype: str,
    path: Path,
    *,
    exporter: str = "legacy",
    facts: NetworkFacts | None = None,
) -> onnx.ModelProto:
    """Export ``module`` to ``path``, check the graph and return it.

    The example has n = 2 and h != w, because an example with a single or square image silently
    bakes its sizes into the graphs of some networks.

    Args:
        module: module that takes and returns ``[n, h, w, 3]``; see ``models.for_images``.
        dtype: dtype of input and output, ``uint8`` or ``float32``.
        path: ONNX file to write.
        exporter: ``legacy`` (TorchScript, seconds) or ``dynamo`` (torch.export, a minute).
        facts: facts about the network, for its fixed size and the names of its extra inputs, which
            are float32 tensors of one number each; None: any h and w, and no extra inputs.

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
        except Exception as error:  # tracing runs the network's code, which may raise anything
            why = error.__cause__ or error  # dynamo wraps it in advice to the network's author
            raise ParityError(f"torch's {exporter} exporter fails: {why}") from error
    model = onnx.load(path)
    check(model, path, facts)
    return model


def around_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn a float graph in 0..1 into a uint8 graph, in place: two nodes before it, three after.

    The result is what tracing ``ByteFace`` would give, without tracing a large network twice.

    Args:
        model: graph that takes and returns float32 images in 0..1.
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
    """Suppress the exporters' output, which is meant for network authors; failures still raise.

    The legacy exporter prints the whole graph when it fails.
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
    """Check that the graph is valid ONNX and that n, h and w, or n alone, are dynamic.

    Raises:
        ParityError: the graph is invalid, or its inputs, outputs or shapes are not as required.
    """
    side, extra = _needs(facts)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ParityError(f"the exporter wrote an invalid ONNX graph: {error}") from error
    graph = model.graph
    names = [value.name for value in graph.input]
    if not names or names[1:] != extra or len(graph.output) != 1:
        wanted = f"the inputs {', '.join((INPUT, *extra))}" if extra else "one input"
        raise ParityError(f"the exported graph must have {wanted} and one output, got {names}")
    for value in (graph.input[0], graph.output[0]):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if side is None and (len(sizes) != 4 or any(sizes[:3])):
            raise ParityError(
                f"{value.name} of the exported graph has the fixed shape {sizes}: n, h and w must "
                "be dynamic"
            )
        fixed = (0, side, side, 3)  # 0 is unknown: the legacy exporter may not state the output's
        if side is not None and not all(a in (0, b) for a, b in zip(sizes, fixed, strict=True)):
            raise ParityError(
                f"{value.name} of the exported graph must have the shape n x {side} x {side} x 3 "
                f"with a dynamic n, got {sizes}"
            )


def _needs(facts: NetworkFacts | None) -> tuple[int | None, list[str]]:
    """Return the fixed size of a network, if any, and the names of its extra inputs."""
    return (None, []) if facts is None else (facts.fixed_size, [name for name, _ in facts.extra])
