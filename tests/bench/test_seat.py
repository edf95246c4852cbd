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

from resharp.bench import seat as seats
from resharp.bench import worker as module
from resharp.bench.cases import Case
from resharp.bench.records import Actual
from resharp.bench.seat import PATIENCE, VARIABLE, Seat, patience
from resharp.bench.subjects import Subject
from resharp.bench.worker import FRAMES, Worker, answer
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import BackendError, MissingExtraError, OptionError
from resharp.types import Image
from tests.bench.machine import Clock
from tests.waiting import LIMIT, until

CASE = Case(model="compact", subject="onnx", height=40, width=50, tile=32)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.npy"
    np.save(path, draw(40, 50))
    return path


@pytest.fixture
def seat() -> Iterator[Seat]:
    with Seat() as one:
        yield one


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_rests_between_its_turns_and_wakes(seat: Seat, compact: Bundle, picture: Path) -> None:
    actual = seat.open(CASE, compact, picture)
    assert actual["tile"] == 32
    seconds, joules = seat.seconds(2)
    assert seconds > 0
    assert joules is None
    seat.rest()
    until(lambda: state(seat.pid) == "T", "the process stops")
    assert seat.seconds()[0] > 0
    assert state(seat.pid) != "T"
    seat.rest()  # and it is closed while it rests


class FakeSubject(Subject):
    """An image takes three seconds, and each call or stream one more before it begins."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, image: Image) -> Image:
        self._clock.now += 1 + 3
        return image

    def actual(self, image: Image) -> Actual:
        return Actual(backend="none", device="cpu")

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
    one = Worker()
    one._case = replace(CASE, lanes=lanes)
    one._image, one._subject = np.load(picture), FakeSubject(clock)
    assert one.time(calls) == {"seconds": pytest.approx(seconds), "joules": None}


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_the_death_of_a_process_is_said(seat: Seat, compact: Bundle, picture: Path) -> None:
    seat.open(CASE, compact, picture)
    os.kill(seat.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match=r"its process ended \(-9\) at 'time'"):
        seat.seconds()


class Timers:
    """Stands in for the module ``threading``: notes the limits of requests, and ends nothing."""

    TIMEOUT_MAX = threading.TIMEOUT_MAX

    def __init__(self) -> None:
        self.limits = list[float]()

    def Timer(self, seconds: float, end: Callable[[], object]) -> threading.Timer:  # noqa: N802
        self.limits.append(seconds)
        return threading.Timer(LIMIT, end)


@pytest.mark.processes
@pytest.mark.parametrize(("text", "limit"), [(None, PATIENCE), ("", PATIENCE), ("2.5", 2.5)])
def test_the_limit_of_a_request_is_the_environments(
    text: str | None, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers = Timers()
    monkeypatch.setattr(seats, "threading", timers)
    if text is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, text)
    with Seat() as one:
        assert one.ask("close") == {}
    assert timers.limits == [limit]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e300"])
def test_a_limit_that_makes_no_sense_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(OptionError, match=f"{VARIABLE} must be a number of seconds.*{text!r}"):
        patience()
    with pytest.raises(OptionError, match=VARIABLE):
        Seat()


@pytest.mark.processes
def test_what_it_last_said_is_told(seat: Seat) -> None:
    with pytest.raises(BackendError, match=r"AttributeError.*nothing_like_that"):
        seat.ask("nothing_like_that")
    assert seat.ask("close") == {}  # it goes on


def test_errors_are_answers(
    compact: Bundle, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"do": "open", "folder": str(compact.folder), "shelf": None, "picture": str(picture)}
    case = {"model": "m", "height": 4, "width": 5}
    monkeypatch.setitem(sys.modules, "openvino", None)
    absent = answer({**request, "case": {**case, "subject": "openvino"}}, Worker())
    assert absent["absent"]
    assert "pip install 'openvino'" in absent["error"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        ours = answer({**request, "case": {**case, "subject": "torch"}}, Worker())
    assert ours["absent"]
    assert "resharp[torch]" in ours["error"]
    gone = answer({**request, "case": {**case, "subject": "torch-eager"}}, Worker())
    assert not gone["absent"]
    assert "no backend can run" in gone["error"]
    worker = Worker()
    assert "answer" in answer({**request, "case": {**case, "subject": "onnx"}}, worker)
    assert answer({"do": "close"}, worker) == {"answer": {}}


@pytest.mark.processes
def test_an_absent_library_is_told_apart(picture: Path, compact: Bundle) -> None:
    script = "import sys; sys.modules['openvino'] = None"
    folder = picture.parent / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(script)
    old = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), old]))
    try:
        with Seat() as one, pytest.raises(MissingExtraError, match="openvino"):
            one.open(Case(model="m", subject="openvino", height=4, width=5), compact, picture)
    finally:
        os.environ["PYTHONPATH"] = old
