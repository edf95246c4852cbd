"""Endings, containers, pixel formats and time codes: what is asked for, or a sentence."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.errors import OptionError
from resharp.video import VideoOptions, VideoReport
from resharp.video.clip import probe
from resharp.video.color import Color, Converter, pixel_format
from resharp.video.muxing import _Expected, _missing
from resharp.video.run import render_video
from resharp.video.timestamps import CutShift
from tests.shared import CASES, needs_cases
from tests.video.kit import VARIABLE, Enlarged, Image, Spec, av, draw, make, parts

pillow = pytest.importorskip("PIL.Image", reason="needs Pillow (pip install pillow)")


def restore(source: Path, target: Path, **options: Any) -> VideoReport:
    config: Any = Enlarged(2)
    return render_video(source, target, config, options=VideoOptions(**options))


def _first(path: Path) -> Any:
    with av.open(str(path)) as made:
        return next(made.decode(video=0))


@pytest.mark.parametrize("depth", [8, 10])
def test_webm_gets_a_codec_that_it_holds(tmp_path: Path, depth: int) -> None:
    codec = "libx264" if depth == 8 else "libx265"
    options = (
        {"crf": "8"} if depth == 8 else {"crf": "8", "x265-params": "log-level=error:bframes=0"}
    )
    spec = Spec(frames=6, codec=codec, depth=depth, sound=("libopus",), options=options)
    report = restore(make(tmp_path / "in.mkv", spec), tmp_path / "out.webm")
    assert report.target.name == "out.webm"
    with av.open(str(report.target)) as made:
        assert "av1" in made.streams.video[0].codec_context.codec.canonical_name
        assert made.streams.audio[0].codec_context.name == "opus"
    assert not [note for note in report.notes if "instead" in note]
    assert restore(tmp_path / "in.mkv", tmp_path / "out.webm").skipped


def test_webm_that_cannot_hold_the_sound_becomes_what_it_would_have_been(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(frames=4, sound=("aac",)))
    report = restore(source, tmp_path / "out.webm")
    assert report.notes == (".webm cannot hold audio stream 1 (aac): writing out.mp4 instead",)
    with av.open(str(report.target)) as made:
        assert made.streams.video[0].codec_context.name == "h264"
    with pytest.raises(OptionError, match="`crf` must be between 0 and 51 for h264"):
        restore(source, tmp_path / "other.webm", crf=60)


@pytest.mark.parametrize(
    "name", ["x.png", "f%.png", "x.avi", "x.FLV", "x.heic", "x.jxl", "x.2024", "a.b.wmv", "x.mp4 "]
)
def test_an_ending_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / "in.mp4", Spec(frames=2))
    with pytest.raises(OptionError, match=r"must be one of .*\.mkv, \.mov, \.mp4") as caught:
        restore(source, tmp_path / "out" / name)
    assert name in str(caught.value)
    assert ("%06d.png" in str(caught.value)) == name.endswith(".png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def _gif(path: Path, *, transparent: bool) -> Path:
    images = []
    for number in range(3):
        image = np.dstack([draw(number)[:, :, ::-1], np.full((96, 128), 255, np.uint8)])
        if transparent:
            image[40:60, 40:60, 3] = 0
        images.append(pillow.fromarray(np.ascontiguousarray(image)))
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=[100, 200, 2000], disposal=2
    )
    return path


@pytest.mark.parametrize("transparent", [False, True])
def test_gif_becomes_video_that_plays_everywhere(tmp_path: Path, transparent: bool) -> None:
    source = _gif(tmp_path / "in.gif", transparent=transparent)
    with av.open(str(source)) as container:
        lows = [frame.to_ndarray(format="rgba")[:, :, 3].min() for frame in container.decode()]
    assert (min(lows) == 0) == transparent
    for codec in ("h264", "hevc", "av1"):
        report = restore(source, tmp_path / f"{codec}.mp4", codec=codec)
        frame = _first(report.target)
        assert frame.format.name == "yuv420p"
        assert (int(frame.color_range), int(frame.colorspace)) == (1, 1)
        assert parts(report.target).numbers == [0, 1, 2]
        assert sum("transparency is left out" in note for note in report.notes) == transparent
        assert len(report.notes) == transparent
    report = restore(source, tmp_path / "lossless.mkv", codec="ffv1")
    assert _first(report.target).format.name in ("bgra", "bgr0", "gbrp", "gbrap")
    assert not [note for note in report.notes if "transparency" in note]


@pytest.mark.parametrize("pixels", ["bgra", "yuva420p", "yuva444p10le", "gbrap12le"])
@pytest.mark.parametrize("lowest", [255, 254])
def test_only_frames_that_are_transparent_lose_it(tmp_path: Path, pixels: str, lowest: int) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        for number in range(4):
            alpha = np.full((96, 128), 255, np.uint8)
            alpha[50, 60] = lowest if number == 2 else 255
            image = np.ascontiguousarray(np.dstack([draw(number), alpha]))
            frame = av.VideoFrame.from_ndarray(image, "bgra")
            out.mux(stream.encode(frame.reformat(format=pixels)))
        out.mux(stream.encode(None))
    report = restore(source, tmp_path / "out.mp4")
    lost = [note for note in report.notes if "transparency" in note]
    assert len(lost) == (lowest < 255 and pixels != "yuva420p")  # libswscale made 255 of it there


def _gray(path: Path, pixels: str) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.codec_context.color_range = 2
        frame = av.VideoFrame.from_ndarray(draw(3), "bgr24").reformat(format=pixels)
        frame.color_range = 2
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("pixels", "made"), [("gray", "yuv420p"), ("gray16le", "yuv420p10le")])
def test_gray_of_full_range_becomes_video_that_plays_everywhere(
    tmp_path: Path, pixels: str, made: str
) -> None:
    source = _gray(tmp_path / "in.mkv", pixels)
    frame = _first(restore(source, tmp_path / "out.mp4").target)
    assert frame.format.name == made
    assert (int(frame.color_range), int(frame.colorspace)) == (1, 1)
    deep = made == "yuv420p10le"
    plane = frame.planes[0]
    dtype: Any = np.uint16 if deep else np.uint8
    after = np.frombuffer(memoryview(plane), dtype)
    luma = after.reshape(plane.height, -1)[::2, : plane.width : 2] / (4 if deep else 1)
    gray = _first(source).to_ndarray(format=pixels) / (257 if deep else 1)
    assert np.abs(np.median(luma - (gray * 219 / 255 + 16))) < 1


def test_the_pixel_format_can_be_chosen(tmp_path: Path) -> None:
    source = _gif(tmp_path / "in.gif", transparent=False)
    report = restore(source, tmp_path / "444.mp4", pixel_format="yuv444p")
    assert _first(report.target).format.name == "yuv444p"
    assert not report.notes
    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    report = restore(clip, tmp_path / "gray.mkv", pixel_format="gray")
    assert any("color is left out" in note for note in report.notes)
    with pytest.raises(OptionError, match="must be one of libx264's") as caught:
        restore(clip, tmp_path / "no.mp4", pixel_format="rgb565")
    assert "yuv422p" in str(caught.value)
    assert not (tmp_path / "no.mp4").exists()
    with pytest.raises(OptionError, match="must be one of libsvtav1's"):
        restore(clip, tmp_path / "no.webm", pixel_format="yuv444p")
    deep = make(
        tmp_path / "deep.mp4",
        Spec(
            frames=6,
            codec="libx265",
            depth=10,
            options={"x265-params": "log-level=error:bframes=0"},
        ),
    )
    report = restore(deep, tmp_path / "8.mp4", pixel_format="yuv420p")
    assert "colors are rounded to 8 bits, as `pixel_format` asks" in report.notes


@pytest.mark.parametrize("name", ["yuva420p", "yuva444p10le", "yuva422p12le", "yuva444p16le"])
def test_alpha_of_video_is_converted_exactly(name: str) -> None:
    form, converter = pixel_format(name), Converter()
    frame, color, top = av.VideoFrame(64, 2, name), Color(1, 1), (1 << form.depth) - 1
    dtype: Any = np.uint8 if form.depth == 8 else np.uint16

    def alpha(one: Any) -> Image:
        plane = one.planes[3]
        return np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, :64]

    for plane in frame.planes:
        np.frombuffer(memoryview(plane), dtype)[:] = top // 2
    alpha(frame)[:] = np.linspace(0, top, 64).astype(dtype)
    image = converter.to_array(frame, form, color)
    white = np.iinfo(image.dtype).max
    assert np.abs(image[0, :, 3] / white - alpha(frame)[0] / top).max() <= 0.5 / white
    assert np.array_equal(alpha(converter.to_frame(image, form, color)), alpha(frame))


def _with_time_code(path: Path, code: str, rate: Fraction = Fraction(25)) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.width, stream.height = 64, 48
        stream.metadata["timecode"] = code
        for number in range(10):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _time_codes(path: Path) -> set[str]:
    with av.open(str(path)) as made:
        tags = [stream.metadata for stream in made.streams]
    return {value for one in tags for name, value in one.items() if name.lower() == "timecode"}


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.mkv"])
def test_a_time_code_is_kept_without_a_note(tmp_path: Path, name: str) -> None:
    source = _with_time_code(tmp_path / "in.mov", "10:20:30:05")
    report = restore(source, tmp_path / name)
    assert not [note for note in report.notes if "to milliseconds" not in note]
    assert _time_codes(report.target) == {"10:20:30:05"}
    with av.open(str(report.target)) as made:
        kinds = [stream.type for stream in made.streams]
    assert kinds == (["video"] if name.endswith("mkv") else ["video", "data"])
    report = restore(source, tmp_path / f"cut_{name}", start=Fraction(1, 5))
    assert _time_codes(report.target) == {"10:20:30:10"}
    report = restore(source, tmp_path / f"fast_{name}", fps=Fraction(50))
    assert _time_codes(report.target) == {"10:20:30:10"}


NTSC = Fraction(30_000, 1001)


@pytest.mark.parametrize(
    ("code", "rate", "frames", "wanted"),
    [
        ("00:00:59;29", NTSC, 1, "00:01:00;02"),
        ("00:09:59;29", NTSC, 1, "00:10:00;00"),
        ("00:00:00;00", NTSC, 1800, "00:01:00;02"),
        ("00:00:00;00", NTSC, 17_982, "00:10:00;00"),
        ("01:02:03;04", NTSC, 107_892, "02:02:03;04"),
        ("00:00:59:29", NTSC, 1, "00:01:00:00"),
        ("23:59:59:24", Fraction(25), 1, "00:00:00:00"),
        ("00:00:59;59", 2 * NTSC, 1, "00:01:00;04"),
        ("not a time code", Fraction(25), 1, "not a time code"),
    ],
)
def test_time_codes_move_with_the_start(
    tmp_path: Path, code: str, rate: Fraction, frames: int, wanted: str
) -> None:
    clip = probe(make(tmp_path / "in.mp4", Spec(frames=1)))
    assert CutShift(clip, frames / rate, None).time_code(code, rate, rate) == wanted
    assert CutShift(clip, None, None).time_code(code, rate, rate) == code


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_data_that_a_container_cannot_hold_is_named(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "in.ts"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        data = out.add_data_stream("klv")
        for number in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        packet = av.Packet(b"\x06\x0e\x2b\x34" + bytes(16))
        packet.stream, packet.time_base = data, Fraction(1, 90_000)
        packet.pts = packet.dts = 0
        out.mux(packet)
        out.mux(stream.encode(None))
    report = restore(source, tmp_path / f"out.{ending}")
    notes = [note for note in report.notes if "to milliseconds" not in note]
    assert notes == [f"data stream 1 (klv) is left out: .{ending} cannot hold it"]


@pytest.mark.parametrize(("tag", "kept"), [(b"gpmd", True), (b"djmd", False)])
def test_data_of_cameras_is_copied_or_named(tmp_path: Path, tag: bytes, kept: bool) -> None:
    """A subtitle track is made into the data track of a camera, of GoPro or another."""
    data = make(tmp_path / "plain.mp4", Spec(frames=4, subtitles="mov_text")).read_bytes()
    source = tmp_path / "in.mp4"
    source.write_bytes(data.replace(b"tx3g", tag).replace(b"sbtl", b"meta"))
    before = parts(source)
    assert before.kinds == ["video", "data"]
    report = restore(source, tmp_path / "out.mp4")
    after = parts(report.target)
    if kept:
        assert report.notes == ()
        assert after.packets == before.packets
        assert after.packets[1]
    else:
        assert report.notes == ("data stream 1 (SubtitleHandler) is left out: .mp4 cannot hold it",)
        assert after.kinds == ["video"]


def test_images_cannot_hold_other_streams(tmp_path: Path) -> None:
    spec = Spec(frames=4, sound=("aac",), subtitles="mov_text", rotation=90, chapters=True)
    report = restore(make(tmp_path / "in.mp4", spec), tmp_path / "f" / "%d.png")
    assert report.notes == (
        "images are written as the frames are stored: their rotation is not applied",
        "audio stream 1 (aac) is left out: images cannot hold it",
        "subtitle stream 2 (mov_text) is left out: images cannot hold it",
        "the chapters are left out: images cannot hold them",
        "the tags of the file (title) are left out: images cannot hold them",
    )


def test_losses_of_an_image_format_are_said(tmp_path: Path) -> None:
    options = {"crf": "8", "x265-params": "log-level=error:bframes=0"}
    spec = Spec(frames=6, codec="libx265", depth=10, options=options)
    report = restore(make(tmp_path / "in.mp4", spec), tmp_path / "f" / "%d.jpg")
    tags, depth = report.notes
    assert tags == "the tags of the file (title) are left out: images cannot hold them"
    assert "8 bit" in depth or "8-bit" in depth


def test_the_result_is_looked_at(tmp_path: Path) -> None:
    path = make(tmp_path / "made.mp4", Spec(frames=2, sound=("aac",)))
    kinds = Counter({"video": 1, "audio": 1})
    assert not list(_missing(path, _Expected(kinds, None, 0)))
    found = list(_missing(path, _Expected(kinds + Counter(audio=2), "01:02:03:04", 5)))
    assert found == [
        "5 damaged audio or subtitle packets are left out",
        "2 of 3 audio streams are missing in the result",
        "the time code 01:02:03:04 is left out: the result cannot hold it",
    ]


def test_timecodes_tell_when_the_last_frame_ends(tmp_path: Path) -> None:
    def lines(source: Path) -> list[float]:
        folder = tmp_path / source.stem
        restore(source, folder / "%d.png")
        text = (folder / "timecodes.txt").read_text().splitlines()
        assert text[0] == "# timestamp format v2"
        return [float(line) for line in text[1:]]

    assert lines(_gif(tmp_path / "gif.gif", transparent=False)) == [0, 100, 300, 2300]
    even = lines(make(tmp_path / "even.mp4", Spec(frames=4)))
    assert even == pytest.approx([n * 1000 / 24 for n in range(4)], abs=1e-3)
    assert len(lines(make(tmp_path / "variable.mp4", Spec(pts=VARIABLE)))) == 25


@needs_cases
def test_cases(tmp_path: Path) -> None:
    folder = CASES / "video"
    assert restore(folder / "plain.mp4", tmp_path / "x.webm").target.name == "x.webm"
    assert _first(restore(folder / "opaque.gif", tmp_path / "gif.mp4").target).format.name == (
        "yuv420p"
    )
    assert restore(folder / "timecode.mov", tmp_path / "code.mov").notes == ()
    report = restore(folder / "klv.ts", tmp_path / "klv.mp4")
    assert report.notes == ("data stream 1 (klv) is left out: .mp4 cannot hold it",)
