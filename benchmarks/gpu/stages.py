"""Stages of the check in order of importance: if time runs out, the last ones are skipped."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.runner import Stage, command

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROVIDERS = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}
"""CUDA providers and the packages they need."""
VARIANTS: dict[str, dict[str, str]] = {
    "threads": {},
    "wait": {},
    "long": {"CYCLES": "20000000"},
    "blocking": {"CUDA_LAUNCH_BLOCKING": "1"},
}
"""Variants of the stand-in and their environment."""
FEW = ("long", "blocking")
"""Variants that need few images."""
BENCH, REPORT = "bench.jsonl", "bench"
PATIENCE = "40"
"""Timeout of a benchmark request in seconds, so that a case that hangs does not use up the time."""
A_TEST = "30"
"""Timeout of a test in seconds, if pytest-timeout is installed."""
TOOLS = ("/usr/local/cuda/bin",)
"""Folders of NVIDIA's tools, in addition to PATH."""
REHEARSED = 600.0
"""Timeout of any stage in a rehearsal, in seconds."""
FULL_SUITE = ROOT / "resharp" / "bench" / "suites" / "gpu.json"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings of a run."""

    out: Path
    """Folder of the records."""
    scratch: Path
    """Folder for all other files; those in ``keep`` go into the archive."""
    kit: Path | None = None
    """Folder packed by ``.ci/gpu-kit``."""
    fake: bool = False
    """Whether this is a rehearsal with a fake driver on the CPU."""
    tensorrt: str | None = "tested only with --full"
    """Why TensorRT cannot run on this machine; None if it can."""
    full: bool = False
    """Whether to run all tests and figures."""

    @property
    def keep(self) -> Path:
        """Folder of files that only go into the archive."""
        return self.scratch / "keep"

    @property
    def store(self) -> Path:
        """Store of the kit's bundles with their weights."""
        return self.scratch / "store"

    @property
    def driver(self) -> Path:
        """Folder in which the fake driver is built."""
        return self.scratch / "driver"

    def records(self, name: str) -> tuple[str, str]:
        """Return the option that names a stage's file of records."""
        return "--records", str(self.out / f"{name}.jsonl")

    @property
    def flag(self) -> tuple[str, ...]:
        """Option that makes a stage rehearse, if this is a rehearsal."""
        return ("--fake",) if self.fake else ()


def stages(setting: Setting) -> list[Stage]:
    """Return all stages; if time runs out, the last ones and the suite's last cases are dropped.

    In a rehearsal, timeouts only serve to end hangs.
    """
    made = _ahead(setting)
    made += [_probe(setting)]
    made += [_provider(setting, name) for name in PROVIDERS]
    made += [_standin(setting, name, variant) for name in PROVIDERS for variant in VARIANTS]
    made += _tests(setting)
    made += _figures(setting) + _extras(setting)
    return [replace(one, bound=REHEARSED) for one in made] if setting.fake else made


def _ahead(setting: Setting) -> list[Stage]:
    made = []
    if setting.fake:
        make = command("tests.fakes.fake_cuda", setting.driver)
        made.append(Stage(name="driver", command=make, estimate=2, bound=30))
    kit = setting.kit or Path()
    again = command("benchmarks.gpu.weights", kit, setting.store, *setting.records("host"))
    host = command("benchmarks.gpu.host", *setting.records("host"), *setting.flag)
    return [
        *made,
        Stage(
            name="weights",
            command=again,
            estimate=0,  # runs in parallel with the next stage
            bound=60,
            background=True,
            absent="" if setting.kit else "no kit given",
        ),
        Stage(name="host", command=host, estimate=10, bound=40),
    ]


def _probe(setting: Setting) -> Stage:
    kit = ("--kit", str(setting.kit), "--store", str(setting.store)) if setting.kit else ()
    ask = command("benchmarks.gpu.probe", *setting.records("probe"), *kit, *setting.flag)
    return Stage(name="probe", command=ask, estimate=40, bound=70, least=10, after=("weights",))


def _provider(setting: Setting, name: str) -> Stage:
    return Stage(
        name=f"provider {name}",
        command=command("benchmarks.gpu.provider", *setting.records("provider"), *setting.flag),
        estimate=6,
        bound=30,
        least=4,
        environment=_cuda(setting, name),
        absent=_absent(PROVIDERS[name]),
    )


def _standin(setting: Setting, name: str, variant: str) -> Stage:
    few = ("--pictures", "1") if variant in FEW or setting.fake else ()
    return Stage(
        name=f"standin {name} {variant}",
        command=command("tests.fakes.standin", variant, *setting.records("standin"), *few),
        estimate=5,
        bound=30,
        least=5,
        environment=_cuda(setting, name) | VARIANTS[variant],
        absent=_absent(PROVIDERS[name]),
    )


def _tests(setting: Setting) -> list[Stage]:
    if setting.fake:
        return [
            _pytest(setting, "torch", 60, 120, "tests/runtime/backends/test_torch.py"),
            _pytest(setting, "memory", 22, 60, "tests/bench/test_peak_memory.py"),
        ]
    shared, alone = "gpu and not tensorrt and not alone", "gpu and not tensorrt and alone"
    if not setting.full:
        files = ("tests/test_gpu.py", "tests/test_gpu_bench.py")
        return [
            _pytest(setting, "torch", 65, 90, files[0], "-m", f"{shared} and not slow"),
            _pytest(setting, "memory", 22, 45, *files, "-m", alone),
        ]
    why = setting.tensorrt or ""
    return [
        _pytest(setting, "torch", 150, 420, "-m", shared),
        _pytest(setting, "memory", 22, 120, "-m", alone),
        _pytest(setting, "tensorrt", 200, 600, "-m", "gpu and tensorrt", absent=why),
    ]


def _pytest(
    setting: Setting, name: str, estimate: float, bound: float, *options: str, absent: str = ""
) -> Stage:
    results = setting.keep / f"{name}.xml"
    limit = ("-p", "pytest_timeout", "--timeout", A_TEST) if find_spec("pytest_timeout") else ()
    always = ("-v", "-p", "no:cacheprovider", f"--junitxml={results}")
    return Stage(
        name=name,
        command=command("pytest", *always, *(() if setting.full else limit), *options),
        estimate=estimate,
        bound=bound,
        least=10,
        absent=absent,
        judge=partial(some_ran, results),
    )


def _figures(setting: Setting) -> list[Stage]:
    records = setting.out / BENCH
    bars = setting.keep / "bars.json"
    if setting.full and setting.tensorrt is None:
        chosen, estimate, bound = "gpu", 900.0, 1400.0
    elif setting.fake:
        chosen, estimate, bound = str(HERE / "tiny.json"), 130.0, 150.0
    else:
        chosen, estimate, bound = str(_short(setting)), 130.0, 150.0
    store = ("--store", str(setting.store)) if setting.kit else ()
    run = command("resharp", "bench", "run", "--suite", chosen, *store, "-o", records)
    made = [
        Stage(
            name="suite",
            command=run,
            estimate=estimate,
            bound=bound,
            least=25,
            after=("weights",),
            environment={"RESHARP_BENCH_PATIENCE": "600" if setting.full else PATIENCE},
            judge=partial(cases_agree, records),
        ),
        Stage(
            name="bars",
            command=command("benchmarks.gpu.bars", records, "--json", bars),
            estimate=2,
            bound=20,
            absent="no GPU in a rehearsal" if setting.fake else "",
        ),
    ]
    if setting.full:
        made.append(
            Stage(
                name="report",
                command=command("resharp", "bench", "report", records, "-o", setting.keep / REPORT),
                estimate=10,
                bound=60,
            )
        )
        doctor = _doctor(setting.keep / "doctor.json")
        made.append(Stage(name="doctor", command=doctor, estimate=5, bound=60))
    return made


def _doctor(target: Path) -> list[str]:
    return ["sh", "-c", '"$0" -m resharp doctor --json >"$1"', sys.executable, str(target)]


def _extras(setting: Setting) -> list[Stage]:
    model = str(setting.store / "srvgg-16x64-random") if setting.kit else "resharp-x4"
    extra = ("--records", str(setting.keep / "extras.jsonl"))
    lanes = command("benchmarks.gpu.binding", model, *extra, *setting.flag)
    shapes = _pytest(setting, "shapes", 10, 40, "tests/test_gpu.py", "-m", "slow")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *TOOLS])
    sanitizer = shutil.which("compute-sanitizer", path=path)
    memcheck = [sanitizer or "", "--tool", "memcheck", "--error-exitcode", "9"]
    memcheck += command("tests.fakes.standin", "threads", *extra, "--pictures", "1")
    made = [
        Stage(name="binding", command=lanes, estimate=10, bound=40, least=10, after=("weights",)),
        shapes,
        Stage(
            name="sanitizer",
            command=memcheck,
            estimate=12,
            bound=40,
            least=12,
            environment=_cuda(setting, "cuda-python") | {"CYCLES": "1000"},
            absent="" if sanitizer else "compute-sanitizer is not installed",
        ),
    ]
    if setting.fake:
        return [made[0], *(replace(one, absent="no GPU in a rehearsal") for one in made[1:])]
    return made


def _short(setting: Setting) -> Path:
    """Return the short suite; without a kit, include the stand-ins that create its networks."""
    if setting.kit:
        return HERE / "short.json"
    data: dict[str, Any] = json.loads((HERE / "short.json").read_text(encoding="utf-8"))
    whole = json.loads(FULL_SUITE.read_text(encoding="utf-8"))
    path = setting.scratch / "short.json"
    path.write_text(json.dumps(data | {"stand_ins": whole["stand_ins"]}), encoding="utf-8")
    return path


def _cuda(setting: Setting, provider: str) -> dict[str, str]:
    found = {"RESHARP_CUDA": provider}
    if not setting.fake:
        return found | {"STANDIN": "torch"}
    path = os.pathsep.join(filter(None, [str(setting.driver), os.environ.get("LD_LIBRARY_PATH")]))
    return found | {"STANDIN": "host", "LD_LIBRARY_PATH": path}


def _absent(package: str) -> str:
    try:
        there = find_spec(package) is not None
    except ModuleNotFoundError:
        there = False
    return "" if there else f"{package} is not installed"


def some_ran(results: Path) -> str:
    """Return an error if all tests were skipped, else an empty string."""
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    count = sum(int(suite.get("tests", 0)) for suite in suites)
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    return "" if count > skipped else f"all {count} tests were skipped"


def cases_agree(records: Path) -> str:
    """Return the cases that failed or were dropped, as an error; else an empty string."""
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    wrong = [
        f"{line['case']['model']} {line['case']['subject']}: {line['status']}: {line['reason']}"
        for line in lines
        if line["kind"] == "case" and line["status"] in ("dropped", "failed")
    ]
    return "; ".join(wrong)
