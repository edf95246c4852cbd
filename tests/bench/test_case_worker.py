"""A case on a GPU, turn by turn: in which turns memory is sampled, and the affinity after opening.

The worker runs in this process; its subject, the GPU and the affinity are stand-ins.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from resharp.bench import case_worker as module
from resharp.bench.case_worker import FRAMES, CaseWorker
from resharp.bench.cases import Case
from resharp.bench.implementations import Image, Implementation
from resharp.bench.measure.peak_memory import BY_DEVICE, BY_PROCESS
from resharp.bench.records import ResolvedCase
from resharp.drawing import draw
from resharp.engines import Bundle
from tests.bench.fake_nvml import FakeNvml, nvml, watchers

CASE = Case(model="compact", subject="torch", height=8, width=10)
Work = Callable[[], object]


class Held(Implementation):
    """Returns the image unchanged, after doing work set by the test."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self.work: Work = lambda: None
        """Work to do for each image."""
        self.pictures = 0

    def __call__(self, image: Image) -> Image:
        self.pictures += 1
        self.work()
        return image

    def stream(self, images: Iterable[Image]) -> None:
        for image in images:
            self(image)

    def actual(self, image: Image) -> ResolvedCase:
        return ResolvedCase(backend="held", device=self._device)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.npy"
    np.save(path, draw(8, 10))
    return path


@pytest.fixture
def bench(
    card: FakeNvml, compact: Bundle, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[CaseWorker, Held]]:
    """Opens a worker; ``work`` is done while its subject is opened."""
    monkeypatch.setattr(module, "open_nvml", lambda index: nvml())

    def opened(
        work: Work = lambda: None, device: str = "cuda", lanes: int = 1
    ) -> tuple[CaseWorker, Held]:
        subject, worker = Held(device), CaseWorker()

        def open_implementation(case: Case, bundle: Bundle) -> Implementation:
            work()
            return subject

        monkeypatch.setattr(module, "open_implementation", open_implementation)
        case = replace(CASE, lanes=lanes)
        worker.open(asdict(case), str(compact.folder), None, str(picture))
        return worker, subject

    return opened


Open = Callable[..., tuple[CaseWorker, Held]]


def uses(card: FakeNvml, most: int, after: int = 0) -> Work:
    """Work that takes that much memory for a while."""

    def work() -> None:
        card.mine, card.used = None if card.blind else most, 1000 + most
        card.looked_at()
        card.mine, card.used = None if card.blind else after, 1000 + after

    return work


@pytest.mark.processes
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("largest", ["open", "check", "warm"])
def test_the_peak_is_that_of_opening_check_and_warm_up(
    bench: Open, card: FakeNvml, picture: Path, largest: str, blind: bool, lanes: int
) -> None:
    card.blind = blind
    most = dict.fromkeys(("open", "check", "warm"), 300) | {largest: 700}
    worker, subject = bench(uses(card, most["open"]), lanes=lanes)
    subject.work = uses(card, most["check"])
    worker.check(str(picture))
    subject.work = uses(card, most["warm"])
    worker.warm()
    assert subject.pictures == 1 + (1 if lanes == 1 else lanes * FRAMES)
    found = worker.memory()
    assert (found["device"], found["device_by"]) == (700, BY_DEVICE if blind else BY_PROCESS)
    worker.close()


@pytest.mark.processes
def test_nobody_looks_while_time_is_taken(bench: Open) -> None:
    seen = list[int]()
    worker, subject = bench(lambda: seen.append(len(watchers())))
    subject.work = lambda: seen.append(len(watchers()))
    worker.time(2)
    assert seen == [1, 0, 0]
    worker.warm()
    assert seen == [1, 0, 0, 1]
    worker.close()
    assert not watchers()


@pytest.mark.processes
def test_what_another_case_holds_is_not_the_baselines(
    bench: Open, card: FakeNvml, picture: Path
) -> None:
    """NVML cannot tell processes apart, and the baseline keeps running in turns with the case."""
    card.blind = True
    baseline, subject = bench(uses(card, 500, after=400))
    subject.work = uses(card, 500, after=400)
    baseline.check(str(picture))
    baseline.warm()
    case, other = bench(uses(card, 400 + 3000, after=400 + 2500))
    other.work = uses(card, 400 + 3000, after=400 + 2500)
    case.check(str(picture))
    case.warm()
    subject.work = other.work = lambda: None
    for worker in (baseline, case, baseline, case):
        worker.time(1)
    assert baseline.memory()["device"] == 500
    assert case.memory()["device"] == 3000  # what the baseline held before is not the case's
    case.close()
    baseline.close()


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Processors of threads whose affinity was set, by thread ID; others may run on all four."""
    of: dict[int, set[int]] = {}

    def get(pid: int) -> set[int]:
        return of.get(pid or threading.get_ident(), {0, 1, 2, 3})

    def put(pid: int, allowed: Iterable[int]) -> None:
        of[pid or threading.get_ident()] = set(allowed)

    monkeypatch.setattr(os, "sched_getaffinity", get, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", put, raising=False)
    return of


@pytest.mark.parametrize(
    ("device", "left"), [("cuda", {0, 1, 2, 3}), ("cuda:1", {0, 1, 2, 3}), ("cpu", {2})]
)
def test_a_case_on_a_gpu_gets_its_processors_back(
    bench: Open, processors: dict[int, set[int]], device: str, left: set[int]
) -> None:
    """As with OMP_PROC_BIND, where importing PyTorch binds the thread that does it."""
    worker, _ = bench(lambda: os.sched_setaffinity(0, {2}), device)
    assert processors == {threading.get_ident(): left}
    worker.close()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_system_without_affinity_has_none_to_give_back(
    bench: Open, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    worker, _ = bench(device=device)
    worker.close()
