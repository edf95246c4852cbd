"""The result has what the input has: frames, times, audio, subtitles, rotation and color."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.errors import OptionError
from resharp.images import read
from resharp.video import VideoOptions, VideoReport
from resharp.video.color import Color, Converter, pixel_format
from resharp.video.run import render_video
from tests.video.kit import (
    VARIABLE,
    Enlarged,
    Spec,
    av,
    draw,
    fill,
    make,
    number_in,
    parts,
    to_yuv,
)

EXACT = {
    "full-range BT.709, variable rate, turned": (
        "mp4",
        Spec(
            full=True,
            pts=VARIABLE,
            primaries=1,
            transfer=1,
            sound=("aac", "aac"),
            subtitles="mov_text",
            chapters=True,
            rotation=90,
            aspect=Fraction(4, 3),
        ),
    ),
    "limited-range BT.601, Matroska": (
        "mkv",
        Spec(
            matrix=6,
            primaries=6,
            transfer=6,
            time_base=Fraction(1, 1000),
            sound=("aac", "flac"),
            subtitles="subrip",
            rotation=180,
            chapters=True,
        ),
    ),
    "10 bits, BT.2020, PQ": (
        "mp4",
        Spec(
            codec="libx265",
            depth=10,
            matrix=9,
            primaries=9,
            transfer=16,
            sound=("aac",),
            options={"crf": "8", "x265-params": "log-level=error"},
        ),
    ),
    "begins late": ("mp4", Spec(pts=tuple(t + 12_345 for t in VARIABLE), sound=("aac",))),
    "NTSC": ("mov", Spec(time_base=Fraction(1001, 24_000), pts=tuple(range(24)))),
}


OLD = "is treated as BT.709"
"""The note about BT.2020 with PyAV 17."""


def restore(source: Path, target: Path, scale: int = 2, **options: Any) -> VideoReport:
    return render_video(source, target, Enlarged(scale), options=VideoOptions(**options))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXACT))
def test_all_is_kept(tmp_path: Path, name: str) -> None:
    ending, spec = EXACT[name]
    source = make(tmp_path / f"in.{ending}", spec)
    report = restore(source, tmp_path / f"out.{ending}", segment=7)
    before, after = parts(source), parts(report.target)
    assert after.numbers == before.numbers == list(range(24))
    assert after.times == before.times
    assert after.packets == before.packets
    assert after.packet_times == before.packet_times
    assert after.kinds == before.kinds
    assert after.languages == before.languages
    assert after.chapters == before.chapters
    assert after.metadata["title"] == "A clip"
    width, height = before.stream.pop("size")
    assert after.stream.pop("size") == (2 * width, 2 * height)
    assert after.stream == before.stream
    unit = 4 if spec.depth == 10 else 1
    for index in (0, 7, 23):
        assert np.abs(after.patches(index) - before.patches(index)).max() <= unit
    assert not [note for note in report.notes if OLD not in note]
    assert not list(tmp_path.glob("*.resharp"))


def test_the_built_in_model_keeps_colors_too(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(frames=6, full=True))
    report = render_video(source, tmp_path / "out.mp4")
    before, after = parts(source), parts(report.target)
    assert after.numbers == list(range(6))
    assert after.stream["size"] == (512, 384)
    assert max(np.abs(after.patches(i) - before.patches(i)).max() for i in range(6)) <= 1
    assert "resharp-x4 with onnx on cpu" in report.description


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_colors_survive_the_way_to_bgr_and_back(matrix: int, full: bool, depth: int) -> None:
    if matrix == 9 and int(av.__version__.partition(".")[0]) < 18:
        pytest.skip("PyAV 17 cannot compute with BT.2020")
    colors = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    image = np.kron(colors, np.ones((32, 32, 1), np.uint8))
    form = pixel_format("yuv420p" if depth == 8 else "yuv420p10le")
    frame = av.VideoFrame(192, 128, form.name)
    planes = to_yuv(image, matrix, full=full, depth=depth)
    fill(frame, planes, depth)
    color, converter = Color(2 if full else 1, matrix), Converter()
    array = converter.to_array(frame, form, color)
    white = 255 if depth == 8 else 65535
    middle = (slice(16, None, 32), slice(16, None, 32))
    assert np.abs(array[middle] / white * 255 - image[middle]).max() < 2.5  # 8 bits, twice rounded
    back = converter.to_frame(array, form, color)
    assert (int(back.colorspace), int(back.color_range)) == (matrix, color.range)
    unit = 1 if depth == 8 else 4
    for plane, values in zip(back.planes, planes, strict=True):
        step = values.shape[0] // 8
        dtype: Any = np.uint8 if depth == 8 else np.uint16
        got = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width]
        at = (slice(step, None, 2 * step), slice(step, None, 2 * step))
        assert np.abs(got[at].astype(int) - values[at]).max() <= unit


@pytest.mark.parametrize(
    ("source", "spec", "target", "codec", "ending", "note"),
    [
        ("in.mp4", Spec(sound=("aac",)), "out.webm", "auto", ".mp4", "audio stream 1 (aac)"),
        ("in.mp4", Spec(sound=("aac",)), "out.webm", "h264", ".mp4", "`codec` av1 fits"),
        ("in.mkv", Spec(subtitles="subrip"), "out.mp4", "h264", ".mkv", "subtitle stream 1"),
        ("in.mp4", Spec(), "out.mov", "ffv1", ".mkv", "ffv1"),
        ("in.mp4", Spec(sound=("aac",)), "out.webm", "av1", ".mp4", "audio stream 1"),
        (
            "in.flv",
            Spec(time_base=Fraction(1, 1000), sound=("aac",)),
            "out.mp4",
            "h264",
            ".mp4",
            "",
        ),
        (
            "in.avi",
            Spec(
                codec="mpeg4",
                time_base=Fraction(1, 24),
                sound=("libmp3lame",),
                options={"qscale": "2"},
            ),
            "out.mkv",
            "h264",
            ".mkv",
            "",
        ),
    ],
)
def test_containers_that_cannot_carry_it_are_replaced(
    tmp_path: Path, source: str, spec: Spec, target: str, codec: str, ending: str, note: str
) -> None:
    clip = make(tmp_path / source, spec)
    report = restore(clip, tmp_path / target, codec=codec)
    assert report.target == (tmp_path / target).with_suffix(ending)
    notes = [said for said in report.notes if "to milliseconds" not in said]
    assert len(notes) == bool(note)
    assert all(note in said for said in notes)
    before, after = parts(clip), parts(report.target)
    assert after.numbers == before.numbers
    assert after.packets == before.packets
    slack = Fraction(1, 1000) if ending == ".mkv" else 0  # Matroska counts milliseconds
    assert all(abs(a - b) <= slack for a, b in zip(after.times, before.times, strict=True))


def test_subtitles_of_mp4_become_text_where_only_matroska_will_do(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(subtitles="mov_text", sound=("aac",)))
    report = restore(source, tmp_path / "out.mkv", codec="ffv1")
    after = parts(report.target)
    assert after.packets[2] == [b"one", b"zwei"]
    assert [float(t) for t in after.packet_times[2]] == [0.0, 0.5]
    assert after.stream["matrix"] == 1
    assert after.stream["range"] == 1


def test_covers_fonts_and_odd_tags_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    plain = make(tmp_path / "plain.mkv", Spec(frames=4, time_base=Fraction(1, 1000)))
    with av.open(str(plain)) as old, av.open(str(source), "w") as new:
        new.metadata["MOOD"] = "grey"
        picture = new.add_stream_from_template(old.streams.video[0], opaque=True)
        new.add_attachment("font.ttf", "application/x-truetype-font", b"glyphs")
        for packet in old.demux():
            if packet.size:
                packet.stream = picture
                new.mux(packet)
    report = restore(source, tmp_path / "out.mkv")
    with av.open(str(report.target)) as made:
        assert [(s.type, s.metadata.get("filename")) for s in made.streams][1] == (
            "attachment",
            "font.ttf",
        )
        assert made.streams[1].data == b"glyphs"
        assert made.metadata["MOOD"] == "grey"
    report = restore(source, tmp_path / "out.mp4")
    assert any("left out" in note and "attachment" in note for note in report.notes)
    with av.open(str(report.target)) as made:
        assert made.metadata["MOOD"] == "grey"


def test_a_constant_rate_repeats_and_drops(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(sound=("aac",)))  # 24 frames per second
    report = restore(source, tmp_path / "up.mp4", fps=Fraction(60), segment=10)
    after = parts(report.target)
    assert after.times == [Fraction(n, 60) for n in range(60)]
    wanted = [max(k for k in range(24) if int(k * 2.5 + 0.5) <= n) for n in range(60)]
    assert after.numbers == wanted
    assert report.repeated == 60 - report.restored
    assert 24 <= report.restored <= 24 + 6  # each of the 6 segments begins with a restored one
    report = restore(source, tmp_path / "down.mp4", fps=Fraction(8))
    after = parts(report.target)
    assert after.times == [Fraction(n, 8) for n in range(8)]
    assert report.restored == 8
    assert after.packets == parts(source).packets


def test_a_part_is_cut_out_with_its_sound(tmp_path: Path) -> None:
    spec = Spec(sound=("flac",), subtitles="mov_text", chapters=True)
    source = make(tmp_path / "in.mp4", spec)
    before = parts(source)
    report = restore(source, tmp_path / "out.mp4", start=Fraction(1, 4), end=Fraction(3, 4))
    after = parts(report.target)
    assert after.numbers == list(range(6, 18))
    assert after.times == [Fraction(n, 24) for n in range(12)]
    inside = [
        (data, time - Fraction(1, 4))
        for data, time in zip(before.packets[1], before.packet_times[1], strict=True)
        if Fraction(1, 4) <= time < Fraction(3, 4)
    ]
    assert after.packets[1] == [data for data, _ in inside]
    assert after.packet_times[1] == pytest.approx([time for _, time in inside], abs=1e-4)
    assert len(after.packets[2]) == 2  # the line that is shown at the cut is kept
    assert [float(t) for t in after.packet_times[2]] == pytest.approx([0, 0.25])
    assert [c[2] for c in after.chapters] == ["1", "2"]
    assert after.chapters[0][:2] == pytest.approx((0, 0.15), abs=1e-3)


def test_duplicates_are_shown_again(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        noise = np.random.default_rng(0)
        for number in range(24):
            image = draw(number // 4).astype(np.int16)
            image += noise.integers(-1, 2, image.shape, np.int16)  # as coding leaves it
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), "bgr24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    report = restore(path, tmp_path / "out.mp4", skip_duplicates=2.0, segment=10)
    assert parts(report.target).numbers == [n // 4 for n in range(24)]
    assert report.restored == 6 + 1  # and the first of the second segment
    assert report.repeated == 17
    report = restore(path, tmp_path / "all.mp4")
    assert (report.restored, report.repeated) == (24, 0)


def test_sequences_of_pictures_go_in_and_out(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(pts=VARIABLE, codec="libx264"))
    report = restore(source, tmp_path / "frames" / "f_%04d.png", segment=7)
    assert report.target == tmp_path / "frames"
    files = sorted((tmp_path / "frames").glob("*.png"))
    assert [f.name for f in files] == [f"f_{n:04d}.png" for n in range(1, 25)]
    assert [number_in(read(f).pixels) for f in files] == list(range(24))
    told = (tmp_path / "frames" / "timecodes.txt").read_text().split("\n")
    assert float(told[3]) == pytest.approx(VARIABLE[2] / 90)
    for target in ("again.mp4", "deep.mkv"):
        pattern = tmp_path / "frames" / "f_%04d.png"
        if target == "deep.mkv":
            pattern = tmp_path / "deep"
            pattern.mkdir()
            for n in range(3):
                image = draw(n).astype(np.uint16) * 257
                assert cv2.imwrite(str(pattern / f"{n}.png"), image)
        report = restore(pattern, tmp_path / target, 1, fps=Fraction(12))
        after = parts(report.target)
        count = 24 if target == "again.mp4" else 3
        assert after.numbers == list(range(count))
        assert after.times == pytest.approx([n / 12 for n in range(count)], abs=1e-3)
    assert after.stream["format"] == "yuv420p10le"


def test_sizes_that_are_odd_are_made_even(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 127, 95, "yuv444p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(draw(number)[:95, :127]), "bgr24"
            )
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    report = restore(path, tmp_path / "out.mkv", 1, codec="av1")
    assert parts(report.target).stream["size"] == (128, 96)
    assert any("padded from 127x95 to 128x96" in note for note in report.notes)
    assert any("lower resolution" in note for note in report.notes)
    report = restore(path, tmp_path / "same.mkv", 1)
    assert parts(report.target).stream["size"] == (127, 95)
    assert parts(report.target).stream["format"] == "yuv444p"


def test_transparency_is_kept_by_ffv1_and_else_said(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        image = np.dstack(
            [draw(3)[:48, :64], np.tile(np.arange(0, 256, 4), (48, 1)).astype(np.uint8)]
        )
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgra")))
        out.mux(stream.encode(None))
    report = restore(path, tmp_path / "out.mkv", codec="ffv1")
    with av.open(str(report.target)) as made:
        frame = next(made.decode(video=0))
        assert frame.format.name == "bgra"
        assert np.array_equal(frame.to_ndarray()[::2, ::2], image)
    report = restore(path, tmp_path / "out.mp4")
    assert any("transparency is left out" in note for note in report.notes)


def test_the_input_is_never_the_output_and_folders_get_its_name(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match="would overwrite"):
        restore(source, source)
    with pytest.raises(OptionError, match="would overwrite"):
        restore(source, tmp_path)
    (tmp_path / "out").mkdir()
    assert restore(source, tmp_path / "out").target == tmp_path / "out" / "in.mp4"
    assert restore(source, tmp_path / "out").skipped


def test_options_are_checked() -> None:
    for options, message in (
        ({"codec": "vp8"}, "must be one of auto"),
        ({"codec": "ffv1", "crf": 3}, "lossless"),
        ({"codec": "h264", "crf": 60}, "between 0 and 51 for h264, got 60"),
        ({"fps": Fraction(0)}, "fps"),
        ({"start": Fraction(3), "end": Fraction(2)}, "`end` after it"),
        ({"segment": 0}, "segment"),
        ({"skip_duplicates": -1.0}, "between 0 and 255"),
    ):
        with pytest.raises(OptionError, match=message):
            VideoOptions(**options)
    assert set(VideoOptions().deciding()) == {
        one.name for one in dataclasses.fields(VideoOptions)
    } - {"end", "encoder_threads", "journal", "max_pixels"}
