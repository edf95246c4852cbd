"""Optional information in a video: kept or noted, and never the end of a run."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.video import VideoOptions, VideoReport
from resharp.video.run import render_video
from resharp.video.side_data import losses, mastering_of, matrix_of, optional, side_data
from tests.shared import CASES, needs_cases
from tests.video.kit import Enlarged, Spec, av, draw, make

pillow = pytest.importorskip("PIL.Image", reason="needs Pillow (pip install pillow)")

EXIF = "EXIF metadata of the frames cannot be kept"
HDR = (
    "display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)",
    (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000.0),
)
"""The display of HDR10 with P3 colors: parameters of x264 and x265, and their values."""


def restore(source: Path, target: Path, **options: Any) -> VideoReport:
    config: Any = Enlarged(2)
    return render_video(source, target, config, options=VideoOptions(**options))


def _jpeg(number: int, orientation: int) -> bytes:
    exif = pillow.Exif()
    exif[0x010F], exif[0x0112] = "A camera", orientation
    block = io.BytesIO()
    image = np.ascontiguousarray(draw(number)[:, :, ::-1])
    pillow.fromarray(image).save(block, "JPEG", exif=exif, quality=90)
    return block.getvalue()


def _motion_jpeg(path: Path, orientation: int = 1) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_mux_stream("mjpeg", rate=10, width=128, height=96)
        stream.time_base = Fraction(1, 10)
        for number in range(3):
            packet = av.Packet(_jpeg(number, orientation))
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, True
            out.mux(packet)
    return path


def _first(path: Path) -> Any:
    with av.open(str(path)) as made:
        return next(made.decode(video=0))


def _matrix(path: Path) -> tuple[int, ...] | None:
    found = {data.type.name: bytes(data) for data in _first(path).side_data}
    return struct.unpack("=9i", found["DISPLAYMATRIX"]) if "DISPLAYMATRIX" in found else None


def test_pyav_still_fails_where_a_guard_is_needed(tmp_path: Path) -> None:
    frame = _first(_motion_jpeg(tmp_path / "in.mov"))
    if "EXIF" in av.sidedata.sidedata.Type.__members__:
        pytest.skip("this PyAV knows EXIF")
    with pytest.raises(ValueError, match="31 is not a valid Type"):
        assert frame.side_data
    assert side_data(frame, "")["EXIF"] == b""


@pytest.mark.parametrize("name", ["in.mov", "in.avi", "in.mkv"])
def test_motion_jpeg_of_cameras_is_restored(tmp_path: Path, name: str) -> None:
    report = restore(_motion_jpeg(tmp_path / name), tmp_path / "out.mp4")
    assert report.frames == 3
    assert [note for note in report.notes if "EXIF" in note] == [EXIF]


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, None), (2, (-1, 0, 0, 1)), (3, (-1, 0, 0, -1)), (5, (0, 1, 1, 0)), (6, (0, 1, -1, 0))],
)
def test_orientation_of_exif_becomes_that_of_the_video(
    tmp_path: Path, orientation: int, corner: tuple[int, ...] | None
) -> None:
    source = tmp_path / "in.jpg"
    source.write_bytes(_jpeg(0, orientation))
    for one in (source, _motion_jpeg(tmp_path / "in.mov", orientation)):
        report = restore(one, tmp_path / f"{one.suffix[1:]}.mp4")
        matrix = _matrix(report.target)
        if corner is None:
            assert matrix is None
        else:
            assert matrix is not None
            assert tuple(matrix[i] >> 16 for i in (0, 1, 3, 4)) == corner
    report = restore(source, tmp_path / "f" / "%d.png")
    assert any("rotation is not applied" in note for note in report.notes) == (corner is not None)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif"])
def test_images_are_videos_of_one_frame(tmp_path: Path, ending: str) -> None:
    source = tmp_path / f"in{ending}"
    exif = pillow.Exif()
    exif[0x010F] = "A camera"
    pillow.fromarray(np.ascontiguousarray(draw(5)[:, :, ::-1])).save(source, exif=exif)
    report = restore(source, tmp_path / "out.mp4")
    assert (report.frames, report.width) == (1, 256)
    assert [note for note in report.notes if "EXIF" in note]


def test_no_error_of_side_data_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "in.mp4", Spec(frames=3, rotation=90))

    def broken(frame: Any) -> dict[str, bytes]:
        raise RuntimeError("a new kind of trouble")

    monkeypatch.setattr("resharp.video.side_data._named", broken)
    report = restore(source, tmp_path / "out.mp4")
    assert report.frames == 3
    monkeypatch.undo()
    assert _first(report.target).rotation == 90  # PyAV has another way to it


def test_optional_information_is_a_default_where_it_fails() -> None:
    assert optional("a number", lambda: int("x"), 7) == 7
    assert optional("a number", lambda: int("8"), 7) == 8


def test_numbers_without_meaning_are_unknown() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    assert matrix_of({"DISPLAYMATRIX": b"short"}, frame) is None
    assert mastering_of({"MASTERING_DISPLAY_METADATA": b"x", "CONTENT_LIGHT_LEVEL": b""}) is None
    zero = struct.pack("=22i", *[0] * 20, 1, 1)  # denominators of zero
    assert mastering_of({"MASTERING_DISPLAY_METADATA": zero}) is None
    assert list(losses(["type 40", "MOTION_VECTORS", "DISPLAYMATRIX"])) == [
        "side data of type 40 cannot be kept"
    ]
    assert list(losses(["STEREO3D", "DOVI_METADATA", "DOVI_RPU_BUFFER"], {"STEREO3D"})) == [
        "Dolby Vision metadata cannot be kept"
    ]


def _hdr(path: Path) -> Path:
    options = {"x265-params": f"log-level=error:bframes=0:master-{HDR[0]}:max-cll=1000,400"}
    spec = Spec(
        frames=6, codec="libx265", depth=10, matrix=9, primaries=9, transfer=16, options=options
    )
    return make(path, spec)


def _mastering(path: Path) -> tuple[list[float], tuple[int, ...]]:
    found = {data.type.name: bytes(data) for data in _first(path).side_data}
    numbers = struct.unpack("=22i", found["MASTERING_DISPLAY_METADATA"])
    values = [a / b for a, b in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
    return values, struct.unpack("=2I", found["CONTENT_LIGHT_LEVEL"])


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_mastering_metadata_of_hdr_is_kept(tmp_path: Path, codec: str) -> None:
    source = _hdr(tmp_path / "in.mp4")
    assert _mastering(source)[0] == pytest.approx(HDR[1], abs=1e-5)
    report = restore(source, tmp_path / "out.mp4", codec=codec)
    values, light = _mastering(report.target)
    assert values == pytest.approx(HDR[1], abs=1e-4, rel=1e-4)
    assert light == (1000, 400)
    assert not [note for note in report.notes if "HDR" in note]


def test_mastering_metadata_of_hdr_passes_through_png(tmp_path: Path) -> None:
    source = _hdr(tmp_path / "in.mp4")
    report = restore(source, tmp_path / "f" / "%d.png")
    assert not [note for note in report.notes if "HDR" in note or "light" in note]
    restore(source, tmp_path / "out.apng")
    for path in (tmp_path / "f" / "1.png", tmp_path / "out.apng"):
        assert b"cICP\x09\x10\0\1" in path.read_bytes()
        values, light = _mastering(path)  # FFmpeg's reader of PNG
        assert values == pytest.approx(HDR[1], abs=1e-4, rel=1e-4)
        assert light == (1000, 400)
    for again in ("out.apng", "f/%d.png"):
        report = restore(tmp_path / again, tmp_path / "again.mp4", fps=Fraction(24))
        values, light = _mastering(report.target)
        assert values == pytest.approx(HDR[1], abs=1e-4, rel=1e-4)
        assert light == (1000, 400)
        report.target.unlink()


def test_mastering_metadata_that_a_codec_lacks_is_said(tmp_path: Path) -> None:
    report = restore(_hdr(tmp_path / "in.mp4"), tmp_path / "out.mkv", codec="ffv1")
    assert (
        sum(
            "HDR mastering metadata (display brightness) is left out" in note
            for note in report.notes
        )
        == 1
    )


def _with_message(path: Path, kind: int, payload: bytes, frame: int) -> Path:
    """Write H.264 with a message (SEI) before one frame."""
    nal = bytes([6, kind, len(payload)]) + payload + b"\x80"
    for pair in range(4):  # no start code may appear inside
        nal = nal.replace(bytes([0, 0, pair]), bytes([0, 0, 3, pair]))
    plain = make(path.with_name("plain.ts"), Spec(frames=4, options={"bf": "0", "g": "1"}))
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        number = 0
        for packet in old.demux():
            if not packet.size:
                continue
            data = bytes(packet)
            if number == frame:
                delimiter = data[:6]  # of access units, which comes first
                assert delimiter[:5] == b"\x00\x00\x00\x01\x09"
                data = delimiter + b"\x00\x00\x00\x01" + nal + data[6:]
            made = av.Packet(data)
            made.stream, made.time_base = stream, packet.time_base
            made.pts, made.dts, made.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
            new.mux(made)
            number += 1
    return path


CAPTIONS = b"\xb5\x00\x31GA94\x03\x42\xff\xfc\x94\x2c\xfc\x94\x2c\xff"
USER_DATA = bytes(range(16, 32)) + b"height=12.5m"


@pytest.mark.parametrize("frame", [0, 2])
@pytest.mark.parametrize(
    ("kind", "payload", "note"),
    [
        (4, CAPTIONS, "closed captions inside the video stream cannot be kept"),
        (5, USER_DATA, "user data inside the video stream (SEI) cannot be kept"),
    ],
)
def test_what_frames_carry_is_said_once(
    tmp_path: Path, kind: int, payload: bytes, note: str, frame: int
) -> None:
    source = _with_message(tmp_path / "in.ts", kind, payload, frame)
    report = restore(source, tmp_path / "out.mp4")
    assert report.frames == 4
    assert report.notes == (note,)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_the_layout_of_3d_video_is_kept_by_matroska(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height = 64, 48
        stream.metadata["stereo_mode"] = "left_right"
        for number in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert "STEREO3D" in side_data(_first(source), "")
    report = restore(source, tmp_path / f"out.{ending}")
    kept = "STEREO3D" in side_data(_first(report.target), "")
    assert kept == (ending == "mkv")
    assert report.notes == (() if kept else ("layout of stereoscopic 3D cannot be kept",))


@needs_cases
@pytest.mark.parametrize("name", ["mjpeg_exif.mov", "photo_exif.jpg"])
def test_cases(tmp_path: Path, name: str) -> None:
    report = restore(CASES / "video" / name, tmp_path / "out.mp4")
    assert EXIF in report.notes
    assert _first(report.target).width == 72
