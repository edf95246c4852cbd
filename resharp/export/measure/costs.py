"""Costs of a network per pixel, and its largest activation, which decides the GPU precision."""

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
"""Side in pixels of the image to measure the largest activation on, if the size is free."""
FLOPS_SIDE = 128
"""Side in pixels to count operations at; larger than any attention window, to avoid padding."""
MEMORY_SIDES = (96, 224)
"""Sides of two square inputs, in pixels; their memory peaks differ by the activations."""

# Run in a child process: a process's peak never falls, and this one has loaded torch. On Linux the
# peak is read from VmHWM, because ru_maxrss includes the parent's memory from before exec.
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
    """Return a uint8 BGR image to run a network on.

    Args:
        picture: photo, of which the center is used; None draws one.
        fixed_size: side that the network requires, if any: the photo's largest central square is
            resized to it.
        height: height of the sample otherwise, in pixels.
        width: width of the sample otherwise, in pixels.
    """
    if fixed_size is not None:
        height = width = fixed_size
    if picture is None:
        return draw(height, width)
    return middle(picture, height, width) if fixed_size is None else fitted(picture, fixed_size)


def example(facts: NetworkFacts, picture: Array | None = None) -> Tensor:
    """Return float planes ``[1, c, h, w]`` in the network's value range, to measure activations.

    Args:
        facts: facts about the network.
        picture: photo to use the center of; None draws one.
    """
    pixels = sample(picture, facts.fixed_size, PEAK_SIDE, PEAK_SIDE)
    return planes(torch.from_numpy(pixels[None].astype(np.float32) / np.float32(255)), facts)


def largest_activation(
    network: nn.Module, facts: NetworkFacts, picture: Array | None = None
) -> tuple[float | None, str]:
    """Return the manifest's ``peak`` and ``engine_precision``, from one run of the network in fp32.

    Args:
        network: network in fp32, on the CPU.
        facts: facts about the network.
        picture: photo to use the center of; None draws one.
    """
    largest, _ = peak(network, example(facts, picture))
    found = float(f"{largest:.6g}") if math.isfinite(largest) else None
    return found, choose_precision(largest)


def flops_per_pixel(network: nn.Module, facts: NetworkFacts) -> float | None:
    """Count the operations of convolutions, matrix products and attention per input pixel.

    A multiplication and an addition are two operations. Nothing is computed: the network runs on
    shapes alone. The result is None if it cannot.

    Args:
        network: network from planes to planes, which is not changed.
        facts: facts about the network.
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
        logger.info("could not count the operations: %s", error)
        return None
    return counter.get_total_flops() / side**2


def memory_per_pixel(graph: Path, side: int | None = None) -> float | None:
    """Measure onnxruntime's memory per input pixel on the CPU, in bytes; None if that fails.

    Args:
        graph: the uint8 graph.
        side: fixed side of its input, if any: the peaks of one and two images are then compared.
    """
    shapes = (
        [(1, s, s) for s in MEMORY_SIDES] if side is None else [(n, side, side) for n in (1, 2)]
    )
    command = [sys.executable, "-c", _CHILD, str(graph), json.dumps(shapes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        small, large = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("could not measure the working memory, using a cautious estimate: %s", error)
        return None
    if large <= small:
        logger.warning("could not measure the working memory, using a cautious estimate: no growth")
        return None
    first, second = (n * h * w for n, h, w in shapes)
    return round(float(large - small) / (second - first), 1)
