"""Videos that cannot be restored, or not to their end: what is reported, and what is kept."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.errors import OptionError, OutputError, ResharpError, VideoError
from resharp.images import write
from resharp.pipeline.restorer import RestoreConfig
from resharp.video import VideoOptions, VideoReport
from resharp.video.resume import JOURNAL
from resharp.video.run import render_video
from tests.video.kit import Enlarged, Spec, av, draw, make, parts
from tests.waiting import until

ROOT = Path(__file__).parents[2]


def restore(clip: Path, target: Path, **options: Any) -> VideoReport:
    given = VideoOptions(**{"segment": 10, **options})
    return render_video(clip, target, Enlarged(2), options=given)  # type: ignore[arg-type]


def _text(path: Path) -> None:
    path.write_text("no video at all")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _without_index(path: Path) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[:2000])


def _no_frames(path: Path) -> None:
    """A file with a video stream and nothing in it."""
    clip = make(path.with_name("whole.mp4"), Spec(frames=3, sound=("aac",)))
    with av.open(str(clip)) as old, av.open(str(path), "w", format="matroska") as new:
        streams = [new.add_stream_from_template(s, opaque=True) for s in old.streams]
        for packet in old.demux():
            if packet.size and packet.stream.type == "audio":
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    clip.unlink()


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48_000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))


def _absent(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_absent, "there is no file"),
        (_text, "cannot be read as a video"),
        (_empty, "is empty"),
        (_without_index, "its index is missing"),
        (_no_frames, "no frame of it can be decoded"),
        (_sound_only, "no video stream, only audio"),
    ],
)
def test_what_is_no_video_is_said_at_once(
    tmp_path: Path, wrong: Callable[[Path], None], message: str
) -> None:
    wrong(tmp_path / "in.mp4")
    with pytest.raises(VideoError, match=message):
        restore(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert not [p for p in tmp_path.iterdir() if p.name != "in.mp4"]


def _cut(path: Path, share: float, spec: Spec, **options: str) -> None:
    """A clip whose file ends early."""
    whole = make(path.with_name(f"whole{path.suffix}"), spec)
    if options:
        with av.open(str(whole)) as old, av.open(str(path), "w", options=options) as new:
            streams = [new.add_stream_from_template(s, opaque=True) for s in old.streams]
            for packet in old.demux():
                if packet.size:
                    packet.stream = streams[packet.stream.index]
                    new.mux(packet)
        whole = path
    data = whole.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_truncated_file_keeps_its_beginning(tmp_path: Path, ending: str) -> None:
    clip, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    spec = Spec(frames=72, time_base=Fraction(1, 1000), sound=("aac",))
    _cut(clip, 0.6, spec, **({"movflags": "faststart"} if ending == "mp4" else {}))
    with pytest.raises(VideoError, match=r"ends early, after .* of [23]") as caught:
        restore(clip, target)
    assert not target.exists()
    end = str(caught.value).split("`end`=")[1].split(" ")[0]
    with pytest.raises(VideoError):  # nothing is restored again, and it is still an error
        restore(clip, target)
    report = restore(clip, target, end=Fraction(end))
    assert report.resumed_at >= 30
    assert report.restored <= 10
    after = parts(target)
    assert after.numbers[:30] == list(range(30))  # the last one may refer to what is lost
    assert after.numbers == sorted(set(after.numbers))
    assert 30 <= report.frames < 72


def test_a_damaged_packet_loses_its_frames_and_no_more(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=48, options={"crf": "10", "g": "8", "bf": "0"}))
    with av.open(str(clip)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(clip.read_bytes())
    begin, size = places[20]
    data[begin : begin + size] = bytes(size)
    clip.write_bytes(data)
    report = restore(clip, tmp_path / "out.mp4")
    after = parts(report.target)
    before = {time: number for number, time in enumerate(Fraction(n, 24) for n in range(48))}
    assert 40 <= len(after.numbers) <= 48
    assert set(after.times) <= set(before)
    assert after.times[-1] == Fraction(47, 24)
    assert any("damaged packets" in note for note in report.notes)


def test_a_size_that_changes_is_an_error_with_a_way_on(tmp_path: Path) -> None:
    clip = tmp_path / "in.h264"  # without timestamps, too
    for name, size in (("a.h264", (128, 96)), ("b.h264", (160, 120))):
        make(tmp_path / name, Spec(size=size))
    clip.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    target = tmp_path / "out.mkv"
    with pytest.raises(VideoError, match="changes from 128x96 to 160x120 after") as caught:
        restore(clip, target)
    end = str(caught.value).split("`start`=")[1].split(" ")[0]
    report = restore(clip, target, end=Fraction(end))
    assert report.frames == 24
    assert report.resumed_at == 20
    assert parts(target).numbers == list(range(24))


def test_a_picture_of_another_size_ends_a_sequence(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(12):
        write(tmp_path / "frames" / f"{number:02d}.png", draw(number))
    write(tmp_path / "frames" / "07.png", draw(7)[:48])
    with pytest.raises(VideoError, match=r"07\.png is 128x48"):
        restore(tmp_path / "frames", tmp_path / "out.mp4")


def test_an_encoder_that_is_not_in_the_build(tmp_path: Path, monkeypatch: Any) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match="no encoder h265_magic: use `codec` h264 or hevc"):
        restore(clip, tmp_path / "out.mp4", encoder="h265_magic")
    from resharp.video import encoding

    known = encoding._is_encoder
    monkeypatch.setattr(encoding, "_is_encoder", lambda name: name != "libsvtav1" and known(name))
    with pytest.raises(OptionError, match="no encoder libsvtav1: use `codec` h264 or hevc"):
        restore(clip, tmp_path / "out.mp4", codec="av1")
    with pytest.raises(OptionError, match="cannot be opened"):
        restore(clip, tmp_path / "out.mp4", preset="swift")
    assert not list(tmp_path.glob("out*"))


FULL = """
import resource, sys
from fractions import Fraction
from resharp.errors import OutputError
from resharp.video import VideoOptions
from resharp.video.run import render_video
from tests.video.kit import Enlarged
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    options = VideoOptions(segment=int(sys.argv[4]), crf=1)
    render_video(sys.argv[1], sys.argv[2], Enlarged(2), options=options)
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("where", ["segment", "result"])
def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, where: str) -> None:
    """A limit on the file size simulates it: the same errors, by the same calls."""
    clip, target = make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    segment = 24 if where == "segment" else 6
    whole = restore(clip, tmp_path / "whole.mp4", segment=segment, crf=1).target
    limit = str(round(whole.stat().st_size * 0.6))
    command = [sys.executable, "-c", FULL, str(clip), str(target), limit, str(segment)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = "cannot write a segment to" if where == "segment" else f"cannot write {target}"
    assert wanted in done.stdout
    assert "free space" in done.stdout
    assert not target.exists()
    assert not list(tmp_path.glob("**/*.part"))
    report = restore(clip, target, segment=segment, crf=1)
    assert report.resumed_at == (0 if where == "segment" else 24)
    assert target.read_bytes() == whole.read_bytes()


def test_a_journal_that_cannot_be_written_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clip = make(tmp_path / "in.mp4")
    monkeypatch.setattr("resharp.video.resume.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        restore(clip, tmp_path / "out.mp4")


@pytest.mark.processes
def test_what_stops_a_run_is_what_is_reported(tmp_path: Path) -> None:
    clip, target = make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    journal = tmp_path / "out.mp4.resharp" / JOURNAL

    class Broken(Enlarged):
        def __call__(self, image: Any, *, progress: Any = None) -> Any:
            if self.count >= 15:
                until(lambda: '"index": 0' in journal.read_text())
                raise ResharpError("the network is gone")
            return super().__call__(image, progress=progress)

    with pytest.raises(ResharpError, match="the network is gone"):
        render_video(clip, target, Broken(2), options=VideoOptions(segment=5))  # type: ignore[arg-type]
    assert restore(clip, target, segment=5).resumed_at >= 5
    with pytest.raises(OptionError, match="leave out `aligned`"):
        render_video(clip, target, RestoreConfig(face="codeformer", aligned=True))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ResharpError, match=r"pip install 'resharp\[video\]'"):
        render_video(tmp_path / "in.mp4", tmp_path / "out.mp4")
