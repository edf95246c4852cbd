"""Measurement of all cases of one model and size: a parity check, then timing against a baseline.

Ratios are relative to the first baseline that runs. It is also timed against itself in a second
process, which shows the noise of the machine. PyTorch cases are paired with a bare PyTorch network,
because different libraries slow down differently on a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from resharp.bench.bundle_provider import BundleProvider
from resharp.bench.cases import Budget, Case
from resharp.bench.measure import estimates
from resharp.bench.measure.paired_timing import PairedTimes, alternate, joined
from resharp.bench.parity_check import DroppedError, ParityReference, open_case
from resharp.bench.records import (
    ABSENT,
    DROPPED,
    FAILED,
    MEASURED,
    CaseParity,
    Estimate,
    PeakMemory,
    Rates,
    Record,
    ResolvedCase,
    RunInfo,
    StageTimes,
)
from resharp.bench.worker_process import WorkerProcess
from resharp.engines import Bundle
from resharp.errors import BackendError, MissingExtraError, ResharpError
from resharp.gpu import tensorrt as trt
from resharp.gpu.devices import has_gpu
from resharp.types import Log

ON_GPU = (*trt.VARIANTS, "torch-eager", "onnx-cuda")
PAIRED_BASELINES = {"torch": "pytorch"}
"""Baselines that use the same library as a subject."""


@dataclass(frozen=True)
class OpenCase:
    """A case that has passed its parity check and is ready to be timed."""

    case: Case
    process: WorkerProcess
    actual: ResolvedCase
    parity: CaseParity
    taken: list[float] = field(default_factory=list)
    """Times of all its turns so far, in seconds; only recorded for the group's baseline."""


class CaseGroup(AbstractContextManager["CaseGroup"]):
    """Cases of one model and size. A context manager that ends the baselines' processes on exit.

    Args:
        cases: cases to measure, all of the same model and size.
        reference: exact result to compare their results with.
        budget: measuring time.
        bundles: provides engines.
        run: the run that the cases belong to.
        add: called with each record as soon as it is complete.
        log: called with progress lines.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        reference: ParityReference,
        budget: Budget,
        bundles: BundleProvider,
        run: RunInfo,
        add: Callable[[Record], object],
        log: Log,
    ) -> None:
        self._cases, self._reference, self._budget = cases, reference, budget
        self._bundles, self._run, self._add, self._log = bundles, run, add, log
        self._stack = ExitStack()
        self._paired: dict[str, Record] = {}
        """Records of the baselines that other cases are paired with, by subject."""
        self._base: OpenCase | None = None
        self._refused: set[Case] = set()
        self._noise = 0.0

    def measure(self) -> float | None:
        """Measure all cases.

        Returns:
            The noise of the machine; None if no baseline runs.
        """
        base = self._base = self._first_baseline()
        if base is not None:
            self._noise = self._measure_twice(base)
        for case in sorted(self._cases, key=lambda case: not case.is_baseline):
            if case not in self._refused and (base is None or case != base.case):
                self._measure_case(case)
        if base is None:
            return None
        try:
            self._add(self._record(base, PairedTimes(first=(), second=tuple(base.taken))))
        except ResharpError as error:
            self._refuse(base.case, error)
        return self._noise

    def paced(self, record: Record) -> Record:
        """Return the record with its rates rescaled to the baseline's median time.

        The baseline is measured throughout the run, but a case only briefly, while the machine may
        be slower or faster than usual. That affects its rates but not its ratio.
        """
        base, rates = self._base, record.rates
        if base is None or not base.taken or record.ratio is None or rates is None:
            return record
        usual = estimates.estimate(base.taken).median / record.ratio.median
        factor = 1 / usual / rates.frames
        scaled: dict[str, Any] = {
            name: None if (value := getattr(rates, name)) is None else value * factor
            for name in ("frames", "input_megapixels", "output_megapixels", "flops", "matrix_share")
        }
        return replace(record, rates=replace(rates, **scaled))

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def _first_baseline(self) -> OpenCase | None:
        order = _baseline_order(self._cases)
        baselines = [case for case in self._cases if case.is_baseline]
        for case in sorted(baselines, key=lambda case: order.index(case.subject)):
            process = self._stack.enter_context(WorkerProcess())
            try:
                return self._open(case, process)
            except ResharpError as error:
                self._refuse(case, error)
                process.close()
        return None

    def _measure_twice(self, base: OpenCase) -> float:
        """Time the baseline against itself and return the noise of the machine."""
        self._log(f"{base.case.id}: measuring the baseline against itself")
        repeats = []
        try:
            for _ in range(self._budget.sittings):
                with WorkerProcess() as process:
                    twin = self._open(base.case, process)
                    repeats.append(self._time(twin, base, self._budget))
                    record = self._record(twin, joined(repeats))
        except ResharpError as error:  # e.g. not enough memory for two processes
            self._log(f"{base.case.id}: cannot measure the baseline against itself: {error}")
            return 0.0
        ratio, subject = _ratio(joined(repeats)), base.case.subject
        noise = max(estimates.deviation(ratio), estimates.largest_deviation(map(_ratio, repeats)))
        record = replace(record, baseline=subject, ratio=ratio, kin=subject, kin_ratio=ratio)
        self._add(replace(record, noise=noise, twin=True))
        return noise

    def _measure_case(self, case: Case) -> None:
        self._log(case.id)
        paired = self._paired.get(PAIRED_BASELINES.get(case.subject, ""))
        repeats = list[PairedTimes]()
        budget = replace(self._budget, sittings=1) if case.is_baseline else self._budget
        try:
            bundle = self._bundles.with_engines(self._reference.bundle, case, self._cases)
            for number in range(budget.sittings):
                with ExitStack() as own:
                    partner = self._base
                    if paired is not None:  # a new process each time, as for the case itself
                        partner = self._open(paired.case, own.enter_context(WorkerProcess()))
                    opened = self._open(case, own.enter_context(WorkerProcess()), bundle)
                    repeats.append(self._time(opened, partner, budget))
                    if number + 1 == budget.sittings:
                        record = self._compared(opened, repeats, paired)
                        record = replace(record, stages=_stages(opened.process))
        except ResharpError as error:
            self._refuse(case, error)
            return
        self._add(record)
        if case.subject in PAIRED_BASELINES.values():
            self._paired[case.subject] = record

    def _open(self, case: Case, process: WorkerProcess, bundle: Bundle | None = None) -> OpenCase:
        """Open a case with :func:`open_case` and check its parity."""
        return OpenCase(case, process, *open_case(process, case, self._reference, bundle))

    def _time(self, opened: OpenCase, partner: OpenCase | None, whole: Budget) -> PairedTimes:
        """Time a case in one process, in turns with its partner if it has one."""
        budget = whole.per_repeat()
        if partner is None:
            alone = tuple(opened.process.seconds()[0] for _ in range(budget.pairs))
            return PairedTimes(first=(), second=alone)
        times = alternate(partner.process, opened.process, budget)
        if partner is self._base:
            partner.taken.extend(times.first)
        return times

    def _compared(
        self, opened: OpenCase, repeats: Sequence[PairedTimes], paired: Record | None
    ) -> Record:
        """Return the record of a case that was timed against the baseline or its paired one."""
        record, base = self._record(opened, joined(repeats)), self._base
        if base is None:
            return record
        ratio = _ratio(joined(repeats))
        gap = estimates.largest_gap(map(_ratio, repeats))
        known = None if paired is None else paired.ratio
        return replace(
            record,
            baseline=base.case.subject,
            ratio=ratio if known is None else estimates.product(ratio, known),
            kin=base.case.subject if paired is None else paired.case.subject,
            kin_ratio=ratio,
            noise=max(estimates.half_width(ratio), gap, self._noise),
        )

    def _record(self, opened: OpenCase, times: PairedTimes) -> Record:
        seconds = estimates.estimate(times.second)
        return Record(
            run=self._run.run,
            case=opened.case,
            status=MEASURED,
            actual=replace(opened.actual, **opened.process.request("note")),
            parity=opened.parity,
            seconds=seconds,
            rates=self._rates(opened, seconds.median, times.joules),
            memory=PeakMemory(**opened.process.request("memory")),
            disturbed=times.disturbed,
        )

    def _rates(self, opened: OpenCase, seconds: float, joules: float | None) -> Rates:
        manifest = self._reference.bundle.manifest
        pixels, per_pixel = opened.case.height * opened.case.width, manifest.flops_per_pixel
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
        self._log(f"{case.id}: {record.status}: {error}")
        self._add(record)


def _ratio(times: PairedTimes) -> Estimate:
    return estimates.paired_ratio(times.first, times.second)


def _stages(process: WorkerProcess) -> StageTimes | None:
    try:
        found = process.request("stages")
    except (BackendError, MissingExtraError):  # e.g. no CUPTI; the other figures still hold
        return None
    return StageTimes(**found) if found else None


def _baseline_order(cases: Sequence[Case]) -> tuple[str, ...]:
    """Return the order in which baselines are tried: the upstream script comes first on a GPU."""
    if has_gpu() and any(case.subject in ON_GPU for case in cases):
        return ("upstream", "pytorch", "onnxruntime", "openvino", "ncnn")
    return ("onnxruntime", "pytorch", "upstream", "openvino", "ncnn")
