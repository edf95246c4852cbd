"""Inputs of the wild, and accidents, that once went wrong."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.images import read, write
from resharp.pipeline.restorer import RestoreConfig
from resharp.runtime.tiling.bands import choose_tiling
from resharp.video import VideoOptions, VideoReport
from resharp.video.clip import _rate
from resharp.video.color import Color, Converter, pixel_format
from resharp.video.run import render_video
from tests.video.kit import LATE, Enlarged, Spec, av, draw, make, number_in, parts


def restore(source: Path, target: Path, overwrite: bool = False, **options: Any) -> VideoReport:
    config: Any = Enlarged(2)
    given = VideoOptions(**options)
    return render_video(source, target, config, options=given, overwrite=overwrite)


def _pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        write(folder / name, draw(number))
    return folder


def test_frames_never_overwrite_the_pictures_they_are_made_of(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "in", ["0.png", "1.png", "2.png"])
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    for source in (folder, folder / "%d.png"):
        with pytest.raises(OptionError, match="would overwrite"):
            restore(source, folder / "%d.png", overwrite=True)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before
    assert restore(folder, folder / "big_%d.png").frames == 3


def test_a_folder_that_exists_is_not_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=4))
    out = tmp_path / "out"
    out.mkdir()
    (out / "other.png").write_bytes(b"not ours")
    assert restore(clip, out / "%06d.png").frames == 4
    assert restore(clip, out / "%06d.png").skipped
    assert (out / "other.png").exists()
    monkeypatch.chdir(tmp_path)
    assert restore(clip, Path("%03d.png")).frames == 4
    assert Path("004.png").exists()


@pytest.mark.processes
def test_frames_of_an_interrupted_sequence_are_looked_at(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=30))
    target = tmp_path / "out" / "%03d.png"

    class StopError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        if done >= 12:
            raise StopError

    held: Any = Enlarged(2, hold=12 + LATE)
    with pytest.raises(StopError):
        render_video(clip, target, held, options=VideoOptions(segment=5), progress=stop)
    (tmp_path / "out" / "003.png").unlink()
    (tmp_path / "out" / "008.png").write_bytes(b"x")
    report = restore(clip, target, segment=5)
    assert report.resumed_at == 0
    found = [number_in(read(tmp_path / "out" / f"{n:03d}.png").pixels) for n in range(1, 31)]
    assert found == list(range(30))


def test_a_shorter_sequence_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=24))
    target = tmp_path / "out" / "%03d.png"
    restore(clip, target)
    report = restore(clip, target, overwrite=True, end=Fraction(1, 2))
    assert len(list((tmp_path / "out").glob("*.png"))) == report.frames == 12
    assert len((tmp_path / "out" / "timecodes.txt").read_text().splitlines()) == 13


def test_numbers_that_are_missing_are_said(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "in", ["f10.png", "f11.png", "f14.png"])
    report = restore(folder / "f%d.png", tmp_path / "out.mp4")
    assert report.frames == 3
    assert any("2 numbers from 10 to 14 have no image" in note for note in report.notes)


@pytest.mark.parametrize("start", [3, 0])
def test_a_file_that_begins_late_is_not_cut_off(tmp_path: Path, start: int) -> None:
    times = tuple(start * 1000 + round(n * 1000 / 24) for n in range(24))
    spec = Spec(time_base=Fraction(1, 1000), pts=times, sound=("aac",))
    clip = make(tmp_path / "in.mkv", spec)
    report = restore(clip, tmp_path / "out.mkv")
    assert parts(report.target).times == parts(clip).times


def test_slow_pictures_with_longer_sound_are_not_cut_off(tmp_path: Path) -> None:
    spec = Spec(frames=3, time_base=Fraction(1, 1000), pts=(0, 300, 600), sound=("aac",))
    for name in ("in.mkv", "in.flv"):
        clip = make(tmp_path / name, spec)
        assert restore(clip, tmp_path / f"{name}.mkv").frames == 3


@pytest.mark.processes
def test_matroska_tells_its_rate(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=48))
    report = restore(clip, tmp_path / "out.mkv")
    with av.open(str(report.target)) as made:
        assert made.streams.video[0].average_rate == 24
    totals, told = list[int](), threading.Event()
    config: Any = Enlarged(2, hold=10, release=told)

    def count(done: float, total: float) -> None:
        totals.append(round(total))
        told.set()

    render_video(report.target, tmp_path / "two.mkv", config, progress=count)
    assert set(totals) == {48}


def test_a_timecode_track_is_no_obstacle(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain.mov", Spec(frames=8))
    clip = tmp_path / "in.mov"
    with av.open(str(plain)) as old, av.open(str(clip), "w") as new:
        new.metadata["timecode"] = "01:00:00:00"
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        stream.codec_context.framerate = Fraction(24)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    for name in ("out.mov", "out.mp4", "out.mkv"):
        report = restore(clip, tmp_path / name)
        assert report.target == tmp_path / name
        assert parts(report.target).numbers == list(range(8))


def test_sound_that_a_container_refuses_late_is_seen_early(tmp_path: Path) -> None:
    clip = make(
        tmp_path / "in.mkv", Spec(frames=8, time_base=Fraction(1, 1000), sound=("pcm_s16le",))
    )
    report = restore(clip, tmp_path / "out.mp4")
    assert parts(report.target).packets == parts(clip).packets


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le"])
def test_full_range_has_no_bias(name: str) -> None:
    form, color = pixel_format(name), Color(2, 1)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.kron(image, np.ones((16, 16, 1), np.uint8))
    frame = Converter().to_frame(image, form, color)
    back = Converter().to_array(frame, form, color)
    white = 255 if form.depth == 8 else 65535
    error = (back[8::16, 8::16] / white - image[8::16, 8::16] / 255) * 255
    assert np.abs(error).max() < (2 if form.depth == 8 else 0.6)
    assert abs(error.mean()) < 0.15


def test_gray_of_limited_range_is_not_darkened() -> None:
    frame = av.VideoFrame(32, 32, "gray")
    np.frombuffer(memoryview(frame.planes[0]), np.uint8)[:] = 235
    form, color = pixel_format("gray"), Color(1, 6)
    array = Converter().to_array(frame, form, color)
    assert array.min() == array.max() == 255
    out = Converter().to_frame(array, pixel_format("yuv420p"), color)
    assert np.frombuffer(memoryview(out.planes[0]), np.uint8)[0] == 235


@pytest.mark.parametrize("codec", ["auto", "hevc", "av1"])
def test_transparent_and_deep_is_left_out_with_a_note(tmp_path: Path, codec: str) -> None:
    clip = tmp_path / "in.mkv"
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva444p10le"
        pixels = np.dstack([draw(1)[:48, :64], np.full((48, 64), 200, np.uint8)])
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "bgra")
        out.mux(stream.encode(image.reformat(format="yuva444p10le")))
        out.mux(stream.encode(None))
    report = restore(clip, tmp_path / "out.mkv", codec=codec)
    assert any("transparency is left out" in note for note in report.notes)
    assert "10" in parts(report.target).stream["format"]


def test_damaged_sound_costs_its_packet_and_no_more(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.ts", Spec(frames=48, sound=("aac",)))
    with av.open(str(clip)) as container:
        places = [p.pos for p in container.demux(audio=0) if p.size and p.pos]
    data = bytearray(clip.read_bytes())
    data[places[20] : places[20] + 376] = bytes(376)
    clip.write_bytes(data)
    report = restore(clip, tmp_path / "out.mp4")
    assert report.frames >= 40
    assert len(parts(report.target).packets[1]) >= 50


def test_avi_with_reordered_frames_keeps_its_times(tmp_path: Path) -> None:
    spec = Spec(time_base=Fraction(1, 24), pts=tuple(range(24)), options={"crf": "8", "bf": "2"})
    clip = make(tmp_path / "in.avi", spec)
    after = parts(restore(clip, tmp_path / "out.mp4", segment=5).target)
    assert after.numbers == list(range(24))
    steps = {b - a for a, b in zip(after.times, after.times[1:], strict=False)}
    assert steps == {Fraction(1, 24)}


def test_a_variable_rate_lasts_as_long_as_it_is_shown(tmp_path: Path) -> None:
    times = (0, 3000, 9000, 20000, 26000)
    clip = make(tmp_path / "in.mp4", Spec(frames=5, pts=times))
    for codec in ("h264", "hevc"):
        report = restore(clip, tmp_path / f"{codec}.mp4", codec=codec)
        with av.open(str(report.target)) as made:
            assert 26_000 < made.streams.video[0].duration <= 33_000


def test_what_a_run_left_that_was_ended_in_its_last_moment_goes(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=4))
    target = restore(clip, tmp_path / "out.mp4").target
    work = tmp_path / "out.mp4.resharp"
    work.mkdir()
    (work / "journal.jsonl").write_text("{}\n")
    (work / "000000.mp4").write_bytes(b"a segment")
    os.utime(work / "journal.jsonl", (1, 1))
    assert restore(clip, target).skipped
    assert not work.exists()


def test_an_encoder_that_does_not_fit_is_said(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match="prores_ks cannot write MP4"):
        restore(clip, tmp_path / "out.mov", encoder="prores_ks")
    with pytest.raises(OptionError, match="leave out `crf`"):
        restore(clip, tmp_path / "out.mp4", encoder="mpeg4", crf=3)
    with pytest.raises(OptionError, match="`crf` must be between 0 and 51"):
        restore(clip, tmp_path / "out.mp4", crf=99)


@pytest.mark.parametrize(
    ("average", "guessed", "taken"),
    [
        (1000, 24, 24),
        (30_000, 24, 24),
        (24, 24, 24),
        (12, 24, 12),
        (None, 25, 25),
        (None, None, 25),
    ],
)
def test_a_rate_that_only_counts_ticks_is_not_believed(
    average: int | None, guessed: int | None, taken: int
) -> None:
    assert _rate(SimpleNamespace(average_rate=average, guessed_rate=guessed)) == taken


def test_all_frames_are_cut_into_tiles_of_one_size(
    tmp_path: Path, compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def noted(backend: Any, tile: int | None, share: float) -> Any:
        asked.append(tile)
        return choose_tiling(backend, tile, share)

    monkeypatch.setattr("resharp.runtime.upscaler.choose_tiling", noted)
    clip = make(tmp_path / "in.mp4", Spec(frames=6))
    config = RestoreConfig(model=str(compact.folder), device="cpu")
    render_video(clip, tmp_path / "out.mp4", config)
    assert asked[0] is None  # once: what memory allows
    assert len(asked) > 6
    assert len({tile for tile in asked if tile is not None}) == 1
    assert all(tile is not None for tile in asked[-6:])
