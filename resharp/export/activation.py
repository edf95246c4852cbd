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
name, peaks = session.get_inputs()[0].name, []
for side in map(int, sys.argv[2:]):
    session.run(None, {name: numpy.zeros((1, side, side, 3), numpy.uint8)})
    peaks.append(peak())
print(json.dumps(peaks))
"""


def measure(graph: Path) -> float | None:
    """Bytes per input pixel that onnxruntime takes on the CPU; None where it cannot be measured.

    Args:
        graph: the uint8 graph.
    """
    command = [sys.executable, "-c", _CHILD, str(graph), *map(str, SIDES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        small, large = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("working memory not measured, a cautious figure is used: %s", error)
        return None
    if large <= small:
        log.warning("working memory not measured, a cautious figure is used: no growth was seen")
        return None
    return round(float(large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2), 1)
