"""Animated images as output: GIF, APNG and WebP, made from lossless segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from pathlib import Path

from resharp.errors import OptionError, OutputError
from resharp.images.transfer import cannot_hold
from resharp.video.animation_writers import WRITERS, AnimationFrames, Scheduled
from resharp.video.clip import Clip
from resharp.video.color import FULL, RGB, Color, pixel_format
from resharp.video.container_choice import ANIMATIONS, MuxPlan, left_out_of_images
from resharp.video.encoding import VideoEncoder, choose_encoder
from resharp.video.muxing import recorded_result
from resharp.video.options import VideoOptions
from resharp.video.resume import Segment


@dataclass(frozen=True, kw_only=True)
class AnimatedFormat:
    """What an animated format can hold."""

    name: str
    unit: Fraction | None
    """Unit of durations in seconds; None: any."""
    shortest: Fraction
    """Seconds that a frame must last, as browsers show shorter ones for 100 ms."""
    longest: Fraction
    """Seconds that a frame can last."""
    side: int
    """Largest width and height in pixels."""
    depth: int
    plays: int
    """How often it can be played at most, if not forever."""
    keeps: frozenset[str] | None
    """What :meth:`Animation.lost_in` need not say; None: the writer says what is lost."""


ANIMATED = {
    "gif": AnimatedFormat(
        name="GIF", unit=Fraction(1, 100), shortest=Fraction(2, 100), longest=Fraction(655),
        side=65_535, depth=8, plays=65_536, keeps=frozenset({"plays", "xmp", "text"}),
    ),
    "webp": AnimatedFormat(
        name="WebP", unit=Fraction(1, 1000), shortest=Fraction(11, 1000), longest=Fraction(16_777),
        side=16_383, depth=8, plays=65_535, keeps=None,
    ),
    "apng": AnimatedFormat(
        name="APNG", unit=None, shortest=Fraction(11, 1000), longest=Fraction(65_535),
        side=1_000_000, depth=16, plays=65_535, keeps=None,
    ),
}  # fmt: skip
"""Animated formats by :attr:`MuxPlan.format`."""


def animation_plan(target: Path, clip: Clip, options: VideoOptions) -> MuxPlan | None:
    """Return how to write an animated image; None if the target is something else.

    Args:
        target: path of the result as requested.
        clip: the input.
        options: options of the video.

    Raises:
        OptionError: an option has no meaning for an animated image.
    """
    name = ANIMATIONS.get(target.suffix.lower())
    if target.suffix.lower() == ".png" and clip.animation is not None:
        name = "apng"
    if name is None:
        return None
    form = ANIMATED[name]
    meaningless = {"codec": options.codec != "auto"}
    for option in ("encoder", "crf", "preset", "pixel_format"):
        meaningless[option] = getattr(options, option) is not None
    for option, given in meaningless.items():
        if given:
            raise OptionError(f"`{option}` has no meaning for {form.name}: leave it out")
    return MuxPlan(target, name, notes=tuple(_losses(form, clip)))


def _losses(form: AnimatedFormat, clip: Clip) -> Iterator[str]:
    """Yield notes about what the format cannot hold, whatever the frames are."""
    if clip.form.depth > form.depth:
        yield f"colors are rounded to {form.depth} bits, the most that {form.name} holds"
    if clip.aspect is not None and form.name != "APNG":
        yield f"the pixel aspect ratio is left out: {form.name} cannot hold it"
    if clip.animation is not None:
        if form.keeps is not None:
            yield from clip.animation.lost_in(form.name, form.keeps)
        if clip.animation.plays > form.plays:
            plays = clip.animation.plays
            most = f"{form.plays} instead of {plays}, the most that {form.name} holds"
            yield f"the loop count is {most}"
    elif clip.files and clip.icc is not None and form.name == "GIF":
        yield cannot_hold(form.name, "icc")
    yield from left_out_of_images(clip, form.name)


def animation_encoder(
    clip: Clip, options: VideoOptions, width: int, height: int, threads: int
) -> VideoEncoder:
    """Return the encoder of segments that :func:`write_animation` reads: lossless RGB."""
    deep = clip.form.depth > 8
    names = {(False, False): "bgr0", (False, True): "bgra", (True, False): "gbrp16le"}
    form = pixel_format(names.get((deep, clip.form.alpha), "gbrap16le"))
    form = replace(form, alpha=clip.form.alpha)
    color = Color(FULL, RGB, clip.color.primaries, clip.color.transfer)
    rgb = replace(clip, form=form, color=color)
    made = choose_encoder(rgb, replace(options, codec="ffv1"), width, height, threads)
    return replace(made, form=form, color=color, width=width, height=height, notes=())


def check_side(plan: MuxPlan, clip: Clip, width: int, height: int) -> None:
    """Check that the format can hold images of a size.

    Raises:
        OutputError: it cannot.
    """
    form = ANIMATED[plan.format]
    if max(width, height) > form.side:
        raise OutputError(
            f"{clip.path} would become {width}x{height} pixels, but {form.name} holds at most "
            f"{form.side} a side: use a smaller `scale`, or another format"
        )


def schedule(
    times: Sequence[int], end: int, base: Fraction, form: AnimatedFormat
) -> tuple[Scheduled, Fraction, tuple[str, ...]]:
    """Return which frames to write, and how long to show each.

    Times are rounded as such, not durations, so that the total stays right.

    Args:
        times: timestamps in ticks.
        end: end of the last frame, in ticks.
        base: seconds per tick.
        form: format of the result.

    Returns:
        Number and duration of each frame to write (a number is repeated if the frame lasts too
        long), seconds per unit of these durations, and notes for the user.
    """
    unit = base if form.unit is None else form.unit
    exact = [(time - times[0]) * base / unit for time in (*times, end)]
    edges = [floor(edge + Fraction(1, 2)) for edge in exact]
    least, most = -(-form.shortest // unit), int(form.longest // unit)
    kept = [0]
    for number, edge in enumerate(edges[1:-1], start=1):
        if edge - edges[kept[-1]] >= least:
            kept.append(number)
    ends = [*(edges[number] for number in kept[1:]), max(edges[-1], edges[kept[-1]] + least)]
    made: Scheduled = []
    for number, stop in zip(kept, ends, strict=True):
        left = stop - edges[number]
        while left > most:  # not less than the shortest for the rest
            made.append((number, most - least))
            left -= most - least
        made.append((number, left))
    notes = []
    if len(kept) < len(times):
        dropped, rate = len(times) - len(kept), floor(1 / form.shortest)
        notes.append(
            f"frames are left out ({dropped}): {form.name} is shown with at most {rate} a second"
        )
    if any(edge.denominator != 1 for edge in exact):
        name = "hundredths of a second" if form.unit == Fraction(1, 100) else "milliseconds"
        notes.append(f"{form.name} rounds timestamps to {name}")
    return made, unit, tuple(notes)


def write_animation(
    plan: MuxPlan,
    clip: Clip,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
    record: Callable[[Path], object],
) -> tuple[str, ...]:
    """Write an animated image from finished segments, completely or not at all.

    Args:
        plan: path and format of the result.
        clip: the input.
        encoder: encoder settings of the segments, from :func:`animation_encoder`.
        segments: all segments, in order.
        folder: folder of the segments.
        record: called with the complete file before it takes its name.

    Returns:
        Notes for the user.

    Raises:
        OutputError: the result cannot be written.
    """
    form = ANIMATED[plan.format]
    base, times = encoder.time_base, [time for one in segments for time in one.times]
    usual = max(round(1 / (encoder.rate * base)), 1)
    end = times[-1] + (segments[-1].duration or usual)
    shown, unit, notes = schedule(times, end, base, form)
    with recorded_result(plan.target, folder, record) as part:
        frames = AnimationFrames(clip, encoder, segments, folder, shown, unit)
        frames.plays = min(frames.plays, form.plays)
        return (*notes, *WRITERS[plan.format](part, frames))
