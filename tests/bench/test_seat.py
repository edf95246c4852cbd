"""The process of a case: answers, errors, death, rest."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resharp.bench.cases import Case
from resharp.bench.seat import Seat
from resharp.bench.worker import Worker, answer
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import BackendError, MissingExtraError

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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_rests_between_its_turns_and_wakes(seat: Seat, compact: Bundle, picture: Path) -> None:
    actual = seat.open(CASE, compact, picture)
    assert actual["tile"] == 32
    seconds, joules = seat.seconds(2)
    assert 0 < seconds < 5
    assert joules is None
    seat.rest()
    end = time.monotonic() + 5
    while state(seat.pid) != "T" and time.monotonic() < end:
        time.sleep(0.01)
    assert state(seat.pid) == "T"
    assert seat.seconds()[0] > 0
    assert state(seat.pid) != "T"
    seat.rest()  # and it is closed while it rests


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_the_death_of_a_process_is_said(seat: Seat, compact: Bundle, picture: Path) -> None:
    seat.open(CASE, compact, picture)
    os.kill(seat.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match=r"its process ended \(-9\) at 'time'"):
        seat.seconds()


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
