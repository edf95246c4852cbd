"""Which stream is restored, how it is decoded, and what is said about the others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.errors import OptionError
from resharp.video import VideoOptions, VideoReport
from resharp.video.clip import probe
from resharp.video.run import render_video
from resharp.video.streams import alpha_decoder, has_alpha_packets
from tests.shared import CASES, needs_cases
from tests.video.kit import Enlarged, Image, Spec, av, draw, make, parts

DEFAULT, ATTACHED = 1, 1 << 10
"""Dispositions, numbered as in FFmpeg."""


def restore(source: Path, target: Path, **options: Any) -> VideoReport:
    config: Any = Enlarged(2)
    return render_video(source, target, config, options=VideoOptions(**options))


def _together(path: Path, *streams: tuple[int, int, int]) -> Path:
    """Write a file of several video streams: width, number of frames, disposition."""
    with av.open(str(path), "w") as out:
        made = []
        for index, (width, count, disposition) in enumerate(streams):
            codec = "mjpeg" if count == 1 else "libx264"
            stream = out.add_stream(codec, rate=10, options={} if count == 1 else {"g": "3"})
            stream.width, stream.height = width, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            made.append((index, stream, count, disposition))
        for _, stream, _, disposition in made:
            stream.disposition = disposition
        for index, stream, count, _ in made:
            for number in range(count):
                image = np.ascontiguousarray(draw(number, stream.width, 48))
                frame = av.VideoFrame.from_ndarray(image, "bgr24")
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 10)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
            assert stream.index == index
    return path


@pytest.mark.parametrize(
    ("name", "streams", "chosen"),
    [
        ("in.mkv", ((64, 1, 0), (96, 6, DEFAULT)), 1),
        ("in.mkv", ((64, 1, DEFAULT), (96, 6, 0)), 1),
        ("in.mkv", ((64, 6, 0), (96, 6, DEFAULT)), 1),
        ("in.mkv", ((64, 2, 0), (96, 9, 0)), 1),
        ("in.mkv", ((64, 9, 0), (96, 2, 0)), 0),
        ("in.mkv", ((64, 6, 0), (96, 6, 0)), 0),
        ("in.mkv", ((64, 1, 0), (96, 1, 0)), 0),
        ("in.mp4", ((64, 2, DEFAULT), (96, 9, DEFAULT)), 1),
        ("in.mp4", ((64, 6, DEFAULT), (96, 6, DEFAULT)), 0),
    ],
)
def test_the_stream_that_players_play_is_restored(
    tmp_path: Path, name: str, streams: tuple[tuple[int, int, int], ...], chosen: int
) -> None:
    source = _together(tmp_path / name, *streams)
    report = restore(source, tmp_path / f"out{source.suffix}")
    width, count, _ = streams[chosen]
    assert (report.width, report.frames) == (2 * width, count)
    other = 1 - chosen
    codec = "mjpeg" if streams[other][1] == 1 else "h264"
    assert f"video stream {other} ({codec}, {streams[other][0]}x48) is copied as it is" in (
        report.notes
    )
    with av.open(str(report.target)) as made:
        widths = [stream.width for stream in made.streams.video]
    assert widths[chosen] == 2 * width
    assert widths[other] == streams[other][0]


def test_any_video_stream_can_be_asked_for(tmp_path: Path) -> None:
    source = _together(tmp_path / "in.mkv", (64, 6, DEFAULT), (96, 4, 0))
    report = restore(source, tmp_path / "out.mkv", stream=1)
    assert (report.width, report.frames) == (192, 4)
    for wrong in (2, 9):
        with pytest.raises(OptionError, match=rf"`stream` must be .* got {wrong}") as caught:
            restore(source, tmp_path / "no.mkv", stream=wrong)
        assert "video stream 1 (h264, 96x48)" in str(caught.value)
    sound = make(tmp_path / "sound.mp4", Spec(frames=3, sound=("aac",)))
    with pytest.raises(OptionError, match="`stream` must be a video stream"):
        restore(sound, tmp_path / "no.mp4", stream=1)
    with pytest.raises(OptionError, match="`stream` must be an integer of at least 0, got -1"):
        VideoOptions(stream=-1)


def test_another_stream_starts_an_interrupted_run_over(tmp_path: Path) -> None:
    source = _together(tmp_path / "in.mkv", (64, 6, DEFAULT), (64, 6, 0))

    class StopError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        if done >= 4:
            raise StopError

    held: Any = Enlarged(2, hold=12)
    options = VideoOptions(segment=2)
    with pytest.raises(StopError):
        render_video(source, tmp_path / "out.mkv", held, options=options, progress=stop)
    report = restore(source, tmp_path / "out.mkv", segment=2, stream=1)
    assert report.resumed_at == 0
    assert any("starting over" in note and "stream" in note for note in report.notes)


def test_images_have_no_streams(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Spec(frames=2))
    restore(source, tmp_path / "f" / "%d.png")
    with pytest.raises(OptionError, match="images have no streams: leave out `stream`"):
        restore(tmp_path / "f", tmp_path / "out.mp4", stream=0)


def _with_cover(path: Path) -> bytes:
    """Write a video with cover art, whose bytes are returned."""
    plain = make(path.with_name("plain.mp4"), Spec(frames=4))
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = ATTACHED
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        (packet,) = cover.encode(av.VideoFrame(64, 48, "yuvj420p"))
        image = bytes(packet)
        new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return image


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_cover_art_is_copied_without_a_note(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "in.mp4"
    image = _with_cover(source)
    report = restore(source, tmp_path / f"out.{ending}")
    assert (report.frames, report.width) == (4, 256)
    assert [note for note in report.notes if "rounds timestamps" not in note] == []
    once = restore(report.target, tmp_path / f"again.{ending}")  # from an attachment of Matroska
    for path in (report.target, once.target):
        with av.open(str(path)) as made:
            covers = [one for one in made.streams if int(one.disposition) & ATTACHED]
            assert len(covers) == 1
            assert [bytes(p) for p in made.demux(covers[0]) if p.size] == [image]


def test_cover_art_can_be_restored_as_an_image_only(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    _with_cover(source)
    with pytest.raises(OptionError, match=r"video stream 1 .* is cover art, not a video"):
        restore(source, tmp_path / "out.mkv", stream=1)
    report = restore(source, tmp_path / "f" / "%d.png", stream=1)
    assert (report.frames, report.width) == (1, 128)


@pytest.mark.parametrize("dispositions", [(0, 0), (DEFAULT, 0)])
def test_mp4_marks_the_restored_stream_if_no_other_is(
    tmp_path: Path, dispositions: tuple[int, int]
) -> None:
    streams = ((64, 1, dispositions[0]), (96, 6, dispositions[1]))
    source = _together(tmp_path / "in.mkv", *streams)
    report = restore(source, tmp_path / "out.mp4")
    with av.open(str(report.target)) as made:
        marked = [bool(int(one.disposition) & DEFAULT) for one in made.streams.video]
    assert marked == ([True, False] if dispositions[0] else [False, True])


def _transparent(path: Path, codec: str) -> Path:
    """Write 24 frames, four per second, whose alpha is ten times their number."""
    with av.open(str(path), "w") as out:
        options = {"g": "4", "auto-alt-ref": "0", "crf": "4", "b": "2M"}
        stream = out.add_stream(codec, rate=4, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        stream.codec_context.thread_count = 1
        for number in range(24):
            image = np.full((48, 64, 4), 128, np.uint8)
            image[:, :, 3] = number * 10
            frame = av.VideoFrame.from_ndarray(image, "rgba").reformat(format="yuva420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _alphas(path: Path) -> list[Image]:
    with av.open(str(path)) as made:
        frames = list(made.decode(video=0))
    assert all(frame.format.name == "yuva420p" for frame in frames)
    return [frame.to_ndarray(format="rgba")[:, :, 3] for frame in frames]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_of_webm_is_kept_by_ffv1_and_else_said(tmp_path: Path, codec: str) -> None:
    source = _transparent(tmp_path / "in.webm", codec)
    clip = probe(source)
    assert (clip.decoder, clip.form.alpha) == (codec, True)
    report = restore(source, tmp_path / "out.mkv", codec="ffv1", segment=5)
    assert [alpha.mean() for alpha in _alphas(report.target)] == pytest.approx(
        [number * 10 for number in range(24)], abs=1.5
    )
    assert not report.notes
    part = restore(source, tmp_path / "part.mkv", codec="ffv1", start=Fraction(4))  # it seeks
    assert [alpha.mean() for alpha in _alphas(part.target)] == pytest.approx(
        [number * 10 for number in range(16, 24)], abs=1.5
    )
    report = restore(source, tmp_path / "out.mp4")
    assert sum("transparency is left out: libx264" in note for note in report.notes) == 1
    report = restore(source, tmp_path / "lossy.mkv")
    with av.open(str(report.target)) as made:
        tags = made.streams.video[0].metadata
        assert not [name for name in tags if name.lower() == "alpha_mode"]


def test_transparency_is_found_by_the_tag_or_in_the_packets(tmp_path: Path) -> None:
    tagged = _transparent(tmp_path / "tagged.webm", "libvpx-vp9")
    with av.open(str(tagged)) as container:
        stream = container.streams.video[0]
        assert has_alpha_packets(stream, av.Packet(b"no additional data"))
    data = tagged.read_bytes()
    mode, void = b"\x53\xc0\x81\x01", b"\xec\x82\x00\x00"
    assert data.count(mode) == 1
    source = tmp_path / "in.webm"
    source.write_bytes(data.replace(mode, void))
    with av.open(str(source)) as container:
        tags = {name.lower() for name in container.streams.video[0].metadata}
        assert "alpha_mode" not in tags
    assert probe(source).decoder == "libvpx-vp9"


def test_transparency_without_a_decoder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _transparent(tmp_path / "in.webm", "libvpx-vp9")
    monkeypatch.setattr("resharp.video.streams.ALPHA_DECODERS", {"vp9": "libmissing"})
    report = restore(source, tmp_path / "out.mkv", codec="ffv1")
    assert "transparency is left out: this FFmpeg cannot read that of VP9" in report.notes
    assert report.frames == 24


def test_opaque_webm_is_decoded_as_usual(tmp_path: Path) -> None:
    source = make(
        tmp_path / "in.webm",
        Spec(frames=3, codec="libvpx-vp9", time_base=Fraction(1, 1000), options={"crf": "10"}),
    )
    clip = probe(source)
    assert (clip.decoder, clip.form.name) == (None, "yuv420p")
    with av.open(str(source)) as container:
        assert alpha_decoder(container.streams.video[0]) == "libvpx-vp9"
    assert parts(restore(source, tmp_path / "out.webm").target).numbers == [0, 1, 2]


@needs_cases
def test_cases(tmp_path: Path) -> None:
    report = restore(CASES / "video" / "preview_first.mkv", tmp_path / "preview.mkv")
    assert (report.frames, report.width) == (6, 64)
    assert "video stream 0 (mjpeg, 40x60) is copied as it is" in report.notes
    for name in ("vp8_alpha", "vp9_alpha"):
        source = CASES / "video" / f"{name}.webm"
        report = restore(source, tmp_path / f"{name}.mkv", codec="ffv1")
        alpha = _alphas(report.target)[0]
        assert (alpha.min(), alpha.max()) == (0, 255)
