"""Which stages the check has, in the order of their worth: the first ones are never left out."""

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
"""Providers of CUDA, and the packages behind them."""
VARIANTS: dict[str, dict[str, str]] = {
    "threads": {},
    "wait": {},
    "long": {"CYCLES": "20000000"},
    "blocking": {"CUDA_LAUNCH_BLOCKING": "1"},
}
"""Of the stand-in, and their environment."""
FEW = ("long", "blocking")
"""Variants that need few pictures."""
BENCH, REPORT = "bench.jsonl", "bench"
PATIENCE = "40"
"""Seconds of a request to a case of the benchmark: one that hangs must not take the minutes."""
A_TEST = "30"
"""Seconds of a test, where pytest-timeout is installed."""
TOOLS = ("/usr/local/cuda/bin",)
"""Where NVIDIA's tools are, beside PATH."""
REHEARSED = 600.0
"""Seconds of any stage of a rehearsal."""
FULL_SUITE = ROOT / "resharp" / "bench" / "suites" / "gpu.json"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run is about."""

    out: Path
    """Folder of the records."""
    scratch: Path
    """For everything else; what is in ``keep`` goes into the archive."""
    kit: Path | None = None
    """What ``.ci/gpu-kit`` packed."""
    fake: bool = False
    """Whether it is a rehearsal: a fake driver, and the CPU."""
    tensorrt: str | None = "only a full run has its tests"
    """Why TensorRT does not run here; None if it does."""
    full: bool = False
    """Whether there is time for everything."""

    @property
    def keep(self) -> Path:
        """Files for the archive alone."""
        return self.scratch / "keep"

    @property
    def store(self) -> Path:
        """Bundles out of the kit, with their weights."""
        return self.scratch / "store"

    @property
    def driver(self) -> Path:
        """Where the fake driver is made."""
        return self.scratch / "driver"

    def records(self, name: str) -> tuple[str, str]:
        """The option for a stage's own lines."""
        return "--records", str(self.out / f"{name}.jsonl")

    @property
    def flag(self) -> tuple[str, ...]:
        """Of a rehearsal."""
        return ("--fake",) if self.fake else ()


def stages(setting: Setting) -> list[Stage]:
    """All of them. Where time runs out, the last ones, and the last cases of the suite, go.

    In a rehearsal the bounds end hangs and decide nothing else.
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
            estimate=0,  # beside the next one
            bound=60,
            background=True,
            absent="" if setting.kit else "there is no kit",
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
            absent="nothing ran on a GPU" if setting.fake else "",
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
            absent="" if sanitizer else "there is no compute-sanitizer",
        ),
    ]
    if setting.fake:
        return [made[0], *(replace(one, absent="there is no GPU") for one in made[1:])]
    return made


def _short(setting: Setting) -> Path:
    """The short suite; where no kit has its networks, with what makes them."""
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
    """What is wrong with tests that did not fail: that none ran."""
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    count = sum(int(suite.get("tests", 0)) for suite in suites)
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    return "" if count > skipped else f"all {count} tests were skipped"


def cases_agree(records: Path) -> str:
    """What is wrong with a benchmark that has figures: cases that failed or disagree."""
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    wrong = [
        f"{line['case']['model']} {line['case']['subject']}: {line['status']}: {line['reason']}"
        for line in lines
        if line["kind"] == "case" and line["status"] in ("dropped", "failed")
    ]
    return "; ".join(wrong)
