"""Tracing in a separate process, for networks whose code is not ours.

torch's legacy exporter crashes on some of spandrel's networks with a segmentation fault, which no
``except`` catches, and prints the whole graph of others when it fails. So the trace runs in a child
process, and this process receives the graphs or a reason.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from resharp.errors import ParityError, ResharpError

_CHILD = """
import sys
from resharp.export.onnx.subprocess_trace import main
raise SystemExit(main(*sys.argv[1:]))
"""
_MARK = "reason: "
_REFUSED = 3


def trace_in_subprocess(weights: Path, dtypes: Sequence[str], exporter: str, folder: Path) -> None:
    """Write ``DTYPE.onnx`` into ``folder`` for each of ``dtypes``.

    Args:
        weights: file written by ``save_safetensors``, which names the network.
        dtypes: dtypes of the graphs.
        exporter: ``legacy`` or ``dynamo``.
        folder: folder to write into.

    Raises:
        ParityError: the exporter fails or crashes, or n, h or w of a graph are not dynamic.
    """
    command = [sys.executable, "-c", _CHILD, str(weights), exporter, str(folder), *dtypes]
    paths = os.pathsep.join(path for path in sys.path if path)  # so the child's imports match
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    if done.returncode == _REFUSED:
        raise ParityError(done.stderr.rpartition(_MARK)[2].strip())
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        ended = f"exits with code {done.returncode}: {last}"
        if done.returncode < 0:
            names = {one.value: one.name for one in signal.Signals}
            number = -done.returncode
            ended = f"crashes ({names.get(number, f'signal {number}')})"
        raise ParityError(f"torch's {exporter} exporter {ended}")


def main(weights: str, exporter: str, folder: str, *dtypes: str) -> int:
    """Trace in the child process and return its exit code; see :func:`trace_in_subprocess`."""
    from resharp import models
    from resharp.export.onnx.trace import trace

    try:
        checkpoint = models.read_checkpoint(weights)
        network = models.build(checkpoint)
        for dtype in dtypes:
            module = models.for_images(network, checkpoint.facts, dtype)
            trace(module, dtype, Path(folder) / f"{dtype}.onnx", exporter=exporter)
    except ResharpError as error:
        sys.stderr.write(f"{_MARK}{error}")
        return _REFUSED
    return 0
