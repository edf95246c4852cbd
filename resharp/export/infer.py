"""What runs a graph, or a module, on a batch on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]
Infer = Callable[[Array], Array]
"""``[n, h, w, 3]`` to ``[n, h*s, w*s, 3]``, of one dtype."""


def in_onnxruntime(path: Path) -> Infer:
    """A graph in onnxruntime."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def in_torch(module: nn.Module) -> Infer:
    """A module in PyTorch."""

    def infer(batch: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(batch)).numpy())

    return infer
