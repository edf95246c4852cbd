"""What a network costs for each pixel, and its largest activation, which says where GPUs begin."""

from __future__ import annotations

import copy
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from resharp.drawing import draw, fitted, middle
from resharp.models import NetworkFacts, planes
from resharp.models.precision import choose_precision, peak
from resharp.types import Array

logger = logging.getLogger(__name__)

PEAK_SIDE = 64
"""Of the picture that the largest activation is measured on, where the network takes any size."""
FLOPS_SIDE = 128
"""Of the picture counted on; larger than any window of attention, so that padding adds nothing."""
MEMORY_SIDES = (96, 224)
"""Squares run; the peak grows from the first to the second by their pixels' activations."""

# In a child, since a process's peak never falls and this one has torch in it. On Linux the peak is
# read from VmHWM: ru_maxrss also remembers the parent's memory from before exec.
_CHILD = """
import json, pathlib, sys
import numpy, onnxruntime

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(l for l in status.read_text().splitlines() if l.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(name, *extra), peaks = [one.name for one in session.get_inputs()], []
numbers = {other: numpy.full(1, 0.5, numpy.float32) for other in extra}
for shape in json.loads(sys.argv[2]):
    session.run(None, {name: numpy.zeros((*shape, 3), numpy.uint8), **numbers})
    peaks.append(peak())
print(json.dumps(peaks))
"""


def sample(picture: Array | None, fixed_size: int | None, height: int, width: int) -> Array:
    """A uint8 BGR picture to run a network on.

    Args:
        picture: photo, whose middle is used; None draws one.
        fixed_size: side that the network takes, if only one: then all of the photo's middle.
        height: of the sample otherwise.
        width: of the sample otherwise.
    """
    if fixed_size is not None:
        height = width = fixed_size
    if picture is None:
        return draw(height, width)
    return middle(picture, height, width) if fixed_size is None else fitted(picture, fixed_size)


def example(facts: NetworkFacts, picture: Array | None = None) -> Tensor:
    """Float planes ``[1, c, h, w]`` in the network's own range, to see that of activations on.

    Args:
        facts: of the network.
        picture: see :func:`sample`.
    """
    pixels = sample(picture, facts.fixed_size, PEAK_SIDE, PEAK_SIDE)
    return planes(torch.from_numpy(pixels[None].astype(np.float32) / np.float32(255)), facts)


def largest_activation(
    network: nn.Module, facts: NetworkFacts, picture: Array | None = None
) -> tuple[float | None, str]:
    """The manifest's ``peak`` and ``engine_precision``: one run of the network in fp32.

    Args:
        network: in fp32, on the CPU.
        facts: of the network.
        picture: see :func:`sample`.
    """
    largest, _ = peak(network, example(facts, picture))
    found = float(f"{largest:.6g}") if math.isfinite(largest) else None
    return found, choose_precision(largest)


def flops_per_pixel(network: nn.Module, facts: NetworkFacts) -> float | None:
    """Floating-point operations of convolutions, matrix products and attention, per input pixel.

    A multiplication and an addition are two. Counted without weights, pixels or time; None for
    networks that do not run on shapes alone.

    Args:
        network: from planes to planes; it is left as it is.
        facts: of the network.
    """
    side = facts.fixed_size or FLOPS_SIDE
    shadow = copy.deepcopy(network).to("meta")
    planes = torch.empty((1, facts.in_channels, side, side), device="meta")
    extra = (torch.empty((1,), device="meta") for _ in facts.extra)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            shadow(planes, *extra)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        logger.info("operations were not counted: %s", error)
        return None
    return counter.get_total_flops() / side**2


def memory_per_pixel(graph: Path, side: int | None = None) -> float | None:
    """Bytes per input pixel that onnxruntime takes on the CPU; None where it cannot be measured.

    Args:
        graph: the uint8 graph.
        side: the one size that it takes: then the peak of one picture is compared with that of two.
    """
    shapes = (
        [(1, s, s) for s in MEMORY_SIDES] if side is None else [(n, side, side) for n in (1, 2)]
    )
    command = [sys.executable, "-c", _CHILD, str(graph), json.dumps(shapes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        small, large = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("working memory not measured, a cautious figure is used: %s", error)
        return None
    if large <= small:
        logger.warning("working memory not measured, a cautious figure is used: no growth was seen")
        return None
    first, second = (n * h * w for n, h, w in shapes)
    return round(float(large - small) / (second - first), 1)
