"""Clips whose headers lie: a message that names the file, no trace, and nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from resharp.errors import OptionError, OutputError, VideoError
from resharp.video import VideoOptions, VideoReport, render, restore_video
from resharp.video.resume import JOURNAL
from resharp.video.run import render_video
from resharp.video.sequence import probe_any
from tests.fuzz.layouts import png_mend
from tests.video.kit import Enlarged, Spec, av, draw, make

pillow: Any = pytest.importorskip("PIL.Image", reason="needs Pillow")


def restore(clip: Path, target: Path, **options: Any) -> VideoReport:
    return render_video(clip, target, Enlarged(2), options=VideoOptions(**options))  # type: ignore[arg-type]


def apng(frames: int = 6) -> bytes:
    out = io.BytesIO()
    images = [pillow.fromarray(draw(number, 64, 48)) for number in range(frames)]
    images[0].save(out, "PNG", save_all=True, append_images=images[1:], duration=100)
    return out.getvalue()


def test_a_missing_decoder_names_the_file(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match=r"in\.mp4: this build of FFmpeg has no decoder for video"):
        restore(clip, tmp_path / "out.mp4")


def test_a_translation_that_no_result_can_hold_is_left_out_with_a_note(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=3, rotation=90))
    data = bytearray(clip.read_bytes())
    struct.pack_into(">I", data, data.index(b"tkhd") + 68, 0x7000_0000)
    clip.write_bytes(data)
    report = restore(clip, tmp_path / "out.mp4")
    assert "the translation of the display matrix is left out: it is too large" in report.notes
    with av.open(str(report.target)) as made:
        assert next(made.decode(video=0)).rotation == 90


def test_more_pixels_than_can_be_read_are_an_error(tmp_path: Path) -> None:
    clip, data = tmp_path / "in.png", bytearray(apng())
    struct.pack_into(">II", data, 16, 1 << 16, 1 << 16)
    clip.write_bytes(png_mend(bytes(data)))
    with pytest.raises(VideoError, match=r"in\.png is a damaged PNG file: .* 65536 x 65536"):
        restore(clip, tmp_path / "out.gif")


def test_times_that_cannot_be_written_are_an_error_before_the_work(tmp_path: Path) -> None:
    clip = make(
        tmp_path / "in.avi",
        Spec(pts=(0, 1, 2), time_base=Fraction(1, 24), codec="mpeg4", options={}),
    )
    data = bytearray(clip.read_bytes())
    struct.pack_into("<II", data, data.index(b"strh") + 28, 858_993_459, 2)  # scale and rate
    clip.write_bytes(data)
    with pytest.raises(VideoError, match=r"in\.avi: .* frames per second .* cannot be written"):
        restore(clip, tmp_path / "out.mkv", codec="ffv1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.avi"]


def test_frames_before_the_damage_are_kept_though_the_decoder_holds_them(tmp_path: Path) -> None:
    data = bytearray(apng())
    chunks = [at for at in range(len(data)) if data[at : at + 4] == b"fcTL"]
    struct.pack_into(">I", data, chunks[4] - 4, 0x9000_0000)
    clip = tmp_path / "in.png"
    clip.write_bytes(data)
    with pytest.raises(VideoError, match=r"ends early, after 0\.400 seconds"):
        restore(clip, tmp_path / "out.mkv", codec="ffv1", segment=2)
    lines = (tmp_path / "out.mkv.resharp" / JOURNAL).read_text().splitlines()
    assert len(lines) == 3, "the header and two segments"
    report = restore(clip, tmp_path / "out.mkv", codec="ffv1", segment=2, end=0.4)
    assert (report.frames, report.resumed_at) == (4, 4)


def test_a_run_that_has_finished_nothing_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Enlarged):
        def __call__(self, image: Any, *, progress: Any = None) -> Any:
            raise VideoError("the network is gone")

    clip, config = make(tmp_path / "in.mp4", Spec(frames=3)), Broken(2)
    with pytest.raises(VideoError, match="the network is gone"):
        render_video(clip, tmp_path / "new" / "out.mp4", config)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"fps": Fraction("1e-320")}, r"`fps` must be in \(0, 1000\], got 0"),
        ({"start": Fraction(10**308)}, "`start` and `end` must be at most 1000000000 seconds"),
        ({"end": 1e300}, "`start` and `end` must be at most 1000000000 seconds"),
        (
            {"encoder_threads": 10**30},
            "`encoder_threads` must be an integer between 1 and 1024, got",
        ),
        ({"preset": "\udcff"}, r"`preset` must be at most 80 printable characters, got '\\udcff'"),
        (
            {"encoder": "\x1b[31m"},
            r"`encoder` must be at most 80 printable characters, got '\\x1b\[31m'",
        ),
        (
            {"pixel_format": "a\nb"},
            r"`pixel_format` must be at most 80 printable characters, got 'a\\nb'",
        ),
    ],
)
def test_values_that_ffmpeg_cannot_take_are_errors(
    option: dict[str, Any], message: str, tmp_path: Path
) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=1))
    with pytest.raises(OptionError, match=message):
        restore_video(clip, tmp_path / "out.mp4", **option)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN])
def test_a_decoder_without_memory_or_threads_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Lacking:
        def decode(self, packet: object) -> None:
            raise av.error.FFmpegError(number, os.strerror(number))

    clip = make(tmp_path / "in.mkv", Spec(frames=3))
    monkeypatch.setattr("resharp.video.source.open_decoder", lambda *arguments: Lacking())
    with pytest.raises(VideoError, match=r"in\.mkv cannot be decoded here: .*Free some memory"):
        restore(clip, tmp_path / "out.mkv")


def test_results_that_are_too_wide_for_a_video_are_an_error_before_the_work(tmp_path: Path) -> None:
    frames = [pillow.new("P", (40_000, 2), index) for index in range(2)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    match = r"in\.gif: videos hold at most 65535 pixels per side, but the result would be 80000 x 4"
    with pytest.raises(OutputError, match=match):
        restore(tmp_path / "in.gif", tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv.resharp").exists()


def test_frames_of_a_small_file_have_a_small_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "available_memory", lambda: 64 << 30)
    clip = tmp_path / "in.apng"
    clip.write_bytes(apng())
    found = probe_any(clip, VideoOptions())
    assert render.budget(found) == 1 << 30
    with clip.open("ab") as stream:
        stream.truncate(100 << 20)
    assert render.budget(found) == 16 << 30
