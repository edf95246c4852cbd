"""Trace a module to an ONNX graph with dynamic n, h and w, by either of torch's exporters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn

from resharp.errors import ParityError

OPSET = 20
"""What both exporters give by default and TensorRT 10 and newer read."""
EXPORTERS = ("legacy", "dynamo")
INPUT, OUTPUT = "image", "restored"
_AXES = {0: "n", 1: "h", 2: "w"}


def trace(
    module: nn.Module, dtype: torch.dtype, path: Path, *, exporter: str = "legacy"
) -> onnx.ModelProto:
    """Export ``module`` to ``path`` and return the graph, checked.

    The example has n = 2 and h != w, since an example of one picture, or of a square one, bakes
    these numbers into some networks without a word.

    Args:
        module: takes and returns ``[n, h, w, 3]``.
        dtype: of both: ``torch.uint8`` or ``torch.float32``.
        path: of the ONNX file to write.
        exporter: ``legacy`` (TorchScript, seconds) or ``dynamo`` (torch.export, a minute).

    Raises:
        ParityError: the graph is not valid ONNX, or n, h or w are not dynamic.
    """
    example = torch.zeros(2, 12, 20, 3, dtype=dtype)
    with torch.no_grad(), _quiet():
        if exporter == "dynamo":
            _dynamo(module, example, path)
        else:
            _legacy(module, example, path)
    model = onnx.load(path)
    check(model, path)
    return model


def _legacy(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    torch.onnx.export(
        module,
        (example,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: _AXES, OUTPUT: {0: "n", 1: "h_out", 2: "w_out"}},
    )


def _dynamo(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    torch.onnx.export(
        module,
        (example,),
        str(path),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=(dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC),),
        external_data=False,
        verbose=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice to their authors from our users; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check(model: onnx.ModelProto, path: Path) -> None:
    """See that ONNX accepts the graph and that n, h and w are dynamic.

    Raises:
        ParityError: it does not, or they are not.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ParityError(f"the exporter wrote a graph that ONNX refuses: {error}") from error
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise ParityError("the exported graph must have one input and one output: n, h and w vary")
    for value in (model.graph.input[0], model.graph.output[0]):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if len(sizes) != 4 or any(sizes[:3]):
            raise ParityError(
                f"{value.name} of the exported graph has the fixed shape {sizes}: n, h and w must "
                "be dynamic"
            )
