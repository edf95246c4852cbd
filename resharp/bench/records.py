"""Records of measurements: JSON lines, the first of a run for the machine and one for each case.

Times are in seconds, memory in bytes, rates in units per second; nothing is rounded. A ``ratio`` is
a speed: the baseline's seconds over the case's, taken pair by pair in one run, so that above 1 is
faster than the baseline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from resharp.bench.cases import Case
from resharp.engines.manifest import known_fields
from resharp.errors import OptionError
from resharp.fsutil import write_whole

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

SCHEMA = 1
"""Version of the layout below; records of any other version are refused."""

MEASURED, DROPPED, FAILED, ABSENT = "measured", "dropped", "failed", "absent"
"""Statuses: it has figures; its output disagrees; it could not run; its library is not here."""


@dataclass(frozen=True, kw_only=True)
class CaseParity:
    """How far the output was from the reference, before anything was timed."""

    reference: str
    """What made the reference, in words."""
    psnr: float
    """In dB; identical pictures are 200."""
    levels: int
    """Largest difference, in levels of 255."""
    differing: float
    """Share of values that differ at all."""
    floor: float
    """PSNR in dB under which the case is dropped."""
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure that was taken several times: its median, and an interval that holds it."""

    median: float
    low: float
    """End of the 95 % interval of the median."""
    high: float
    values: tuple[float, ...] = ()
    """All that were taken, in order."""


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Peak memory of the process that ran the case and nothing else. None: not measured."""

    host: int | None = None
    """Peak resident bytes of the process."""
    host_before: int | None = None
    """Resident bytes before the case was opened: the interpreter and numpy."""
    device: int | None = None
    """Peak bytes on the GPU by NVML, while the case was opened, checked and warmed up."""
    device_by: str = ""
    """How: ``nvml, process``; or, where NVML does not tell processes apart, ``nvml, device in its
    own turns``: all that the GPU held beyond what it held before the case was opened. (Older
    records have ``nvml, device``, which may hold other cases' memory.)"""
    framework: int | None = None
    """Peak bytes that the framework's own allocator held on the GPU."""


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds of one picture by stage, each measured alone. None: not measured."""

    read: float | None = None
    """File to pixels."""
    upload: float | None = None
    """Pixels to the device; on a CPU: cutting tiles."""
    compute: float | None = None
    """The network."""
    download: float | None = None
    """Result from the device; on a CPU: pasting tiles."""
    write: float | None = None
    """Pixels to file."""
    by: str = ""
    """How upload, compute and download were told apart."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What follows from the time of a picture: the median of the baseline over all of the run,
    divided by the case's ratio; or the case's own median, where it has no ratio. None: unknown."""

    frames: float
    """Pictures per second."""
    input_megapixels: float
    """Input megapixels per second."""
    output_megapixels: float
    """Output megapixels per second."""
    flops: float | None = None
    """Useful floating-point operations per second: the network on the picture, overlap aside."""
    matrix_share: float | None = None
    """Of the matrix-product rate that was measured in the same run."""
    joules_per_megapixel: float | None = None
    """Energy of the GPU for an input megapixel, by NVML."""


@dataclass(frozen=True, kw_only=True)
class ResolvedCase:
    """How the case really ran."""

    backend: str
    device: str
    tile: int | None = None
    """Largest side of a tile, in pixels; None: the whole picture at once."""
    windows: int | None = None
    """Tiles of the picture."""
    pixels: int | None = None
    """Input pixels of one run of the network: of a window, times the batch."""
    batch: int | None = None
    lanes: int | None = None
    note: str = ""
    """What the backend says of itself after the case was timed, such as why it has no graphs."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One case."""

    run: str
    """Identifies the run; its :class:`RunInfo` has the same."""
    case: Case
    status: str
    """:data:`MEASURED`, :data:`DROPPED`, :data:`FAILED` or :data:`ABSENT`."""
    reason: str = ""
    """Why it has no figures."""
    baseline: str | None = None
    """Subject of the case that ``ratio`` is to, one for a model and size; None: it is that case
    itself, or there was none."""
    actual: ResolvedCase | None = None
    parity: CaseParity | None = None
    seconds: Estimate | None = None
    """Of one picture."""
    ratio: Estimate | None = None
    """Baseline's seconds over this case's: above 1 is faster. Where the two are of different
    libraries, it is ``kin_ratio`` times that baseline's own ratio."""
    kin: str | None = None
    """Subject of the case that took turns with this one: of the same library, if there is one,
    since what else goes on in a machine slows libraries down differently."""
    kin_ratio: Estimate | None = None
    """The same as ``ratio``, to that one. What runs are compared by."""
    noise: float | None = None
    """Relative change of ``kin_ratio`` that two measurements of the same case may show here."""
    disturbed: int = 0
    """Pairs that were left out, since other programs had the processor meanwhile."""
    rates: Rates | None = None
    memory: PeakMemory | None = None
    stages: StageTimes | None = None
    twin: bool = False
    """Whether it is the baseline measured a second time, against itself: what the machine adds."""

    @property
    def on_gpu(self) -> bool:
        """Whether the case ran on a GPU."""
        return self.actual is not None and self.actual.device.startswith("cuda")

    @property
    def peak_memory(self) -> int | None:
        """Peak bytes on the device that the case ran on; None: not measured."""
        if self.memory is None or self.actual is None:
            return None
        return self.memory.device if self.on_gpu else self.memory.host

    @property
    def megapixels(self) -> float | None:
        """Input megapixels per second; None: not measured."""
        return self.rates.input_megapixels if self.rates else None


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What all cases of a run have in common."""

    run: str
    """Time and some random letters."""
    began: str
    """ISO 8601, UTC."""
    suite: str
    """Name of the suite, ``quick`` say."""
    environment: Mapping[str, Any]
    """Machine, versions, clocks as found, commit."""
    matrix_rate: Mapping[str, float] = field(default_factory=dict)
    """FLOP/s of a matrix product by device and type, ``cpu fp32`` say, measured in the run."""
    noise: Mapping[str, float] = field(default_factory=dict)
    """Relative, by ``model WIDTHxHEIGHT``: what the same case measured twice differed by."""
    memory_check: Mapping[str, Any] = field(default_factory=dict)
    """By ``host`` and ``device``: bytes ``allocated``, bytes ``measured``, relative ``error``."""
    seconds: float | None = None
    """That the run took; None while it is under way."""


@dataclass(frozen=True)
class Records:
    """A whole file."""

    run: RunInfo
    cases: tuple[Record, ...]

    def measured(self) -> tuple[Record, ...]:
        """Those with figures, twins aside."""
        return tuple(case for case in self.cases if case.status == MEASURED and not case.twin)

    def twins(self) -> tuple[Record, ...]:
        """Baselines measured a second time, against themselves."""
        return tuple(case for case in self.cases if case.twin)

    def to_text(self) -> str:
        """As it is stored."""
        lines = [{"schema": SCHEMA, "kind": "run", **asdict(self.run)}]
        lines += [{"schema": SCHEMA, "kind": "case", **asdict(case)} for case in self.cases]
        return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)

    def write(self, path: Path) -> None:
        """Write the file whole.

        Raises:
            OutputError: the disk refused.
        """
        write_whole(path, self.to_text().encode(), parents=True)


def read(path: Path) -> Records:
    """Read a file of records.

    Raises:
        OptionError: it cannot be read, is of another schema version, or holds no run.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read ({error}): give what bench run wrote") from error
    runs, cases = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            schema, kind = data["schema"], data["kind"]
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(f"{path}:{number} is no record of resharp bench ({error})") from error
        if schema != SCHEMA:
            raise OptionError(
                f"{path}:{number} has schema version {schema!r}; this resharp reads version "
                f"{SCHEMA}: measure again, or use the resharp that wrote it"
            )
        try:
            if kind == "run":
                runs.append(RunInfo(**known_fields(RunInfo, data)))
            else:
                cases.append(_record(data))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise OptionError(f"{path}:{number} is damaged ({error}): measure again") from error
    if len(runs) != 1:
        raise OptionError(f"{path} holds {len(runs)} runs instead of one: give a file of one run")
    return Records(runs[0], tuple(cases))


_PARTS = {
    "case": Case,
    "actual": ResolvedCase,
    "parity": CaseParity,
    "seconds": Estimate,
    "ratio": Estimate,
    "kin_ratio": Estimate,
    "rates": Rates,
    "memory": PeakMemory,
    "stages": StageTimes,
}


def _record(data: Mapping[str, Any]) -> Record:
    values = known_fields(Record, data)
    for name, kind in _PARTS.items():
        part = values.get(name)
        if part is None and name != "case":
            continue
        if not isinstance(part, Mapping):
            raise TypeError(f"{part!r} is no object")
        own = known_fields(kind, part)
        if kind is Estimate:
            own["values"] = tuple(own.get("values", ()))
        values[name] = kind(**own)
    return Record(**values)


def newest(folder: Path) -> Path:
    """The file of the latest run in a folder.

    Raises:
        OptionError: there is none.
    """
    found = sorted(folder.glob("run-*.jsonl"))
    if not found:
        raise OptionError(f"no records in {folder}: resharp bench run --quick")
    return found[-1]


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the Pareto front: no other point has less memory and more speed.

    Args:
        points: (memory, speed) of each.

    Returns:
        The indices, by rising memory.
    """
    best, found = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            found.append(index)
    return tuple(found)


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in their order."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def group_by_model(records: Iterable[Record]) -> dict[tuple[str, int, int], list[Record]]:
    """Records by (model, height, width), in their order."""
    return group_by(records, lambda one: (one.case.model, one.case.height, one.case.width))
