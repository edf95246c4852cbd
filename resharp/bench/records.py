"""Benchmark records: a JSON-lines file with one line for the run, followed by one for each case.

Times are in seconds, memory in bytes, rates in units per second; nothing is rounded. A ``ratio`` is
a relative speed: the baseline's time over the case's, taken pair by pair in one run; above 1 is
faster than the baseline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from resharp.bench.cases import Case
from resharp.checks import known_fields, shown
from resharp.errors import OptionError
from resharp.fsutil import write_whole
from resharp.reading import parse_json, read_bounded

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

LARGEST = 256 << 20
"""Largest size of a file of records in bytes."""
SCHEMA = 1
"""Version of the record schema; records of any other version are rejected."""

MEASURED, DROPPED, FAILED, ABSENT = "measured", "dropped", "failed", "absent"
"""Statuses of a case: measured, output too far from the reference, failed, library missing."""


@dataclass(frozen=True, kw_only=True)
class CaseParity:
    """Difference between the output and the reference, checked before timing."""

    reference: str
    """Description of how the reference was computed."""
    psnr: float
    """PSNR in dB; 200 for identical images."""
    levels: int
    """Largest difference, in levels of 255."""
    differing: float
    """Fraction of values that differ at all."""
    floor: float
    """PSNR in dB below which the case is dropped."""
    passed: bool
    """Whether the PSNR is at least ``floor``."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A repeated measurement: its median and the interval of the median."""

    median: float
    low: float
    """Lower end of the 95 % interval of the median."""
    high: float
    """Upper end of the 95 % interval of the median."""
    values: tuple[float, ...] = ()
    """All measured values, in order."""


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Peak memory of the process that ran only this case. None: not measured."""

    host: int | None = None
    """Peak resident bytes of the process."""
    host_before: int | None = None
    """Resident bytes before the case was opened: the interpreter and numpy."""
    device: int | None = None
    """Peak bytes on the GPU by NVML, while the case was opened, checked and warmed up."""
    device_by: str = ""
    """Source of ``device``: ``nvml, process``; or ``nvml, device in its own turns`` if NVML cannot
    tell processes apart: the increase of the GPU's total since before the case was opened.
    (``nvml, device`` in older records may include the memory of other cases.)"""
    framework: int | None = None
    """Peak bytes of the framework's own allocator on the GPU."""


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds per image of each stage, measured separately. None: not measured."""

    read: float | None = None
    """Decoding the file."""
    upload: float | None = None
    """Copying the image to the device; on a CPU: cutting tiles."""
    compute: float | None = None
    """Running the network."""
    download: float | None = None
    """Copying the result from the device; on a CPU: pasting tiles."""
    write: float | None = None
    """Encoding the file."""
    by: str = ""
    """Method that separated upload, compute and download."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates derived from the time per image. None: unknown.

    The time is the baseline's median over the whole run divided by the case's ratio, or the case's
    own median if it has no ratio.
    """

    frames: float
    """Images per second."""
    input_megapixels: float
    """Input megapixels per second."""
    output_megapixels: float
    """Output megapixels per second."""
    flops: float | None = None
    """Useful floating-point operations per second: the network on the image, without overlap."""
    matrix_share: float | None = None
    """``flops`` as a fraction of the matrix-product rate measured in the same run."""
    joules_per_megapixel: float | None = None
    """GPU energy per input megapixel, by NVML."""


@dataclass(frozen=True, kw_only=True)
class ResolvedCase:
    """How a case actually ran, with all automatic settings resolved."""

    backend: str
    device: str
    tile: int | None = None
    """Largest side of a tile, in pixels; None: the whole image at once."""
    windows: int | None = None
    """Number of tiles of the image."""
    pixels: int | None = None
    """Input pixels per run of the network: those of a tile times the batch."""
    batch: int | None = None
    lanes: int | None = None
    note: str = ""
    """Note of the backend after the case was timed, e.g. why it runs without CUDA graphs."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Result of one case."""

    run: str
    """ID of the run, the same as in its :class:`RunInfo`."""
    case: Case
    status: str
    """:data:`MEASURED`, :data:`DROPPED`, :data:`FAILED` or :data:`ABSENT`."""
    reason: str = ""
    """Why the case has no figures."""
    baseline: str | None = None
    """Subject of the case that ``ratio`` refers to, the same for all cases of a model and size;
    None if this is that case or there was none."""
    actual: ResolvedCase | None = None
    parity: CaseParity | None = None
    seconds: Estimate | None = None
    """Seconds per image."""
    ratio: Estimate | None = None
    """Speed relative to ``baseline``: above 1 is faster. If ``kin`` is another subject, this is
    ``kin_ratio`` times the ratio of ``kin`` to ``baseline``."""
    kin: str | None = None
    """Subject of the case that alternated with this one. It uses the same library if possible,
    because different libraries slow down differently on a busy machine."""
    kin_ratio: Estimate | None = None
    """Speed relative to ``kin``. Runs are compared by this ratio."""
    noise: float | None = None
    """Relative difference of ``kin_ratio`` to expect between two measurements of the same case."""
    disturbed: int = 0
    """Number of pairs left out because other programs used the CPU."""
    rates: Rates | None = None
    memory: PeakMemory | None = None
    stages: StageTimes | None = None
    twin: bool = False
    """Whether this is the baseline timed against itself, which shows the noise of the machine."""

    @property
    def on_gpu(self) -> bool:
        """Whether the case ran on a GPU."""
        return self.actual is not None and self.actual.device.startswith("cuda")

    @property
    def peak_memory(self) -> int | None:
        """Peak bytes on the device that ran the case; None: not measured."""
        if self.memory is None or self.actual is None:
            return None
        return self.memory.device if self.on_gpu else self.memory.host

    @property
    def megapixels(self) -> float | None:
        """Input megapixels per second; None: not measured."""
        return self.rates.input_megapixels if self.rates else None


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Facts that all cases of a run share."""

    run: str
    """ID of the run: its start time and random letters."""
    began: str
    """Start time, ISO 8601 in UTC."""
    suite: str
    """Name of the suite, e.g. 'quick'."""
    environment: Mapping[str, Any]
    """Machine, package versions, current clocks and commit."""
    matrix_rate: Mapping[str, float] = field(default_factory=dict)
    """FLOP/s of a matrix product by device and type, e.g. 'cpu fp32', measured in the run."""
    noise: Mapping[str, float] = field(default_factory=dict)
    """Relative difference of two measurements of the same case, by ``model WIDTHxHEIGHT``."""
    memory_check: Mapping[str, Any] = field(default_factory=dict)
    """By ``host`` and ``device``: bytes ``allocated``, bytes ``measured``, relative ``error``."""
    seconds: float | None = None
    """Duration of the run; None until it has finished."""


@dataclass(frozen=True)
class Records:
    """All records of a run, the contents of a file."""

    run: RunInfo
    cases: tuple[Record, ...]

    def measured(self) -> tuple[Record, ...]:
        """Return the records with figures, without twins."""
        return tuple(case for case in self.cases if case.status == MEASURED and not case.twin)

    def twins(self) -> tuple[Record, ...]:
        """Return the records of baselines that were timed against themselves."""
        return tuple(case for case in self.cases if case.twin)

    def to_text(self) -> str:
        """Return the records as JSON lines."""
        lines = [{"schema": SCHEMA, "kind": "run", **asdict(self.run)}]
        lines += [{"schema": SCHEMA, "kind": "case", **asdict(case)} for case in self.cases]
        return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        write_whole(path, self.to_text().encode(), parents=True)


def read(path: Path) -> Records:
    """Read a file of records.

    Raises:
        OptionError: the file cannot be read, is damaged, does not contain exactly one run, or has
            another schema version.
    """
    try:
        lines = read_bounded(path, LARGEST).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read {path} ({error}): pass a file written by 'resharp bench run'"
        ) from error
    runs, cases = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = parse_json(line)
            schema, kind = data["schema"], data["kind"]
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{path}:{number} is not a record of 'resharp bench' ({error})"
            ) from error
        if schema != SCHEMA:
            raise OptionError(
                f"{path}:{number}: schema version must be {SCHEMA}, got {schema!r}: measure again, "
                "or use the version of resharp that wrote the file"
            )
        try:
            if kind == "run":
                runs.append(RunInfo(**known_fields(RunInfo, data)))
            else:
                cases.append(_record(data))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise OptionError(f"{path}:{number} is damaged ({error}): measure again") from error
    if len(runs) != 1:
        raise OptionError(f"{path} must contain exactly one run, got {len(runs)}")
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
            raise TypeError(f"{name} must be an object, got {shown(part)}")
        own = known_fields(kind, part)
        if kind is Estimate:
            own["values"] = tuple(own.get("values", ()))
        values[name] = kind(**own)
    return Record(**values)


def newest(folder: Path) -> Path:
    """Return the file of the latest run in a folder.

    Raises:
        OptionError: the folder contains no records.
    """
    found = sorted(folder.glob("run-*.jsonl"))
    if not found:
        raise OptionError(f"no records in {folder}: run 'resharp bench run' with `quick`")
    return found[-1]


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return the indices of the Pareto front: no other point has less memory and more speed.

    Args:
        points: (memory, speed) of each point.

    Returns:
        The indices, by increasing memory.
    """
    best, found = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            found.append(index)
    return tuple(found)


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Group items by a key, keeping their order."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def group_by_model(records: Iterable[Record]) -> dict[tuple[str, int, int], list[Record]]:
    """Group records by (model, height, width), keeping their order."""
    return group_by(records, lambda one: (one.case.model, one.case.height, one.case.width))
