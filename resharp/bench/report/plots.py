"""The four kinds of plots: throughput against memory and by tile, time by stage, best speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resharp.bench.records import Estimate, Record, group_by, pareto_front
from resharp.bench.report import figures
from resharp.bench.report import formatting as fmt
from resharp.bench.report.figures import Plot

THROUGHPUT = "throughput, input megapixels per second"
MEMORY_READING = (
    "Up and to the left is better. The stepped line is the Pareto front: the highest speed "
    "measured within each amount of memory. Labels are tile sizes in pixels (b: batch, L: lanes, "
    "t: threads); hollow markers are baselines."
)
WHOLE_DEVICE = (
    " Memory is the increase of the whole GPU's memory since before the case, because the driver "
    "does not report it per process."
)
TILES_READING = (
    "Horizontal dashed lines are baselines, which do not depend on the tile size. Whiskers are the "
    "95 % confidence interval of the median."
)
MOST_LINES = 9
"""Maximum number of lines in a plot by tile; if there are more, each lane count gets a plot."""
DASHES = ((0, ()), (0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (10, 4)), (0, (1, 5)))
"""Dash patterns of a subject's lines, which differ by batch, lanes, threads or precision."""
BASELINE_DASHES = ((0, (5, 4)), (0, (2, 3)), (0, (7, 3, 1, 3)), (0, (3, 2, 3, 5)))
STAGES = {
    "read": ("#cfe3f3", "///"),
    "upload": ("#7fb2dd", "..."),
    "compute": ("#0072b2", ""),
    "download": ("#e8b26a", "xxx"),
    "write": ("#f6e3c5", "\\\\\\"),
}
"""Color and hatch of each stage; light and dark alternate for black-and-white printing."""
PER_PLOT = 24
"""Maximum number of bars in a figure of stages, so that it fits on a page."""
STAGES_READING = (
    "Each stage was measured separately. The number at the end of a bar is the sum, which exceeds "
    "the time per image if stages overlap. A stage without a bar was not measured."
)
SPEEDS_READING = (
    "The fastest case of each subject. Whiskers are the 95 % confidence interval of the median "
    "ratio, measured pair by pair; hatched bars are baselines."
)
ONE = Estimate(median=1.0, low=1.0, high=1.0)


def draw_memory(name: str, records: Sequence[Record]) -> list[Plot]:
    """Draw one plot for cases on the GPU and one for the others: their memory is not comparable."""
    known = [r for r in records if r.peak_memory is not None and r.megapixels is not None]
    return [_memory_plot(name, group, gpu) for gpu, group in fmt.by_device(known)]


def _memory_plot(name: str, records: Sequence[Record], gpu: bool) -> Plot:
    where = "of the GPU" if gpu else "of the host"
    title = f"Throughput against peak memory {where}: {name}"
    made, axes = figures.figure(5.2, title, f"peak memory {where}, MiB", THROUGHPUT)
    points = [_point(r) for r in records]
    figures.scale(axes, "x", [x for x, _ in points], margin=0.13)
    figures.scale(axes, "y", [y for _, y in points], margin=0.12)
    front = pareto_front(points)
    steps = [*(points[i] for i in front), (axes.get_xlim()[1], points[front[-1]][1])]
    xs, ys = zip(*steps, strict=True)
    axes.step(xs, ys, where="post", color="#555555", zorder=1, label="Pareto front")
    for subject, group in group_by(records, lambda r: r.case.subject).items():
        xs, ys = zip(*map(_point, group), strict=True)
        look = figures.look(group[0])
        axes.plot(xs, ys, linestyle="none", markersize=figures.MARKER, label=subject, **look)
    figures.legend(made, axes)
    order = [*front, *(i for i in range(len(points)) if i not in front)]
    texts = [fmt.point(records[i]) for i in order]
    left_out = figures.label_points(made, axes, [points[i] for i in order], texts, steps)
    named = (
        f"{fmt.title(records[i])} ({points[i][0]:.0f} MiB, {fmt.digits(points[i][1])} MP/s)"
        for i in front
    )
    count = f"{len(points)} case{'' if len(points) == 1 else 's'}"
    alt = f"{count} by peak memory {where} and throughput. On the Pareto front: {'; '.join(named)}."
    caption = MEMORY_READING
    if gpu and any(r.memory and "device" in r.memory.device_by for r in records):
        caption += WHOLE_DEVICE
    if left_out:
        caption += f" {left_out} labels did not fit; see the table of cases."
    stem = figures.stem("memory", "gpu" if gpu else "host", name)
    return Plot(f"{stem}.png", title, alt, caption, figures.to_png(made))


def draw_tiles(name: str, records: Sequence[Record]) -> list[Plot]:
    """Draw plots for the GPU and for the CPU if at least two tile sizes were measured there."""
    plots = []
    for gpu, group in fmt.by_device(r for r in records if r.megapixels is not None):
        tiled = [r for r in group if not r.case.is_baseline]
        if len({_side(r) for r in tiled}) < 2:
            continue
        device = "GPU" if gpu else "CPU"
        many = len(set(map(fmt.series, tiled))) > MOST_LINES
        parts = group_by(tiled, lambda r: r.case.lanes) if many else {0: tiled}
        for lanes, part in sorted(parts.items()):
            which = [f"lanes {lanes}"] if many else []
            title = ", ".join([f"Throughput by tile size on the {device}", *which])
            stem = figures.stem("tiles", device, *which, name)
            plots.append(_tiles_plot(f"{title}: {name}", stem, part, group))
    return plots


def _tiles_plot(title: str, stem: str, tiled: Sequence[Record], group: Sequence[Record]) -> Plot:
    """Draw a plot whose axes cover the whole group, so that the plots of a group are comparable."""
    lines = group_by(tiled, fmt.series)
    baselines = [r for r in group if r.case.is_baseline]
    height = 4.4 + 0.11 * (len(lines) + len(baselines))
    made, axes = figures.figure(height, title, "tile size, input pixels", THROUGHPUT)
    figures.log_ticks(axes, sorted({_side(r) for r in group if not r.case.is_baseline}))
    rates = [_speed(r) for r in group]
    figures.scale(axes, "y", rates)
    if axes.get_yscale() == "linear":
        axes.set_ylim(0.0, max(rates) * 1.12)  # heights are comparable only from zero
    drawn, texts = list[str](), []
    for label, line in lines.items():
        line.sort(key=_side)
        subject, look = line[0].case.subject, figures.look(line[0])
        dashes = DASHES[drawn.count(subject) % len(DASHES)]
        sides, speeds = [_side(r) for r in line], [_speed(r) for r in line]
        whiskers = list(zip(*map(_whiskers, line), strict=True))
        axes.errorbar(sides, speeds, whiskers, linestyle=dashes, capsize=2.5, label=label, **look)
        top = max(line, key=_speed)
        texts.append(f"{label}: fastest at {_side(top)}, {fmt.digits(_speed(top))} MP/s")
        drawn.append(subject)
    for index, record in enumerate(baselines):  # their speed does not depend on the tile
        dashes = BASELINE_DASHES[index % len(BASELINE_DASHES)]
        style = figures.look(record) | {"linestyle": dashes, "clip_on": False}
        label = f"{fmt.series(record)} (baseline)"
        axes.plot(axes.get_xlim(), [_speed(record)] * 2, label=label, **style)
    figures.legend(made, axes)
    caption = TILES_READING
    if any(r.actual and r.actual.tile is None for r in tiled):
        caption += " Images that ran whole are placed at their longer side."
    alt = f"Throughput by tile size. {'; '.join(texts)}."
    return Plot(f"{stem}.png", title, alt, caption, figures.to_png(made))


def _speed(record: Record) -> float:
    return record.megapixels or 0.0


def _point(record: Record) -> tuple[float, float]:
    return (record.peak_memory or 0) / 2**20, _speed(record)


def _side(record: Record) -> int:
    """Return the largest side of a tile, or of the image if it ran whole."""
    used = record.actual.tile if record.actual else None
    return max(record.case.height, record.case.width) if used is None else used


def _whiskers(record: Record) -> tuple[float, float]:
    """Return the lengths below and above the rate, converted from the interval of the seconds."""
    rate, time = _speed(record), record.seconds
    if time is None:
        return 0.0, 0.0
    return abs(rate - rate * time.median / time.high), abs(rate * time.median / time.low - rate)


def draw_stages(name: str, records: Sequence[Record]) -> list[Plot]:
    """Draw plots for the GPU and for the CPU, with at most :data:`PER_PLOT` bars each."""
    plots = []
    for gpu, group in fmt.by_device(r for r in records if _stages(r)):
        count = -(-len(group) // PER_PLOT)
        size = -(-len(group) // count)
        longest = max(sum(_stages(r).values()) for r in group)  # one scale for all
        for number in range(count):
            title = f"Time by stage on the {'GPU' if gpu else 'CPU'}: {name}"
            file = figures.stem("stages", "gpu" if gpu else "cpu", name)
            if count > 1:
                title, file = f"{title} ({number + 1} of {count})", f"{file}-{number + 1}"
            part = group[number * size : (number + 1) * size]
            plots.append(_stages_plot(title, f"{file}.png", part, longest))
    return plots


def _stages(record: Record) -> dict[str, float]:
    """Return the milliseconds of each measured stage."""
    values = {stage: getattr(record.stages, stage, None) for stage in STAGES}
    return {stage: 1000 * value for stage, value in values.items() if value is not None}


def _stages_plot(title: str, file: str, records: Sequence[Record], longest: float) -> Plot:
    made, axes = figures.figure(1.7 + 0.29 * len(records), title, "milliseconds per image")
    bars, ends = [_stages(r) for r in records], [0.0] * len(records)
    for stage in (name for name in STAGES if any(name in bar for bar in bars)):
        widths, (color, hatch) = [bar.get(stage, 0.0) for bar in bars], STAGES[stage]
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "#333333"}
        style |= {"left": ends, "height": 0.68, "linewidth": 0.5}
        axes.barh(range(len(bars)), widths, label=stage, **style)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for index, end in enumerate(ends):
        axes.text(end + 0.01 * longest, index, fmt.digits(end), va="center", fontsize=8.5)
    axes.set_xlim(0, longest * 1.13 or 1.0)
    names = [fmt.title(r) for r in records]
    figures.rows(axes, names)
    figures.legend(made, axes, columns=5)
    texts = [", ".join(f"{stage} {fmt.digits(ms)}" for stage, ms in bar.items()) for bar in bars]
    named = (f"{name}: {text}" for name, text in zip(names, texts, strict=True))
    alt, caption = f"Milliseconds by stage. {'; '.join(named)}.", STAGES_READING
    ways = sorted({r.stages.by for r in records if r.stages and r.stages.by})
    if ways:
        caption += f" Stages were separated by: {'; '.join(ways)}."
    return Plot(file, title, alt, caption, figures.to_png(made))


def draw_speeds(name: str, records: Sequence[Record]) -> list[Plot]:
    """Draw a plot of the best speeds if any case was paired with a baseline."""
    best = fmt.best(records)
    paired = [r for r in best.values() if r.baseline and r.ratio and r.case.subject != r.baseline]
    if not paired:
        return []
    bases = sorted({r.baseline for r in paired if r.baseline})
    shown = [r for r in best.values() if r in paired or r.case.subject in bases]
    ratios = [(r.ratio if r in paired else None) or ONE for r in shown]
    place = "" if any(r.on_gpu for r in records) else " on the CPU"
    title = f"Speed{place} against {' or '.join(bases)}: {name}"
    unit = f"speed relative to {' or '.join(bases)}; above 1 is faster"
    made, axes = figures.figure(1.7 + 0.42 * len(shown), title, unit)
    top = max(1.0, *(ratio.high for ratio in ratios))
    names, texts = [], []
    for index, (record, ratio) in enumerate(zip(shown, ratios, strict=True)):
        color, hollow = figures.LOOKS[record.case.subject][0], record.case.is_baseline
        face, hatch = ("white", "////") if hollow else (color, "")
        style: dict[str, Any] = {"color": face, "edgecolor": color, "hatch": hatch}
        axes.barh(index, ratio.median, height=0.62, zorder=2, **style)
        if ratio is not ONE:
            ends = [[abs(ratio.median - ratio.low)], [abs(ratio.high - ratio.median)]]
            axes.errorbar(ratio.median, index, xerr=ends, color="black", capsize=4, zorder=3)
        end = max(ratio.high, ratio.median) + 0.015 * top
        if end < 1.0 < end + 0.1 * top:  # keep the text clear of the line at 1
            end = 1.0 + 0.015 * top
        text = "1 (baseline)" if ratio is ONE else fmt.digits(ratio.median)
        axes.text(end, index, text, va="center", fontsize=9, zorder=4)
        label = fmt.title(record)
        several = len(bases) > 1 and record in paired
        names.append(f"{label} (to {record.baseline})" if several else label)
        texts.append(f"{label} {'1, the baseline' if ratio is ONE else fmt.estimate(ratio)}")
    axes.axvline(1.0, color="black", linewidth=1.1, linestyle=(0, (4, 2)), zorder=2.5)
    axes.set_xlim(0, top * 1.24)
    figures.rows(axes, names)
    left_out = [subject for subject, record in best.items() if record not in shown]
    alt, caption = f"Speed relative to the baseline. {'; '.join(texts)}.", SPEEDS_READING
    if left_out:
        caption += f" Not shown because not measured in pairs: {', '.join(left_out)}."
    return [Plot(f"{figures.stem('speed', name)}.png", title, alt, caption, figures.to_png(made))]
