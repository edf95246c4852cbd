"""Animated images as output: frames, times, transparency and what else the input states."""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.errors import OptionError, OutputError
from resharp.video import VideoReport
from resharp.video.animation_output import ANIMATED, schedule
from resharp.video.gif_palette import GifColors
from resharp.video.run import render_video
from tests.video.animations import (
    DURATIONS,
    GIF_FRAMES,
    ApngFrame,
    ApngSpec,
    apng,
    chunk,
    distance,
    drawings,
    gif,
    gif_canvases,
    pillow,
    restore_scaled,
    save,
    shown,
)
from tests.video.kit import Enlarged, Spec, av, draw, make, number_in
from tests.video.test_resume import interrupt


def restore(source: Path, target: Path, scale: int = 2, **options: Any) -> VideoReport:
    return restore_scaled(source, target, scale, **options)


def doubled(image: Any) -> Any:
    return image.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("alpha", ["none", "full", "partial"])
@pytest.mark.parametrize("source", ["png", "webp"])
@pytest.mark.parametrize("target", ["gif", "webp", "apng", "png"])
def test_frames_times_and_transparency(
    tmp_path: Path, source: str, target: str, alpha: str
) -> None:
    images = drawings(5, alpha, size=(41, 31))
    path = save(tmp_path / f"in.{source}", images, DURATIONS)
    report = restore(path, tmp_path / f"out.{target}", segment=2)
    assert (report.frames, report.width, report.height) == (5, 82, 62)
    made = shown(report.target)
    assert made.durations == list(DURATIONS)
    for got, image in zip(made.images, images, strict=True):
        wanted = doubled(image)
        if target == "gif":
            wanted[..., 3] = np.where(wanted[..., 3] < 128, 0, 255)
        assert np.abs(got[..., 3].astype(int) - wanted[..., 3]).max() == 0
        assert distance(got, wanted) <= (60 if target == "webp" else 0)
        same = (wanted[..., 3] > 0) & (got[..., 3] > 0)
        assert np.abs(got.astype(int) - wanted)[same].mean() < 3
    lost = [note for note in report.notes if "partial transparency" in note]
    assert len(lost) == (target == "gif" and alpha == "partial")
    assert len(report.notes) == len(lost)


@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_a_gif_keeps_its_disposed_frames(tmp_path: Path, target: str) -> None:
    path = tmp_path / "in.gif"
    path.write_bytes(gif(GIF_FRAMES))
    made = shown(restore(path, tmp_path / f"out.{target}").target)
    assert made.durations == [100, 60, 20, 50, 70, 300]
    for got, canvas in zip(made.images, gif_canvases(GIF_FRAMES), strict=True):
        assert (got[..., 3] == doubled(canvas)[..., 3]).all()
        assert distance(got, doubled(canvas)) <= (80 if target == "webp" else 0)


PLAYS: dict[str, dict[int, int | None]] = {
    "gif": {0: 0, 1: None, 4: 3},
    "webp": {0: 0, 1: 1, 4: 4},
    "apng": {0: 0, 1: 1, 4: 4},
}
"""What files state for the number of times that they are played: GIF counts repetitions."""


@pytest.mark.parametrize("plays", [0, 1, 4])
@pytest.mark.parametrize("source", ["gif", "webp", "png"])
@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_the_loop_count_is_kept(tmp_path: Path, source: str, target: str, plays: int) -> None:
    stated = PLAYS[source.replace("png", "apng")][plays]
    options: dict[str, Any] = {} if stated is None else {"loop": stated}
    path = save(tmp_path / f"in.{source}", drawings(3), [100] * 3, **options)
    made = shown(restore(path, tmp_path / f"out.{target}").target)
    assert made.info.get("loop") == PLAYS[target][plays]


def test_a_video_becomes_a_gif_of_the_same_length_without_sound(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", Spec(frames=24, sound=("aac",)))
    report = restore(path, tmp_path / "out.gif", 1)
    made = shown(report.target)
    assert [number_in(image[..., 2::-1]) for image in made.images] == list(range(24))
    assert sum(made.durations) == 1000
    assert set(made.durations) == {40, 50}
    assert made.info["loop"] == 0
    assert report.notes == (
        "audio stream 1 (aac) is left out: GIF cannot hold it",
        "the tags of the file (title) are left out: GIF cannot hold them",
        "GIF rounds timestamps to hundredths of a second",
    )


def test_frame_rates_beyond_a_format_are_reduced_with_a_note(tmp_path: Path) -> None:
    base = Fraction(1, 90_000)
    path = make(tmp_path / "in.mp4", Spec(frames=30, pts=tuple(n * 1500 for n in range(30))))
    report = restore(path, tmp_path / "out.gif", 1)
    made = shown(report.target)
    assert min(made.durations) >= 20
    assert sum(made.durations) == round(30 * 1500 * base * 1000)
    numbers = [number_in(image[..., 2::-1]) for image in made.images]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 30
    assert f"frames are left out ({30 - len(numbers)}): GIF" in "".join(report.notes)


def test_a_rotated_video_becomes_an_upright_animation(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", Spec(frames=2, rotation=90))
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        assert first.rotation == 90  # counterclockwise
        wanted = np.rot90(first.to_ndarray(format="rgb24"))
    report = restore(path, tmp_path / "out.apng", 1)
    assert (report.width, report.height) == (96, 128)
    got = shown(report.target).images[0][..., :3]
    assert np.abs(got.astype(int) - wanted).mean() < 3


def test_sixteen_bits_stay_in_apng_and_are_rounded_elsewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 65_536, (12, 16, 4)).astype(np.uint16) for _ in range(3)]
    frames = [ApngFrame(0, 0, image, (1, 10)) for image in images]
    path = tmp_path / "in.png"
    path.write_bytes(apng(ApngSpec(frames=frames)))
    report = restore(path, tmp_path / "out.apng", 1)
    assert report.notes == ()
    with av.open(str(report.target)) as container:
        for got, image in zip(container.decode(video=0), images, strict=True):
            assert (got.to_ndarray(format="rgba64be") == image).all()
    report = restore(path, tmp_path / "out.webp", 1)
    assert report.notes == ("colors are rounded to 8 bits, the most that WebP holds",)
    got = shown(report.target).images[0][..., 3].astype(int)
    assert np.abs(got - np.rint(images[0][..., 3] / 257)).max() == 0


@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_a_single_frame(tmp_path: Path, target: str) -> None:
    path = tmp_path / "in.gif"
    path.write_bytes(gif(GIF_FRAMES[:1]))
    report = restore(path, tmp_path / f"out.{target}")
    made = shown(report.target)
    assert len(made.images) == 1
    assert distance(made.images[0], doubled(gif_canvases(GIF_FRAMES)[0])) <= 100


ICC = (
    pytest.importorskip("PIL.ImageCms")
    .ImageCmsProfile(pytest.importorskip("PIL.ImageCms").createProfile("sRGB"))
    .tobytes()
)
EXIF = (
    b"II*\0\x08\0\0\0\x02\0"
    b"\x00\x01\x04\0\x01\0\0\0\x28\0\0\0"  # ImageWidth
    b"\x0f\x01\x02\0\x04\0\0\0abc\0"  # Make
    b"\0\0\0\0"
)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>b</a></x:xmpmeta>'
KEPT = {"gif": {"text"}, "webp": {"icc", "exif", "text"}, "apng": {"icc", "exif", "text"}}


@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_metadata_is_kept_or_noted(tmp_path: Path, target: str) -> None:
    path = tmp_path / "in.png"
    extra = chunk(b"tEXt", b"Comment\0by \xe9me") + chunk(b"eXIf", EXIF)
    frames = [ApngFrame(0, 0, image[:12, :16], (1, 10)) for image in drawings(2)]
    extra += chunk(b"iCCP", b"profile\0\0" + zlib.compress(ICC))
    path.write_bytes(apng(ApngSpec(frames=frames, extra=extra)))
    report = restore(path, tmp_path / f"out.{target}")
    with pillow.open(report.target) as image:
        found = image.getexif()
        texts = getattr(image, "text", {}) or {"Comment": image.info.get("comment", b"").decode()}
        if target == "webp":
            comment = found.get_ifd(0x8769)[0x9286]
            texts = {"Comment": comment.removeprefix(b"UNICODE\0").decode("utf-16-be")}
        kept = {
            "icc": image.info.get("icc_profile") == ICC,
            "exif": found.get(271) == "abc" and found.get(256) == 32,
            "text": texts.get("Comment") == "by \xe9me",
        }
    assert {name for name, there in kept.items() if there} == KEPT[target]
    names = {"icc": "the ICC profile", "exif": "the EXIF data is left out", "text": "comments"}
    notes = " ".join(report.notes)
    assert {key for key, name in names.items() if name in notes} == set(kept) - KEPT[target]


@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_xmp_is_kept(tmp_path: Path, target: str) -> None:
    path = save(tmp_path / "in.webp", drawings(2), [100, 100], xmp=XMP)
    report = restore(path, tmp_path / f"out.{target}")
    if target == "gif":  # Pillow does not read it there
        block = b"!\xff\x0bXMP DataXMP" + XMP + b"\x01\xff\xfe"
        assert report.target.read_bytes().count(block) == 1
    else:
        found = shown(report.target).info
        text = found.get("xmp", found.get("XML:com.adobe.xmp"))
        assert text in (XMP, XMP.decode())
    assert report.notes == ()
    again = restore(report.target, tmp_path / "again.webp", 1)
    assert shown(again.target).info["xmp"] == XMP


@pytest.mark.parametrize("target", ["gif", "webp", "apng", "mp4", "mkv", "webm"])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, target: str) -> None:
    path = make(tmp_path / "in.mp4", Spec(frames=30))
    whole = restore(path, tmp_path / f"whole.{target}", segment=10)
    interrupt(path, tmp_path / f"out.{target}", 10)
    assert not (tmp_path / f"out.{target}").exists()
    report = restore(path, tmp_path / f"out.{target}", segment=10)
    assert 0 < report.resumed_at < 30
    assert report.target.read_bytes() == whole.target.read_bytes()
    assert not list(tmp_path.glob("*.resharp"))
    assert not list(tmp_path.glob(".*"))


def test_an_animation_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    images = [draw(number)[..., ::-1] for number in range(30)]
    images = [np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]) for image in images]
    path = save(tmp_path / "in.webp", images, [40] * 30)
    whole = restore(path, tmp_path / "whole.apng", segment=10)
    interrupt(path, tmp_path / "out.apng", 10)
    report = restore(path, tmp_path / "out.apng", segment=10)
    assert report.resumed_at >= 10
    assert report.target.read_bytes() == whole.target.read_bytes()


def test_sizes_that_a_format_cannot_hold_are_refused_before_the_work(tmp_path: Path) -> None:
    image = pillow.new("P", (8200, 4))
    image.save(tmp_path / "in.gif")
    config: Any = Enlarged(2)
    with pytest.raises(OutputError, match=r"16400x8 pixels, but WebP holds at most 16383"):
        render_video(tmp_path / "in.gif", tmp_path / "out.webp", config)
    assert config.count == 0
    assert [one.name for one in tmp_path.iterdir()] == ["in.gif"]


@pytest.mark.parametrize(
    "options", [{"codec": "ffv1"}, {"crf": 20}, {"preset": "fast"}, {"encoder": "libx264"}]
)
@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_options_without_meaning_are_refused(
    tmp_path: Path, target: str, options: dict[str, Any]
) -> None:
    path = save(tmp_path / "in.gif", drawings(2), [100, 100])
    with pytest.raises(OptionError, match=f"`{next(iter(options))}` has no meaning for"):
        restore(path, tmp_path / f"out.{target}", **options)


def test_png_is_an_animation_only_if_the_input_is_one(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", Spec(frames=2))
    with pytest.raises(OptionError, match=r"must be one of .*\.webp, got .*number them"):
        restore(path, tmp_path / "out.png")
    assert restore(path, tmp_path / "out.apng").frames == 2
    assert restore(tmp_path / "out.apng", tmp_path / "out.png").frames == 2


@given(
    st.lists(st.integers(1, 40_000), min_size=1, max_size=40),
    st.sampled_from(sorted(ANIMATED)),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 90_000), Fraction(1001, 30_000)]),
)
def test_schedules_keep_the_total_and_the_order(
    steps: list[int], name: str, base: Fraction
) -> None:
    edges = [0, *np.cumsum(steps).tolist()]
    form = ANIMATED[name]
    made, unit, notes = schedule(edges[:-1], edges[-1], base, form)
    numbers = [number for number, _ in made]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    durations = [duration * unit for _, duration in made]
    assert all(form.shortest <= one <= form.longest for one in durations)
    total = edges[-1] * base
    assert total - unit / 2 <= sum(durations) <= max(total + unit / 2, total + form.shortest + unit)
    start = Fraction(0)
    for (number, _), duration in zip(made, durations, strict=True):
        if numbers.count(number) == 1:
            assert abs(start - edges[number] * base) <= unit / 2
        start += duration
    assert any("left out" in note for note in notes) == (len(set(numbers)) < len(steps))


def test_few_colors_are_exact_and_a_palette_is_kept_while_it_serves() -> None:
    quantizer, rng = GifColors(), np.random.default_rng(0)
    colors = rng.integers(0, 256, (255, 3)).astype(np.uint8)
    image = colors[rng.integers(0, 255, (50, 60))]
    for one in (image, image[::-1], image[:10, :10].repeat(5, axis=0)):
        indices, palette = quantizer.indexed(np.ascontiguousarray(one))
        assert (palette[indices][..., 3:0:-1] == one).all()
    assert quantizer.exact
    palettes = [quantizer.indexed(image)[1] for _ in range(2)]
    assert (palettes[0] == palettes[1]).all()


def test_many_colors_are_dithered_around_the_right_values() -> None:
    quantizer = GifColors()
    across, down = np.meshgrid(np.linspace(0, 255, 200), np.linspace(0, 255, 150))
    image = np.dstack([across, down, 255 - across]).astype(np.uint8)
    image[:40] = 255
    indices, palette = quantizer.indexed(image)
    got = palette[indices][..., 3:0:-1]
    assert not quantizer.exact
    assert (got[:40] == 255).all()
    blocks = [one[40:144].reshape(13, 8, 25, 8, 3).mean(axis=(1, 3)) for one in (got, image)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 2
    still = image.copy()
    still[100:110, 100:110] ^= 4
    assert (quantizer.indexed(still)[1] == palette).all()
    other = quantizer.indexed(255 - image)[1]
    assert not (other == palette).all()


def test_transparent_pixels_use_the_last_entry() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 4)).astype(np.uint8)
    indices, palette = GifColors().indexed(image)
    assert ((indices == 255) == (image[..., 3] < 128)).all()
    assert (palette[:, 0] == [255] * 255 + [0]).all()
    assert GifColors().indexed(np.zeros((4, 4, 4), np.uint8))[0].min() == 255


def _tagged(path: Path, primaries: int, transfer: int) -> Path:
    """Make a video of gray steps with tagged colors, without loss."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 16, "gbrp10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.color_range = primaries, transfer, 2
        steps = np.repeat(np.linspace(0, 1, 8), 8)
        image = np.broadcast_to((steps * 65_535).astype(np.uint16)[None, :, None], (16, 64, 3))
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb48le")
            frame = frame.reformat(format="gbrp10le")
            frame.color_primaries, frame.color_trc, frame.pts = primaries, transfer, number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def chunks(path: Path) -> dict[bytes, bytes]:
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        found[kind] = data[at + 8 : at + 8 + size]
        at += 12 + size
    return found


def test_hdr_colors_are_stated_where_possible_and_converted_elsewhere(tmp_path: Path) -> None:
    path = _tagged(tmp_path / "in.mkv", 9, 16)
    report = restore(path, tmp_path / "out.apng", 1)
    assert chunks(report.target)[b"cICP"][:2] == bytes([9, 16])
    frames = tmp_path / "frames" / "%d.png"
    restore(path, frames, 1)
    assert chunks(tmp_path / "frames" / "1.png")[b"cICP"] == bytes([9, 16, 0, 1])
    again = restore(frames, tmp_path / "again.mkv", 1)
    with av.open(str(again.target)) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.color_primaries), int(frame.color_trc)) == (9, 16)
    for ending in ("gif", "webp"):
        report = restore(path, tmp_path / f"out.{ending}", 1)
        assert any("cannot hold BT.2020 PQ" in note for note in report.notes)
        # 203 cd/m2, PQ code 0.58, is white: what is brighter is at the top.
        made = shown(report.target).images[0][8, 4::8, 0].astype(int)
        assert (np.diff(made) >= 0).all()
        assert made[0] <= 2
        assert made[5] >= 235
        assert made[3] < 140


def test_wide_colors_get_a_profile_in_webp(tmp_path: Path) -> None:
    path = _tagged(tmp_path / "in.mkv", 12, 13)
    report = restore(path, tmp_path / "out.webp", 1)
    assert b"acsp" in shown(report.target).info["icc_profile"]
    assert not any("sRGB" in note for note in report.notes)


def test_sdr_video_is_written_without_color_tags_for_images(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", Spec(frames=1, primaries=1, transfer=1))
    restore(path, tmp_path / "%d.png", 1)
    assert not {b"cICP", b"iCCP", b"gAMA"} & chunks(tmp_path / "1.png").keys()


def test_what_numbered_images_state_is_noted(tmp_path: Path) -> None:
    for number in range(2):
        pillow.new("RGB", (16, 16)).save(tmp_path / f"{number}.png", icc_profile=ICC)
    report = restore(tmp_path / "%d.png", tmp_path / "out.mp4")
    assert "the ICC profile is left out: a video cannot hold it" in report.notes


def test_what_a_later_image_states_is_noted(tmp_path: Path) -> None:
    plain = pillow.new("RGB", (16, 16))
    for number in range(4):
        plain.save(tmp_path / f"{number}.png", dpi=(300, 300))
    plain.save(tmp_path / "2.png", icc_profile=ICC, exif=EXIF, dpi=(300, 300))
    plain.save(tmp_path / "3.png", icc_profile=ICC, exif=EXIF, dpi=(300, 300))
    assert restore(tmp_path / "%d.png", tmp_path / "out.mp4").notes == (
        "the resolution is left out: the result cannot hold it",
        "2.png: the EXIF data is left out: the result cannot hold it",
        "2.png states other colors than the first image, whose colors count",
    )


TURNED_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:ImageWidth="40" '
    b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("source", ["webp", "png"])
@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
def test_frames_are_turned_once_and_metadata_agree(
    tmp_path: Path, source: str, target: str
) -> None:
    exif = pillow.Exif()
    exif[274], exif[271] = 6, "abc"
    options: dict[str, Any] = {"exif": exif.tobytes(), "xmp": TURNED_XMP}
    if source == "png":
        info = pytest.importorskip("PIL.PngImagePlugin").PngInfo()
        info.add_itxt("XML:com.adobe.xmp", TURNED_XMP.decode())
        options = {"exif": exif.tobytes(), "pnginfo": info}
    images = drawings(2)
    path = save(tmp_path / f"in.{source}", images, [100, 100], **options)
    report = restore(path, tmp_path / f"out.{target}")
    assert (report.width, report.height) == (60, 80)
    made = shown(report.target)
    wanted = np.rot90(doubled(images[0]), -1)
    assert np.abs(made.images[0].astype(int) - wanted).mean() < 3
    data = report.target.read_bytes()
    assert b'Orientation="1"' in data
    assert b'ImageWidth="60"' in data
    assert b"hdrgm:Version" not in data
    if target != "gif":
        with pillow.open(report.target) as image:
            found = pillow.Exif()
            found.load(image.info["exif"])
        assert (found[274], found[271]) == (1, "abc")


def test_a_gray_profile_is_not_kept_for_colors(tmp_path: Path) -> None:
    profile = ICC[:16] + b"GRAY" + ICC[20:]
    path = save(tmp_path / "in.png", drawings(2), [100, 100], icc_profile=profile)
    report = restore(path, tmp_path / "out.apng")
    assert b"iCCP" not in chunks(report.target)
    assert any("the ICC profile is left out" in note for note in report.notes)


def _stating(path: Path, frames: int = 2) -> Path:
    """Write an APNG that states a resolution, IPTC, a gamma and a chunk of another program."""
    record = b"\x1c\x02\x78\0\x05Title"
    block = b"8BIM\x04\x04\0\0" + len(record).to_bytes(4, "big") + record
    hexed = block.hex().encode()
    extra = chunk(b"pHYs", (11_811).to_bytes(4, "big") * 2 + b"\1")
    extra += chunk(b"gAMA", (60_000).to_bytes(4, "big"))
    extra += chunk(b"vpAg", b"123456789")
    text = b"Raw profile type iptc\0\0" + zlib.compress(b"\niptc\n%8d\n%s\n" % (len(block), hexed))
    extra += chunk(b"zTXt", text)
    images = [ApngFrame(0, 0, image[:12, :16], (1, 10)) for image in drawings(frames)]
    path.write_bytes(apng(ApngSpec(frames=images, extra=extra, plays=2)))
    return path


def test_resolution_iptc_gamma_and_other_chunks_stay_in_apng(tmp_path: Path) -> None:
    path = _stating(tmp_path / "in.png")
    report = restore(path, tmp_path / "out.apng")
    assert report.notes == ()
    before, after = chunks(path), chunks(report.target)
    for name in (b"pHYs", b"gAMA", b"vpAg"):
        assert after[name] == before[name], name
    text = zlib.decompress(after[b"zTXt"].split(b"\0\0", 1)[1])
    assert b"Title".hex() in text.decode().replace("\n", "")
    assert not {b"sRGB", b"cICP"} & after.keys()


@pytest.mark.parametrize("target", ["out.gif", "out.webp", "out.mp4", "%d.png"])
def test_resolution_iptc_and_gamma_are_noted_elsewhere(tmp_path: Path, target: str) -> None:
    report = restore(_stating(tmp_path / "in.png"), tmp_path / "out" / target)
    notes = "\n".join(report.notes)
    assert "IPTC" in notes
    assert "data of other programs" in notes
    if target == "out.webp":  # as EXIF and as a profile
        with pillow.open(report.target) as image:
            assert image.getexif()[282] == 300
            assert b"acsp" in image.info["icc_profile"]
        return
    assert "the resolution" in notes
    if target == "%d.png":
        assert chunks(tmp_path / "out" / "1.png")[b"gAMA"] == (60_000).to_bytes(4, "big")
    else:
        assert "gamma 1.67" in notes


@pytest.mark.parametrize(("target", "most"), [("gif", 65_536), ("webp", 65_535), ("apng", 65_535)])
def test_loop_counts_beyond_a_format_become_its_most(
    tmp_path: Path, target: str, most: int
) -> None:
    path = save(tmp_path / "in.gif", drawings(2), [100, 100], loop=65_535)
    report = restore(path, tmp_path / f"out.{target}")
    assert shown(report.target).info["loop"] == 65_535
    assert any(f"the loop count is {most} instead of 65536" in note for note in report.notes) == (
        most < 65_536
    )


@pytest.mark.parametrize("target", ["webp", "apng"])
def test_an_animation_of_one_frame_is_noted_where_it_becomes_a_still(
    tmp_path: Path, target: str
) -> None:
    path = _stating(tmp_path / "in.png", frames=1)
    report = restore(path, tmp_path / f"out.{target}")
    assert any("a single frame becomes a still" in note for note in report.notes)
    report = restore(path, tmp_path / "out.mp4")
    assert any("the loop count (2 times) is left out" in note for note in report.notes)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5)])
@pytest.mark.parametrize("target", ["out.gif", "out.webp", "out.apng", "out.mkv"])
def test_tiny_animations(tmp_path: Path, target: str, size: tuple[int, int]) -> None:
    images = [image[: size[1], : size[0]] for image in drawings(3)]
    path = save(tmp_path / "in.webp", images, [100] * 3)
    options = {"codec": "ffv1"} if target == "out.mkv" else {}
    report = restore(path, tmp_path / target, 1, **options)
    assert (report.frames, report.width, report.height) == (3, *size)


def test_images_give_their_profile_to_images(tmp_path: Path) -> None:
    moving = save(tmp_path / "in.webp", drawings(2), [100, 100], icc_profile=ICC)
    restore(moving, tmp_path / "a" / "%d.png")
    report = restore(tmp_path / "a" / "%d.png", tmp_path / "b" / "%d.png")
    (note,) = report.notes  # the times of the animation are lost
    assert "timecodes.txt is not read: each image is shown for 1/25 second" in note
    assert restore(tmp_path / "a" / "%d.png", tmp_path / "out.apng", fps=Fraction(10)).notes == ()
    with pillow.open(tmp_path / "b" / "2.png") as image:
        assert image.info["icc_profile"] == ICC
    for ending in ("webp", "apng"):
        report = restore(tmp_path / "a" / "%d.png", tmp_path / f"out.{ending}")
        assert shown(report.target).info["icc_profile"] == ICC
    report = restore(tmp_path / "a" / "%d.png", tmp_path / "out.gif")
    assert "the ICC profile is left out: GIF cannot hold it" in report.notes


def test_a_webp_of_opaque_rectangles_is_transparent_around_them(tmp_path: Path) -> None:
    images = [np.zeros((24, 36, 4), np.uint8) for _ in range(3)]
    for number, image in enumerate(images):
        noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3))  # lossy, then
        image[4:16, 4:20, :3], image[4:16, 4:20, 3] = noise, 255
    path = save(tmp_path / "in.png", images, [100] * 3)
    made = shown(restore(path, tmp_path / "out.webp", 1).target)
    for got, image in zip(made.images, images, strict=True):
        assert (got[..., 3] == image[..., 3]).all()
