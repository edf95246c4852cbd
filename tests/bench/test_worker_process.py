"""The process of a case: answers, errors, death, rest."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resharp.bench import case_worker as module
from resharp.bench import worker_process
from resharp.bench.case_worker import FRAMES, CaseWorker, handle
from resharp.bench.cases import Case
from resharp.bench.implementations import Image, Implementation
from resharp.bench.records import ResolvedCase
from resharp.bench.worker_process import (
    REQUEST_TIMEOUT,
    TIMEOUT_VARIABLE,
    WorkerProcess,
    request_timeout,
)
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import BackendError, MissingExtraError, OptionError
from tests.bench.fake_machine import Clock
from tests.waiting import LIMIT, until

CASE = Case(model="compact", subject="onnx", height=40, width=50, tile=32)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.npy"
    np.save(path, draw(40, 50))
    return path


@pytest.fixture
def process() -> Iterator[WorkerProcess]:
    with WorkerProcess() as one:
        yield one


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_rests_between_its_turns_and_wakes(
    process: WorkerProcess, compact: Bundle, picture: Path
) -> None:
    actual = process.open(CASE, compact, picture)
    assert actual["tile"] == 32
    seconds, joules = process.seconds(2)
    assert seconds > 0
    assert joules is None
    process.suspend()
    until(lambda: state(process.pid) == "T", "the process stops")
    assert process.seconds()[0] > 0
    assert state(process.pid) != "T"
    process.suspend()  # and it is closed while it rests


class FakeImplementation(Implementation):
    """An image takes three seconds, and each call or stream one more before it begins."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, image: Image) -> Image:
        self._clock.now += 1 + 3
        return image

    def actual(self, image: Image) -> ResolvedCase:
        return ResolvedCase(backend="none", device="cpu")

    def stream(self, images: Iterable[Image]) -> None:
        self._clock.now += 1 + 3 * sum(1 for _ in images)


@pytest.mark.parametrize(
    ("lanes", "calls", "seconds"),
    [
        (1, 1, 4),
        (1, 5, 4),
        (2, 1, 3 + 1 / (2 * FRAMES)),
        (3, 5, 3 + 1 / (15 * FRAMES)),
    ],
)
def test_a_time_is_the_mean_of_one_image(
    lanes: int, calls: int, seconds: float, monkeypatch: pytest.MonkeyPatch, picture: Path
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    one = CaseWorker()
    one._case = replace(CASE, lanes=lanes)
    one._image, one._implementation = np.load(picture), FakeImplementation(clock)
    assert one.time(calls) == {"seconds": pytest.approx(seconds), "joules": None}


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_the_death_of_a_process_is_said(
    process: WorkerProcess, compact: Bundle, picture: Path
) -> None:
    process.open(CASE, compact, picture)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match=r"process ended \(exit code -9\) during 'time'"):
        process.seconds()


class Timers:
    """Stands in for the module ``threading``: notes the limits of requests, and ends nothing."""

    TIMEOUT_MAX = threading.TIMEOUT_MAX

    def __init__(self) -> None:
        self.limits = list[float]()

    def Timer(self, seconds: float, end: Callable[[], object]) -> threading.Timer:  # noqa: N802
        self.limits.append(seconds)
        return threading.Timer(LIMIT, end)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("text", "limit"), [(None, REQUEST_TIMEOUT), ("", REQUEST_TIMEOUT), ("2.5", 2.5)]
)
def test_the_limit_of_a_request_is_the_environments(
    text: str | None, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers = Timers()
    monkeypatch.setattr(worker_process, "threading", timers)
    if text is None:
        monkeypatch.delenv(TIMEOUT_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with WorkerProcess() as one:
        assert one.request("close") == {}
    assert timers.limits == [limit]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e300"])
def test_a_limit_that_makes_no_sense_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(
        OptionError, match=f"{TIMEOUT_VARIABLE} must be a number of seconds.*{text!r}"
    ):
        request_timeout()
    with pytest.raises(OptionError, match=TIMEOUT_VARIABLE):
        WorkerProcess()


@pytest.mark.processes
def test_what_it_last_said_is_told(process: WorkerProcess) -> None:
    with pytest.raises(BackendError, match=r"AttributeError.*nothing_like_that"):
        process.request("nothing_like_that")
    assert process.request("close") == {}  # the process is still running


def test_errors_are_answers(
    compact: Bundle, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {
        "do": "open",
        "folder": str(compact.folder),
        "engines": None,
        "picture": str(picture),
    }
    case = {"model": "m", "height": 4, "width": 5}
    monkeypatch.setitem(sys.modules, "openvino", None)
    absent = handle({**request, "case": {**case, "subject": "openvino"}}, CaseWorker())
    assert absent["absent"]
    assert "pip install 'openvino'" in absent["error"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        ours = handle({**request, "case": {**case, "subject": "torch"}}, CaseWorker())
    assert ours["absent"]
    assert "resharp[torch]" in ours["error"]
    gone = handle({**request, "case": {**case, "subject": "torch-eager"}}, CaseWorker())
    assert not gone["absent"]
    assert "cannot be run as requested" in gone["error"]
    worker = CaseWorker()
    assert "answer" in handle({**request, "case": {**case, "subject": "onnx"}}, worker)
    assert handle({"do": "close"}, worker) == {"answer": {}}


@pytest.mark.processes
def test_an_absent_library_is_told_apart(picture: Path, compact: Bundle) -> None:
    script = "import sys; sys.modules['openvino'] = None"
    folder = picture.parent / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(script)
    old = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), old]))
    try:
        with WorkerProcess() as one, pytest.raises(MissingExtraError, match="openvino"):
            one.open(Case(model="m", subject="openvino", height=4, width=5), compact, picture)
    finally:
        os.environ["PYTHONPATH"] = old
