"""Check that a quick run is complete: parity, structure and noise, but no absolute times.

usage: python .ci/check_bench.py RECORDS REPORT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from resharp.bench.compare import compare
from resharp.bench.records import ABSENT, Records, read

PNG = b"\x89PNG\r\n\x1a\n"
WANTED = {"onnx", "torch", "pytorch", "upstream", "onnxruntime"}
MAY_BE_ABSENT = {"openvino", "ncnn"}


def main(records: Path, folder: Path) -> None:
    """Exit with a message if anything is wrong."""
    found = read(records)
    for problem in (*_cases(found), *_run(found), *_report(folder)):
        sys.exit(f"{records}: {problem}")
    if compare(found, found).regressions:
        sys.exit(f"{records}: comparing the run with itself reports regressions")
    sys.stdout.write(f"{len(found.measured())} cases in {found.run.seconds:.0f} s\n")


def _cases(found: Records) -> list[str]:
    problems = [
        f"{record.case.id} is {record.status}: {record.reason}"
        for record in found.cases
        if record.reason and not (record.status == ABSENT and record.case.subject in MAY_BE_ABSENT)
    ]
    missing = WANTED - {record.case.subject for record in found.measured()}
    problems += [f"no figures for {subject}" for subject in sorted(missing)]
    for record in found.measured():
        whole = record.parity and record.seconds and record.rates and record.memory
        if not whole or not record.parity or not record.parity.passed or record.parity.levels > 1:
            problems.append(f"{record.case.id} lacks figures or parity")
        if record.baseline and not (record.ratio and record.kin_ratio and record.noise):
            problems.append(f"{record.case.id} has no ratio to {record.baseline}")
    return problems


def _run(found: Records) -> list[str]:
    problems = []
    if found.run.seconds is None:
        problems.append("the run is incomplete")
    for place, figures in found.run.memory_check.items():
        if figures["error"] > 0.05:
            problems.append(f"the {place} memory check must be within 5 %, got {figures}")
    for twin in found.twins():
        if twin.ratio is None or twin.noise is None:
            problems.append("the twin has no figures")
        elif max(twin.ratio.median, 1 / twin.ratio.median) > 1 + twin.noise + 1e-9:
            problems.append(
                f"the twin's ratio must be within the noise {twin.noise}, got {twin.ratio.median}"
            )
    return problems if found.twins() else [*problems, "the baseline has no twin"]


def _report(folder: Path) -> list[str]:
    page, plots = folder / "report.html", sorted(folder.glob("*.png"))
    problems = [] if len(plots) >= 4 else [f"{folder} must have at least 4 plots: {len(plots)}"]
    problems += [f"{p} is not a PNG" for p in plots if not p.read_bytes().startswith(PNG)]
    if not page.is_file() or page.read_text("utf-8").count("data:image/png;base64,") < len(plots):
        problems.append(f"{page} does not contain all plots")
    return problems


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
