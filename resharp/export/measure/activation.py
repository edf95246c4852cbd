"""Working memory of a graph per input pixel, measured in a process of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

SIDES = (96, 224)
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


def measure(graph: Path, side: int | None = None) -> float | None:
    """Bytes per input pixel that onnxruntime takes on the CPU; None where it cannot be measured.

    Args:
        graph: the uint8 graph.
        side: the one size that it takes: then the peak of one picture is compared with that of two.
    """
    shapes = [(1, s, s) for s in SIDES] if side is None else [(n, side, side) for n in (1, 2)]
    command = [sys.executable, "-c", _CHILD, str(graph), json.dumps(shapes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        small, large = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("working memory not measured, a cautious figure is used: %s", error)
        return None
    if large <= small:
        log.warning("working memory not measured, a cautious figure is used: no growth was seen")
        return None
    first, second = (n * h * w for n, h, w in shapes)
    return round(float(large - small) / (second - first), 1)
