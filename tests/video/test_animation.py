"""Animated images as input: every frame, for as long as browsers show it, with its transparency."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.errors import ImageError, OptionError, VideoError
from resharp.images import read
from resharp.video import VideoOptions, VideoReport
from resharp.video.clip import Clip, SourceFrame
from resharp.video.sequence import probe_any
from resharp.video.source import pictures
from tests.video.animations import (
    DURATIONS,
    GIF_FRAMES,
    ApngFrame,
    ApngSpec,
    apng,
    apng_canvases,
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
from tests.video.kit import av, parts
from tests.video.test_animation_output import ICC


def restore(source: Path, target: Path, scale: int = 1, **options: Any) -> VideoReport:
    return restore_scaled(source, target, scale, **options)


def decoded(path: Path) -> tuple[Clip, list[SourceFrame]]:
    clip = probe_any(path, VideoOptions())
    return clip, list(pictures(clip))


def rgba(frame: SourceFrame) -> Any:
    code = cv2.COLOR_BGRA2RGBA if frame.image.shape[2] == 4 else cv2.COLOR_BGR2RGBA
    return cv2.cvtColor(frame.image, code)


def milliseconds(clip: Clip, frames: list[SourceFrame]) -> list[float]:
    edges = [*(one.pts for one in frames), frames[-1].pts + frames[-1].duration]
    return [round(float(one * clip.time_base * 1000), 6) for one in np.diff(edges).tolist()]


def test_gif_frames_are_disposed_of_and_timed_as_in_browsers(tmp_path: Path) -> None:
    path = tmp_path / "in.gif"
    path.write_bytes(gif(GIF_FRAMES, loop=2))
    clip, frames = decoded(path)
    assert milliseconds(clip, frames) == [100, 60, 20, 50, 70, 300]
    for frame, canvas in zip(frames, gif_canvases(GIF_FRAMES), strict=True):
        assert distance(rgba(frame), canvas) == 0
    assert clip.animation is not None
    assert clip.animation.plays == 3  # once, and two repetitions


def test_gif_frames_of_10_ms_are_shown_for_100_ms_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "in.gif"
    path.write_bytes(
        gif([one._replace(delay=1 + index // 4) for index, one in enumerate(GIF_FRAMES)])
    )
    clip, frames = decoded(path)
    assert milliseconds(clip, frames) == [100, 100, 100, 100, 20, 20]
    assert clip.frames == 6
    assert any("100 ms" in note for note in clip.notes)
    for frame, canvas in zip(frames, gif_canvases(GIF_FRAMES), strict=True):
        assert distance(rgba(frame), canvas) == 0


@pytest.mark.parametrize("depth", [8, 16])
def test_apng_frames_are_blended_and_the_default_image_is_no_frame(
    tmp_path: Path, depth: int
) -> None:
    rng = np.random.default_rng(0)
    kind: Any = np.uint8 if depth == 8 else np.uint16

    def noise(height: int, width: int) -> Any:
        return rng.integers(0, 1 << depth, (height, width, 4)).astype(kind)

    spec = ApngSpec(
        frames=[
            ApngFrame(0, 0, noise(12, 16), (0, 100)),
            ApngFrame(2, 3, noise(5, 6), (1, 24), 2, 1 if depth == 8 else 0),
            ApngFrame(1, 1, noise(4, 8), (1001, 30_000), 1),
            ApngFrame(0, 0, noise(12, 16), (7, 0), 1),
        ],
        default=noise(12, 16),
        plays=5,
    )
    path = tmp_path / "in.png"
    path.write_bytes(apng(spec))
    clip, frames = decoded(path)
    assert milliseconds(clip, frames) == pytest.approx([100, 1000 / 24, 1001 / 30, 70], abs=0.01)
    assert clip.form.depth == depth
    assert clip.animation is not None
    assert clip.animation.plays == 5
    for frame, canvas in zip(frames, apng_canvases(spec), strict=True):
        assert distance(rgba(frame), canvas) <= 2


@pytest.mark.parametrize("alpha", ["none", "full", "partial"])
@pytest.mark.parametrize("ending", ["webp", "avif"])
def test_animated_webp_and_avif_give_every_frame(tmp_path: Path, ending: str, alpha: str) -> None:
    images = drawings(5, alpha)
    path = save(tmp_path / f"in.{ending}", images, DURATIONS)
    clip, frames = decoded(path)
    assert milliseconds(clip, frames) == list(DURATIONS)
    assert clip.frames == 5
    assert clip.form.alpha == (alpha != "none")
    for frame, image, other in zip(frames, images, shown(path).images, strict=True):
        assert frame.image.shape == (30, 40, 3 if alpha == "none" else 4)
        if ending == "webp":
            assert distance(rgba(frame), image) == 0
        else:  # Pillow enlarges chroma in another way: compare flat areas
            flat = rgba(frame)[6:12, 24:36].astype(int)
            assert np.abs(flat - other[6:12, 24:36]).max() <= 3
            assert np.abs(rgba(frame)[..., 3].astype(int) - image[..., 3]).max() <= 2


def ten_bits(path: Path, images: list[Any], loop: int = 0) -> Path:
    """Write an AVIF sequence of 10 bits, BT.2020 and PQ."""
    options = {"loop": str(loop)}
    with av.open(str(path), "w", format="avif", container_options=options) as out:
        stream = out.add_stream("libsvtav1", rate=24, options={"crf": "5", "preset": "8"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[..., :3]), format="rgb24")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("plays", [0, 1, 3])
def test_the_loop_count_of_an_avif_is_read(tmp_path: Path, plays: int) -> None:
    path = ten_bits(tmp_path / "in.avif", drawings(2, size=(64, 64)), plays)
    animation = probe_any(path, VideoOptions()).animation
    assert animation is not None
    assert animation.plays == plays
    report = restore(path, tmp_path / "out.apng")
    assert shown(report.target).info["loop"] == plays


def test_an_avif_sequence_keeps_ten_bits_exact_times_and_color_tags(tmp_path: Path) -> None:
    images = drawings(4, size=(64, 64))
    path = ten_bits(tmp_path / "in.avif", images)
    clip, frames = decoded(path)
    assert (clip.form.depth, clip.color.primaries, clip.color.transfer) == (10, 9, 16)
    assert milliseconds(clip, frames) == pytest.approx([1000 / 24] * 4)
    for frame, image in zip(frames, images, strict=True):
        area = frame.image[6:12, 16:24].reshape(-1, 3).mean(axis=0)[::-1] / 257
        assert np.abs(area - image[6:12, 16:24, :3].reshape(-1, 3).mean(axis=0)).max() < 12


@pytest.mark.parametrize("ending", ["webp", "avif"])
def test_animations_resume_and_are_cut_at_any_frame(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"in.{ending}", drawings(8, "full"), [50] * 8)
    clip, whole = decoded(path)
    rest = list(pictures(clip, whole[3].mark()))
    assert [one.pts for one in rest] == [one.pts for one in whole[3:]]
    assert all((a.image == b.image).all() for a, b in zip(rest, whole[3:], strict=True))
    middle = list(pictures(clip, begin=101, until=300))
    assert [one.pts for one in middle] == [150, 200, 250]


def test_a_cut_of_numbered_images_begins_where_it_should(tmp_path: Path) -> None:
    for number, image in enumerate(drawings(8)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[..., 2::-1])
    target = tmp_path / "out" / "%d.png"
    options: dict[str, Any] = {
        "fps": Fraction(10),
        "start": Fraction(3, 10),
        "end": Fraction(6, 10),
    }
    assert restore(tmp_path / "%d.png", target, **options).frames == 3
    for number in (1, 2, 3):
        made = read(tmp_path / "out" / f"{number}.png").pixels
        assert (made == drawings(8)[number + 2][..., 2::-1]).all()


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_animations_become_videos_of_the_same_times(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"in.{ending}", drawings(5), DURATIONS)
    report = restore(path, tmp_path / "out.mp4", 2)
    assert report.frames == 5
    made = parts(report.target)
    assert [float(t) for t in made.times] == pytest.approx([0, 0.04, 0.14, 0.39, 0.42])
    assert made.stream["size"] == (80, 60)


def test_what_a_video_cannot_hold_of_an_animation_is_noted(tmp_path: Path) -> None:
    path = save(tmp_path / "in.png", drawings(3), [100] * 3, loop=4, icc_profile=ICC)
    report = restore(path, tmp_path / "out.mp4")
    lost = ("the ICC profile", "the loop count (4 times)")
    for one in lost:
        assert f"{one} is left out: a video cannot hold it" in report.notes
    report = restore(path, tmp_path / "frames" / "%d.png")
    note = "the loop count (4 times) is left out: a sequence of images cannot hold it"
    assert note in report.notes


def test_an_animation_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "in.webp"
    save(path, drawings(2), [40, 60])
    data = path.read_bytes()
    cut = data.rindex(b"ANMF")  # leave the first frame
    path.write_bytes(data[:4] + (cut - 8).to_bytes(4, "little") + data[8:cut])
    clip, frames = decoded(path)
    assert (clip.frames, len(frames)) == (1, 1)
    assert clip.rate == Fraction(25)
    assert distance(rgba(frames[0]), drawings(1)[0]) == 0


def test_pages_of_a_tiff_are_not_frames(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    first, *rest = (pillow.fromarray(image[..., :3]) for image in drawings(3))
    first.save(path, save_all=True, append_images=rest)
    with pytest.raises(VideoError, match=r"TIFF of 3 pages, which are not the frames of a video"):
        restore(path, tmp_path / "out.mp4")


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_still_images_are_videos_of_one_frame(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.{ending}"
    pillow.fromarray(drawings(1)[0][..., :3]).save(path)
    report = restore(path, tmp_path / "out.mp4")
    assert report.frames == 1
    clip = probe_any(path, VideoOptions())
    assert clip.animation is None


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_upscale_refuses_animations_with_advice_that_works(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"in.{ending}", drawings(3), [100] * 3)
    with pytest.raises(ImageError, match=r"3 frames .* 'resharp video', which writes GIF"):
        read(path)
    assert restore(path, tmp_path / "out.gif").frames == 3


def test_upscale_does_not_advise_a_video_for_pages(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    first, second = (pillow.fromarray(image[..., :3]) for image in drawings(2))
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match=r"2 images .* Split it into single images"):
        read(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_a_truncated_animation_is_an_error_or_noted_never_a_trace(
    tmp_path: Path, ending: str, share: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 30, 40, 4)).astype(np.uint8)
    noise[..., 3] = 255
    path = save(tmp_path / f"in.{ending}", list(noise), [50] * 6)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        report = restore(path, tmp_path / "out.gif")
    except VideoError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert any("truncated" in note or "damaged" in note for note in report.notes)


def test_texts_and_blocks_of_an_apng_are_found(tmp_path: Path) -> None:
    extra = chunk(b"tEXt", b"Title\0A title") + chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    frames = [ApngFrame(0, 0, image[:12, :16], (1, 10)) for image in drawings(2)]
    path = tmp_path / "in.png"
    path.write_bytes(apng(ApngSpec(frames=frames, extra=extra)))
    animation = probe_any(path, VideoOptions()).animation
    assert animation is not None
    assert animation.metadata.text == (("Title", "A title"),)
    assert animation.metadata.exif is not None


ENDS = """
import gc, sys
from resharp.video import VideoOptions
from resharp.video.sequence import probe_any
from resharp.video.source import pictures
for _ in range(20):
    clip = probe_any(sys.argv[1], VideoOptions())
    assert len(list(pictures(clip))) == int(sys.argv[2])
    gc.collect()
"""


@pytest.mark.parametrize("frames", [1, 3])
def test_a_png_with_a_named_icc_profile_does_not_end_the_process(
    tmp_path: Path, frames: int
) -> None:
    path = save(tmp_path / "in.png", drawings(frames), [100] * frames, icc_profile=b"x" * 200)
    command = [sys.executable, "-c", ENDS, str(path), str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_avif_sequence_is_turned_as_its_image_is(tmp_path: Path) -> None:
    data = save(tmp_path / "plain.avif", drawings(2, size=(64, 48)), [100, 100]).read_bytes()
    at = data.index(b"\0\0\0\x10pixi")
    path = tmp_path / "in.avif"  # a quarter turn instead of the number of bits, in as many bytes
    path.write_bytes(data[:at] + b"\0\0\0\x10irot\x03" + bytes(7) + data[at + 16 :])
    report = restore(path, tmp_path / "out.apng", 1)
    assert (report.width, report.height) == (48, 64)
    with pillow.open(tmp_path / "plain.avif") as image:
        wanted = np.rot90(np.asarray(image.convert("RGB")).astype(int), -1)
    assert np.abs(shown(report.target).images[0][..., :3] - wanted).mean() < 4


def test_the_stream_of_an_animation_can_be_named(tmp_path: Path) -> None:
    path = save(tmp_path / "in.webp", drawings(3), [100] * 3, loop=2)
    report = restore(path, tmp_path / "out.apng", 1, stream=0)
    assert report.frames == 3
    assert shown(report.target).info["loop"] == 2


def test_the_transparency_of_a_still_avif_is_kept_or_noted(tmp_path: Path) -> None:
    path = tmp_path / "in.avif"
    pillow.fromarray(drawings(1, "partial", size=(64, 48))[0]).save(path)
    report = restore(path, tmp_path / "out.mkv", 1, codec="ffv1")
    with av.open(str(report.target)) as made:
        assert len(made.streams) == 1
        alpha = next(made.decode(video=0)).to_ndarray(format="rgba")[..., 3]
    assert abs(int(alpha.min()) - 128) <= 2
    assert alpha.max() == 255
    report = restore(path, tmp_path / "out.mp4", 1)
    assert any("transparency is left out" in note for note in report.notes)
    with pytest.raises(OptionError, match="images have no streams"):
        restore(path, tmp_path / "b.mp4", 1, stream=1)


def test_what_a_still_image_states_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "in.jpg"
    image = pillow.fromarray(drawings(1)[0][..., :3])
    image.save(path, comment=b"by me", dpi=(300, 300), icc_profile=ICC)
    report = restore(path, tmp_path / "out.mp4")
    assert "comments and texts are left out: the result cannot hold them" in report.notes
    assert "the resolution is left out: the result cannot hold it" in report.notes
    assert "ICC profile of the frames cannot be kept" in report.notes


def test_the_transparent_gray_of_a_png_of_one_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    image = pillow.new("1", (32, 24))
    image.paste(1, (0, 0, 8, 24))
    image.save(path, transparency=1)
    report = restore(path, tmp_path / "out.apng", 1)
    alpha = shown(report.target).images[0][..., 3]
    assert (alpha[:, :8] == 0).all()
    assert (alpha[:, 8:] == 255).all()
    report = restore(path, tmp_path / "out.mp4", 1)
    assert any("transparency is left out" in note for note in report.notes)


def test_what_a_still_png_says_about_colors_is_kept_or_noted(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    info = pytest.importorskip("PIL.PngImagePlugin").PngInfo()
    info.add(b"gAMA", (60_000).to_bytes(4, "big"))
    pillow.fromarray(drawings(1)[0][..., :3]).save(path, pnginfo=info)
    report = restore(path, tmp_path / "out.mp4")
    assert "the color space (gamma 1.67) is left out: a video cannot hold it" in report.notes
    restore(path, tmp_path / "out.apng")
    with pillow.open(tmp_path / "out.apng") as image:
        assert image.info["gamma"] == 0.6
