"""All cases of one model and size of picture: each agrees first, then takes turns with a baseline.

The first baseline that runs is what ratios are to. It is also measured against itself, in two
processes: what these differ by is what the machine adds. PyTorch's cases take turns with a bare
PyTorch network, since another library slows down differently when the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

from resharp.bench import statistics
from resharp.bench.agree import DroppedError, Scene, open_case
from resharp.bench.bundles import Bundles
from resharp.bench.cases import Case, Effort
from resharp.bench.pairs import Turns, alternate, joined
from resharp.bench.records import (
    ABSENT,
    DROPPED,
    FAILED,
    MEASURED,
    Actual,
    Memory,
    Parity,
    Rates,
    Record,
    Run,
    Spread,
    Stages,
)
from resharp.bench.seat import Seat
from resharp.engines import Bundle
from resharp.errors import BackendError, MissingExtraError, ResharpError
from resharp.gpu import tensorrt as trt
from resharp.gpu.devices import has_gpu

ON_GPU = (*trt.FLAVOURS, "torch-eager", "onnx-cuda")
KIN = {"torch": "pytorch"}
"""Baseline of the same library, for subjects that have one."""


@dataclass(frozen=True)
class Open:
    """A case that agrees with the exact result, ready to be timed."""

    case: Case
    seat: Seat
    actual: Actual
    parity: Parity
    taken: list[float] = field(default_factory=list)
    """Seconds taken so far, of the group's baseline."""


class Group(AbstractContextManager["Group"]):
    """Cases of one model and size. A context manager, which ends the baselines' processes.

    Args:
        cases: of one model and size.
        scene: what they share.
        effort: how long to measure.
        bundles: for engines.
        run: that they are part of.
        add: told each record as it is ready.
        report: told what happens.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        scene: Scene,
        effort: Effort,
        bundles: Bundles,
        run: Run,
        add: Callable[[Record], object],
        report: Callable[[str], object],
    ) -> None:
        self._cases, self._scene, self._effort, self._bundles = cases, scene, effort, bundles
        self._run, self._add, self._report = run, add, report
        self._stack = ExitStack()
        self._kin: dict[str, Record] = {}
        self._base: Open | None = None
        self._refused: set[Case] = set()
        self._noise = 0.0

    def measure(self) -> float | None:
        """Measure all; tells the noise, None where no baseline runs."""
        base = self._base = self._first_baseline()
        if base is not None:
            self._noise = self._twice(base)
        for case in sorted(self._cases, key=lambda case: not case.is_baseline):
            if case not in self._refused and (base is None or case != base.case):
                self._case(case)
        if base is None:
            return None
        try:
            self._add(self._record(base, Turns(first=(), second=tuple(base.taken))))
        except ResharpError as error:
            self._refuse(base.case, error)
        return self._noise

    def paced(self, record: Record) -> Record:
        """The record with rates at the baseline's median pace.

        The baseline was measured throughout; a case for a short while, in which the machine may
        have been slower or faster than usual. Its ratio does not know of that.
        """
        base = self._base
        if base is None or not base.taken or record.ratio is None or record.rates is None:
            return record
        usual = statistics.spread(base.taken).median / record.ratio.median
        factor = 1 / usual / record.rates.frames
        rates, share = record.rates, record.rates.matrix_share
        return replace(
            record,
            rates=replace(
                rates,
                frames=rates.frames * factor,
                input_megapixels=rates.input_megapixels * factor,
                output_megapixels=rates.output_megapixels * factor,
                flops=None if rates.flops is None else rates.flops * factor,
                matrix_share=None if share is None else share * factor,
            ),
        )

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def _first_baseline(self) -> Open | None:
        baselines = [case for case in self._cases if case.is_baseline]
        for case in sorted(baselines, key=lambda case: _order(self._cases).index(case.subject)):
            seat = self._stack.enter_context(Seat())
            try:
                return self._open(case, seat)
            except ResharpError as error:
                self._refuse(case, error)
                seat.close()
        return None

    def _twice(self, base: Open) -> float:
        """The baseline against itself: what the machine adds by itself."""
        self._report(f"{base.case.id}: the same case twice")
        sittings = []
        try:
            for _ in range(self._effort.sittings):
                with Seat() as seat:
                    twin = self._open(base.case, seat)
                    sittings.append(self._sit(twin, base, self._effort))
                    record = self._record(twin, joined(sittings))
        except ResharpError as error:  # no memory for two, say
            self._report(f"{base.case.id}: could not be measured twice: {error}")
            return 0.0
        ratio, subject = _ratio(joined(sittings)), base.case.subject
        noise = max(statistics.width(ratio), statistics.farthest(map(_ratio, sittings)))
        record = replace(record, baseline=subject, ratio=ratio, kin=subject, kin_ratio=ratio)
        self._add(replace(record, noise=noise, twin=True))
        return noise

    def _case(self, case: Case) -> None:
        self._report(case.id)
        kin = self._kin.get(KIN.get(case.subject, ""))
        effort, sittings = self._effort, list[Turns]()
        if case.is_baseline:
            effort = replace(effort, sittings=1)
        try:
            bundle = self._bundles.for_subject(self._scene.bundle, case, self._cases)
            for number in range(effort.sittings):
                with ExitStack() as own:
                    partner = self._base
                    if kin is not None:  # a new process each time, since it is no steadier
                        partner = self._open(kin.case, own.enter_context(Seat()))
                    opened = self._open(case, own.enter_context(Seat()), bundle)
                    sittings.append(self._sit(opened, partner, effort))
                    if number + 1 == effort.sittings:
                        record = self._compared(opened, sittings, kin)
                        record = replace(record, stages=_stages(opened.seat))
        except ResharpError as error:
            self._refuse(case, error)
            return
        self._add(record)
        if case.subject in KIN.values():
            self._kin[case.subject] = record

    def _open(self, case: Case, seat: Seat, bundle: Bundle | None = None) -> Open:
        """See :func:`open_case`."""
        own = bundle or self._scene.bundle
        return Open(case, seat, *open_case(seat, case, self._scene, own))

    def _sit(self, opened: Open, kin: Open | None, whole: Effort) -> Turns:
        """Time a case in one process: in turns with its kin, or alone where there is none."""
        effort = whole.of_a_sitting()
        if kin is None:
            alone = tuple(opened.seat.seconds()[0] for _ in range(effort.pairs))
            return Turns(first=(), second=alone)
        turns = alternate(kin.seat, opened.seat, effort)
        if kin is self._base:
            kin.taken.extend(turns.first)
        return turns

    def _compared(self, opened: Open, sittings: Sequence[Turns], kin: Record | None) -> Record:
        """The record of a case that took turns with the baseline, or with its kin."""
        record, base = self._record(opened, joined(sittings)), self._base
        if base is None:
            return record
        ratio = _ratio(joined(sittings))
        apart = statistics.apart(map(_ratio, sittings))
        known = None if kin is None else kin.ratio
        return replace(
            record,
            baseline=base.case.subject,
            ratio=ratio if known is None else statistics.chained(ratio, known),
            kin=base.case.subject if kin is None else kin.case.subject,
            kin_ratio=ratio,
            noise=max(statistics.own_width(ratio), apart, self._noise),
        )

    def _record(self, opened: Open, turns: Turns) -> Record:
        taken = statistics.spread(turns.second)
        return Record(
            run=self._run.run,
            case=opened.case,
            status=MEASURED,
            actual=replace(opened.actual, **opened.seat.ask("note")),
            parity=opened.parity,
            seconds=taken,
            rates=self._rates(opened, taken.median, turns.joules),
            memory=Memory(**opened.seat.ask("memory")),
            disturbed=turns.disturbed,
        )

    def _rates(self, opened: Open, seconds: float, joules: float | None) -> Rates:
        case, manifest = opened.case, self._scene.bundle.manifest
        pixels, per_pixel = case.height * case.width, manifest.flops_per_pixel
        flops = None if per_pixel is None else per_pixel * pixels / seconds
        on_gpu = opened.actual.device.startswith("cuda")
        rate = self._run.matrix_rate.get("cuda fp16" if on_gpu else "cpu fp32")
        return Rates(
            frames=1 / seconds,
            input_megapixels=pixels / 1e6 / seconds,
            output_megapixels=pixels / 1e6 * manifest.scale**2 / seconds,
            flops=flops,
            matrix_share=None if flops is None or rate is None else flops / rate,
            joules_per_megapixel=None if joules is None else joules / (pixels / 1e6),
        )

    def _refuse(self, case: Case, error: ResharpError) -> None:
        record = Record(run=self._run.run, case=case, status=FAILED, reason=str(error))
        if isinstance(error, DroppedError):
            record = replace(record, status=DROPPED, parity=error.parity)
        elif isinstance(error, MissingExtraError):
            record = replace(record, status=ABSENT)
        self._refused.add(case)
        self._report(f"{case.id}: {record.status}: {error}")
        self._add(record)


def _ratio(turns: Turns) -> Spread:
    return statistics.ratios(turns.first, turns.second)


def _stages(seat: Seat) -> Stages | None:
    try:
        found = seat.ask("stages")
    except (BackendError, MissingExtraError):  # CUPTI says nothing here: the figures still hold
        return None
    return Stages(**found) if found else None


def _order(cases: Sequence[Case]) -> tuple[str, ...]:
    """Which baseline comes first: on a GPU the script that its users know, else the session."""
    if has_gpu() and any(case.subject in ON_GPU for case in cases):
        return ("upstream", "pytorch", "onnxruntime", "openvino", "ncnn")
    return ("onnxruntime", "pytorch", "upstream", "openvino", "ncnn")
