"""An interrupted video resumes where it stopped, and the result is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from resharp.engines import Bundle
from resharp.errors import OutputError
from resharp.pipeline.staged_pipeline import StageReport
from resharp.video import VideoOptions, VideoReport, source
from resharp.video.resume import JOURNAL
from resharp.video.run import render_video
from tests.held import start
from tests.video.kit import LATE, Enlarged, Spec, av, make, parts
from tests.waiting import LIMIT, until

ROOT = Path(__file__).parents[2]
SEGMENT = 10
LOGGED = """
import sys
from pathlib import Path
from resharp.video import VideoOptions
from resharp.video.run import render_video
from tests.held import released
from tests.video.kit import Enlarged, number_in

class Logged(Enlarged):
    def __call__(self, image, *, progress=None):
        with open(sys.argv[3], "a") as log:
            log.write(f"{number_in(image)}\\n")
        return super().__call__(image, progress=progress)

hold = int(sys.argv[4]) if sys.argv[4] else None
config = Logged(2, hold=hold, release=None if hold is None else released())
# Two frames in work at once on any machine: what a kill costs depends on it.
render_video(sys.argv[1], sys.argv[2], config, options=VideoOptions(segment=10), workers=2)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames of variable rate, with keyframes that are not where segments begin."""
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    steps = np.resize([1500, 3003, 6006, 3000], 119)
    times = tuple(int(t) for t in np.cumsum([0, *steps]))
    spec = Spec(frames=120, pts=times, sound=("aac",), options={"crf": "12", "g": "37"})
    return make(path, spec)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {t for t in threading.enumerate() if t.name.startswith("resharp")} <= before


def frames(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def restore(clip: Path, target: Path, config: Any = None, **options: Any) -> VideoReport:
    given: Any = VideoOptions(**{"segment": SEGMENT, **options})
    chosen: Any = config or Enlarged(2)
    return render_video(clip, target, chosen, options=given)


class InterruptedByTestError(Exception):
    pass


def interrupt(clip: Path, target: Path, after: int, **options: Any) -> None:
    """Stop a run in the middle, when so many frames, and the segments they end, are written."""

    written = 0

    def on_stages(stages: tuple[StageReport, ...]) -> None:
        nonlocal written
        written = stages[-1].items

    def stop(done: float, total: float) -> None:
        if done >= after and written >= after:
            raise InterruptedByTestError

    given = VideoOptions(**{"segment": SEGMENT, **options})
    held: Any = Enlarged(2, hold=after + LATE)
    with pytest.raises(InterruptedByTestError):
        render_video(clip, target, held, options=given, progress=stop, on_stages=on_stages)


def lines(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def has_lines(log: Path, count: int) -> bool:
    return lines(log) >= count


def numbers(log: Path, before: int = 0) -> list[int]:
    """Of the frames that went through the network, those in the first lines left out."""
    return [int(line) for line in log.read_text().split()[before:]]


def at_work(log: Path, before: int, count: int, first: int) -> bool:
    """Whether a run has begun so many frames, among them the first."""
    return has_lines(log, before + count) and first in numbers(log, before)


@pytest.mark.slow
@pytest.mark.processes
def test_sigkill_at_ten_random_moments(clip: Path, tmp_path: Path) -> None:
    whole = restore(clip, tmp_path / "whole.mp4").target
    target, log = tmp_path / "out.mp4", tmp_path / "log"
    script = ["-c", LOGGED, str(clip), str(target), str(log)]
    journal, finished, chance, killed = tmp_path / "out.mp4.resharp" / JOURNAL, 0, Random(5), 0
    counts = [chance.randint(1, 17) for _ in range(10)]
    assert sum(counts) < 120  # frames that they do in all: none comes to its end
    for turn, count in enumerate(counts):
        before, sure = lines(log), (finished + count - 1) // SEGMENT  # the last may be held back
        with start(*script, str(count)) as process:
            until(partial(at_work, log, before, count, finished), alive=process)
            if turn % 2:  # killed when its last segment is finished, or at any moment before that
                until(partial(has_lines, journal, sure + 1), alive=process)
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        assert min(numbers(log, before)) == finished  # it resumed there
        finished = SEGMENT * max(lines(journal) - 1, 0)
    assert killed == 10
    assert finished
    assert not target.exists()
    before = lines(log)
    with start(*script, "") as process:
        assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert min(numbers(log, before)) == finished
    assert frames(target) == frames(whole)
    assert target.read_bytes() == whole.read_bytes()
    assert parts(target).times == parts(clip).times
    assert set(numbers(log)) == set(range(120))
    assert not list(tmp_path.glob("*.resharp"))


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": Fraction(60)},
        {"fps": Fraction(20)},
        {"start": Fraction(1, 2), "end": Fraction(3)},
        {"skip_duplicates": 3.0},
        {"codec": "hevc"},
    ],
    ids=str,
)
def test_it_goes_on_at_the_last_finished_segment(
    clip: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = restore(clip, tmp_path / "whole.mp4", **options).target
    target = tmp_path / "out.mp4"
    interrupt(clip, target, 21, **options)
    again = restore(clip, target, **options)
    assert again.resumed_at >= 2 * SEGMENT
    assert again.resumed_at % SEGMENT == 0
    assert any("resuming after" in note for note in again.notes)
    assert frames(target) == frames(whole)
    assert parts(target).times == parts(whole).times


@pytest.mark.processes
def test_a_sequence_goes_on_too(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "%05d.png"
    interrupt(clip, target, 35)
    again = restore(clip, target)
    assert again.resumed_at >= 30
    restore(clip, tmp_path / "whole" / "%05d.png")
    made = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in made] == sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert all(p.read_bytes() == (tmp_path / "whole" / p.name).read_bytes() for p in made)


def test_seeking_that_goes_wrong_is_noticed(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = restore(clip, tmp_path / "whole.mp4").target
    target = tmp_path / "out.mp4"
    interrupt(clip, target, 45)

    def too_far(container: Any, stream: Any, clip: Any, goal: int) -> None:
        container.seek(goal + 90_000, stream=stream, backward=False)

    monkeypatch.setattr(source, "_seek", too_far)
    assert restore(clip, target).resumed_at >= 40
    assert frames(target) == frames(whole)


@pytest.mark.slow
def test_other_options_or_another_input_start_over_and_say_so(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    interrupt(clip, target, 35)
    report = restore(clip, target, crf=23)
    assert report.resumed_at == 0
    assert any("starting over: crf changed from None to 23" in note for note in report.notes)
    other = tmp_path / "in.mp4"
    other.write_bytes(clip.read_bytes())
    target.unlink()
    interrupt(other, target, 35)
    make(other, Spec(frames=40, sound=("aac",)))
    report = restore(other, target)
    assert (report.resumed_at, report.frames) == (0, 40)
    assert any("the input changed" in note for note in report.notes)
    target.unlink()
    interrupt(clip, target, 35)
    report = restore(clip, target, Enlarged(3))
    assert report.resumed_at == 0
    assert any("starting over" in note for note in report.notes)
    assert report.width == 3 * 128


def test_another_end_makes_only_the_last_segment_again(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    interrupt(clip, target, 55)
    times = [t for t in parts(clip).times if t < 1]
    report = restore(clip, target, end=Fraction(1))
    assert report.frames == len(times)
    assert report.resumed_at == len(times) // SEGMENT * SEGMENT
    assert parts(target).times == times


@pytest.mark.slow
def test_what_is_damaged_is_made_again(clip: Path, tmp_path: Path) -> None:
    whole = restore(clip, tmp_path / "whole.mp4").target
    target = tmp_path / "out.mp4"
    work = tmp_path / "out.mp4.resharp"
    interrupt(clip, target, 55)
    journal = work / JOURNAL
    journal.write_text(journal.read_text() + '{"index": 5, "first": 50, "ti')  # power cut
    data = bytearray((work / "000003.mp4").read_bytes())
    data[len(data) // 2] ^= 1
    (work / "000003.mp4").write_bytes(data)
    report = restore(clip, target)
    assert report.resumed_at == 30
    assert frames(target) == frames(whole)
    interrupt(clip, tmp_path / "b.mp4", 35)
    (tmp_path / "b.mp4.resharp" / JOURNAL).write_text("nonsense\n")
    assert restore(clip, tmp_path / "b.mp4").resumed_at == 0


@pytest.mark.slow
@pytest.mark.processes
def test_two_at_once_do_not_collide(clip: Path, tmp_path: Path) -> None:
    target, log = tmp_path / "out.mp4", tmp_path / "log"
    with start("-c", LOGGED, str(clip), str(target), str(log), "5") as process:
        until(log.exists, alive=process)
        with pytest.raises(OutputError, match="another process is writing"):
            restore(clip, target)
        process.communicate("\n", LIMIT)
        assert process.returncode == 0
    assert frames(target) == frames(restore(clip, tmp_path / "whole.mp4").target)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_stops_the_command_and_it_goes_on(
    clip: Path, tmp_path: Path, compact: Bundle
) -> None:
    command = ["video", str(clip), "-o", "out.mp4", "--json", "--segment", "10"]
    command += ["-m", str(compact.folder)]
    journal = tmp_path / "out.mp4.resharp" / JOURNAL
    with start("-m", "tests.held", "30", *command, cwd=tmp_path, stderr=None) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told["event"] == "progress" and lines(journal) >= 2:  # a segment is finished
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert json.loads(rest.splitlines()[-1]) == {"event": "stopped"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4.resharp"]
    again = [sys.executable, "-m", "resharp", *command]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["resumed_at"] in (10, 20, 30)
    assert last["frames"] == 120


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_frames(tmp_path: Path) -> None:
    clip = tmp_path / "in.mkv"
    script = textwrap.dedent(
        """
        import json, sys
        from pathlib import Path
        from resharp.video import VideoOptions
        from resharp.video.run import render_video
        from tests.video.kit import Enlarged, Spec, make
        spec = Spec(frames=10_000, size=(32, 24), options={"preset": "ultrafast"})
        source = make(Path(sys.argv[1]), spec)
        seen = []
        class Watched(Enlarged):
            def __call__(self, image, *, progress=None):
                if self.count % 50 == 0:
                    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
                    seen.append((self.count, int(resident) - int(shared)))
                return super().__call__(image, progress=progress)
        render_video(source, sys.argv[2], Watched(2), options=VideoOptions(preset="ultrafast"))
        print(json.dumps(seen))
        """
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("reads the resident memory from /proc")
    done = subprocess.run(
        [sys.executable, "-c", script, str(clip), str(tmp_path / "out.mp4")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = [(n, memory) for n, memory in json.loads(done.stdout) if n]
    second = [memory for n, memory in seen if 2500 <= n < 5000]
    last = [memory for n, memory in seen if n >= 7500]
    assert second
    assert last
    assert max(last) <= 1.05 * max(second)
