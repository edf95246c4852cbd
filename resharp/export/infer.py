"""What runs a graph, or a module, on a batch on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from resharp.errors import ParityError
from resharp.types import Array

Infer = Callable[..., Array]
"""``[n, h, w, 3]`` to ``[n, h*s, w*s, 3]``, of one dtype; the graph's further inputs, a number
each, follow the pictures."""


def in_onnxruntime(path: Path, *, lean: bool = False) -> Infer:
    """A graph in onnxruntime; ``lean`` keeps no memory from run to run.

    Raises:
        ParityError: onnxruntime refuses the graph.
    """
    settings = onnxruntime.SessionOptions()
    settings.enable_cpu_mem_arena = not lean
    settings.log_severity_level = 4  # errors are raised too
    try:
        session = onnxruntime.InferenceSession(
            str(path), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no class in common
        raise ParityError(f"onnxruntime refuses the graph: {error}") from error
    names = [one.name for one in session.get_inputs()]

    def infer(batch: Array, *extra: float) -> Array:
        numbers = (np.array([number], np.float32) for number in extra)
        return np.asarray(session.run(None, dict(zip(names, (batch, *numbers), strict=True)))[0])

    return infer


def in_torch(module: nn.Module) -> Infer:
    """A module in PyTorch."""

    def infer(batch: Array, *extra: float) -> Array:
        numbers = (torch.tensor([number]) for number in extra)
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(batch), *numbers).numpy())

    return infer
