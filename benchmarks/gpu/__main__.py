"""Command line of the GPU check, run by ``.ci/gpu``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.runner import LOG, STAGES, Runner
from benchmarks.gpu.stages import BENCH, REPORT, ROOT, Setting, stages

MINUTES = 6.0
LIMIT = 60.0
"""Timeout of the query for the GPU, in seconds."""
RECORDS = ("host.jsonl", "probe.jsonl", "provider.jsonl", "standin.jsonl", BENCH)
"""Files written by the stages; with those of the runner there are eight."""
ASK = """
import json, sys
from resharp.runtime.backends.base import BackendOptions
from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from resharp.gpu.devices import CudaError, device_name
try:
    name = device_name("cuda")
except CudaError as error:
    sys.exit(f"an NVIDIA GPU is required: {error}")
print(json.dumps([name, TensorrtBackend.probe(BackendOptions(device="cuda"))]))
"""


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(prog=".ci/gpu", description=__doc__)
    parser.add_argument("out", type=Path, help="Folder for the records.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="Time limit (default: 6).")
    parser.add_argument("--kit", type=Path, help="Folder packed by .ci/gpu-kit.")
    parser.add_argument(
        "--full", action="store_true", help="Run all tests; write to OUT/<the GPU's name>."
    )
    parser.add_argument("--fake", action="store_true", help="Rehearse without a GPU.")
    options = parser.parse_args()
    out, kit = options.out.resolve(), options.kit and options.kit.resolve()
    # Child processes use this checkout, and no pytest plugins that happen to be installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    if options.fake:  # several processes share few CPUs, and the figures do not matter
        environment["OMP_NUM_THREADS"] = "1"
    figures, tensorrt = out, Setting.tensorrt
    if options.full:
        name, tensorrt = _card(environment)
        figures = out / name
        out = figures / "check"
    for old in RECORDS:
        (out / old).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="resharp-gpu-", ignore_cleanup_errors=True) as folder:
        setting = Setting(
            out=out,
            scratch=Path(folder),
            kit=kit,
            fake=options.fake,
            full=options.full,
            tensorrt=tensorrt,
        )
        runner = Runner(out, options.minutes, setting.scratch, environment=environment, folder=ROOT)
        good = runner.run(stages(setting))
        if options.full:
            _publish(setting, figures)
    sys.exit(0 if good else 1)


def _card(environment: dict[str, str]) -> tuple[str, str | None]:
    """Return the GPU's name as a folder name, and why TensorRT cannot run on it; None if it can."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr.strip())
    name, reason = json.loads(done.stdout.strip().splitlines()[-1])
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"), reason


def _publish(setting: Setting, figures: Path) -> None:
    """Copy the results of a full run to the folder of figures."""
    for source, target in {
        setting.keep / "doctor.json": "gpu-doctor.json",
        setting.keep / "bars.json": "gpu-bars.json",
        setting.out / LOG: "gpu-log.txt",
        setting.out / STAGES: "gpu-stages.jsonl",
        setting.out / BENCH: "bench-gpu.jsonl",
    }.items():
        if source.is_file():
            shutil.copyfile(source, figures / target)
    if (setting.keep / REPORT).is_dir():
        shutil.copytree(setting.keep / REPORT, figures / "bench-gpu", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
