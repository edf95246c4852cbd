"""The report is complete, valid and self-contained, and its plots match the records."""

from __future__ import annotations

import base64
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.bench.cases import SUBJECTS
from resharp.bench.records import Estimate, Record, Records, ResolvedCase
from resharp.bench.report import figures, formatting, write_report
from resharp.errors import MissingExtraError
from tests.bench import kit
from tests.waiting import LIMIT

VOID = {"meta", "img"}
NASTY = "model-$x$-<b>&\"'|*_`-한-" + "long-" * 20


@pytest.fixture(autouse=True)
def _drawing() -> None:
    for library in ("matplotlib", "jinja2"):
        pytest.importorskip(library, reason=f"needs {library} (pip install 'resharp[bench]')")


class Page(HTMLParser):
    """Tags that are open, text, images, and attributes that would fetch something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.fetched: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attrs)
        for name in ("src", "href", "srcset", "data"):
            if not (values.get(name) or "data:").startswith("data:"):
                self.fetched.append(str(values[name]))
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def written(records: Records, folder: Path) -> tuple[Page, tuple[Path, ...]]:
    """The page of a report and all its files."""
    files = write_report(records, folder)
    assert sorted(files) == sorted(folder.iterdir())
    assert files[0].name == "report.html"
    html = files[0].read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert "<script" not in html
    assert "url(" not in html
    assert "@import" not in html
    page = Page(html)
    assert page.open == []
    assert page.fetched == []
    assert page.counts["title"] == page.counts["h1"] == 1
    return page, files


@pytest.mark.slow
def test_a_run_on_a_gpu_has_every_plot_and_every_case(tmp_path: Path) -> None:
    records = kit.gpu(tiles=(128, "whole"), lanes=(1,))
    page, files = written(records, tmp_path / "new" / "folder")
    kinds = [path.name.split("-resharp")[0] for path in files[1:]]
    assert kinds == ["memory-gpu", "memory-host", "tiles-gpu", "stages-gpu", "stages-cpu", "speed"]
    assert len(page.images) == len(kinds)
    for image, path in zip(page.images, files[1:], strict=True):
        assert len(image["alt"] or "") > 30
        assert base64.b64decode((image["src"] or "").partition(",")[2]) == path.read_bytes()
        drawn = cv2.imread(str(path))
        assert drawn is not None
        assert drawn.shape[1] == 1125
        assert np.ptp(drawn) == 255
        assert (drawn[:2] == 255).all(), "something is cut at the top"
    text = " ".join(page.text)
    for expected in ("66.0 dB, 1 level", "Some CPU <32 threads>", "0123abc", "1.23 %", "0.390 %"):
        assert expected in text
    for failure in kit.FAILURES:
        assert failure.reason in text
        assert failure.case.id in text
    rows = page.counts["tr"]
    assert rows > len(records.cases)


def test_a_run_on_the_cpu_says_so(tmp_path: Path) -> None:
    page, files = written(kit.cpu(), tmp_path)
    assert [path.name.split("-resharp")[0] for path in files[1:]] == [
        *("memory-host", "tiles-cpu", "stages-cpu", "speed")
    ]
    assert "Speed on the CPU against upstream: resharp-x4, 640x360." in page.text


def test_a_run_without_figures_says_why(tmp_path: Path) -> None:
    page, files = written(kit.failures(), tmp_path)
    assert len(files) == 1
    text = " ".join(page.text)
    assert "No plots: no case was measured." in text
    assert "Noise was not measured." in text
    assert "exit code 139 | <segmentation fault> & more" in text


def test_one_case_has_the_plots_it_has_data_for(tmp_path: Path) -> None:
    page, files = written(kit.single(), tmp_path)
    assert len(files) == 2
    text = " ".join(page.text)
    for kind in ("scaling with tile size", "time by stage", "speed against the baseline"):
        assert f"resharp-x4, 640x360: {kind}" in text


def test_figures_that_are_missing_are_dashes(tmp_path: Path) -> None:
    bare = Record(run="r", case=kit.record().case, status="measured")
    page, files = written(Records(kit.run(), (bare,)), tmp_path)
    assert len(files) == 1
    assert page.text.count("-") >= 12


@pytest.mark.slow
def test_names_of_any_letters_are_drawn_and_escaped(tmp_path: Path) -> None:
    records = kit.gpu([NASTY, NASTY + "2"], tiles=(128, 256), lanes=(1,), batches=(None,))
    page, files = written(records, tmp_path)
    names = [path.name for path in files]
    assert len(set(names)) == len(names) == 13
    assert all(re.fullmatch(r"[a-z0-9._-]{1,100}", name) for name in names)
    assert f"{NASTY}, image size 640x360" in page.text


@pytest.mark.slow
def test_labels_that_find_no_room_are_counted(tmp_path: Path) -> None:
    crowd = [
        replace(kit.record("torch", tile=64 + i, lanes=2), memory=kit.record().memory)
        for i in range(60)
    ]
    page, _ = written(Records(kit.run(), tuple(crowd)), tmp_path)
    found = re.search(r"(\d+) labels did not fit; see the table of cases", " ".join(page.text))
    assert found is not None
    assert 0 < int(found[1]) < 60


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_its_libraries_nothing_is_written(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resharp\[bench\]'"):
        write_report(kit.cpu(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_matplotlib_waits_and_pyplot_is_not_touched() -> None:
    code = (
        "import sys, pathlib, tempfile; from resharp.bench.report import write_report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from tests.bench import kit\n"
        "write_report(kit.single(), pathlib.Path(tempfile.mkdtemp()))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT)


def overlap(one: Any, two: Any) -> bool:
    return bool(one.count_overlaps([two]))


def test_labels_cover_no_marker_no_label_and_no_line() -> None:
    from matplotlib.transforms import Bbox

    rng = np.random.default_rng(4)
    points = [(float(x), float(y)) for x, y in rng.uniform(5, 95, (40, 2))]
    steps = [(10.0, 40.0), (50.0, 60.0), (100.0, 60.0)]
    boxes = []
    for _ in range(2):
        made, axes = figures.figure(5.0, "title", "x")
        axes.set(xlim=(0, 100), ylim=(0, 100))
        left_out = figures.label_points(made, axes, points, ["512 b4"] * 40, steps)
        made.draw_without_rendering()
        boxes.append([label.get_window_extent() for label in axes.texts])
        assert len(boxes[-1]) == 40 - left_out > 30
    assert [box.bounds for box in boxes[0]] == [box.bounds for box in boxes[1]]
    frame, radius = axes.get_window_extent(), figures.MARKER / 2 * figures.DPI / 72
    pixels = axes.transData.transform(points)
    markers = [Bbox([[x, y], [x, y]]).padded(radius) for x, y in pixels]
    corners = axes.transData.transform([(10.0, 40.0), (50.0, 40.0), (50.0, 60.0), (100.0, 60.0)])
    lines = [Bbox([one, two]) for one, two in itertools.pairwise(corners)]
    assert not any(overlap(one, two) for one, two in itertools.combinations(boxes[1], 2))
    assert not any(overlap(one, two) for one, two in itertools.product(boxes[1], markers + lines))
    for box in boxes[1]:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


def test_a_label_without_room_is_left_out() -> None:
    made, axes = figures.figure(5.0, "title", "x")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    assert figures.label_points(made, axes, [(50.0, 50.0)], ["long " * 40], [(0, 0), (1, 1)]) == 1
    assert len(axes.texts) == 0


def test_every_subject_has_a_look() -> None:
    assert set(figures.LOOKS) == set(SUBJECTS)
    assert len(set(figures.LOOKS.values())) == len(SUBJECTS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (99.95, "100"),
        (1234.5, "1230"),
        (0.012345, "0.0123"),
        (-2.5, "-2.50"),
        (1.5e12, "1500000000000"),
        (float("nan"), "nan"),
        (None, "-"),
    ],
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert formatting.digits(value) == text


def test_the_best_case_goes_by_the_ratio_where_all_have_one() -> None:
    slow, fast = kit.record("torch", tile=128), kit.record("torch", tile=512)
    steady = replace(slow, ratio=Estimate(median=9.0, low=8.0, high=10.0))
    assert formatting.best([steady, fast]) == {"torch": steady}
    assert formatting.best([replace(steady, ratio=None), fast]) == {"torch": fast}
    assert formatting.best([replace(fast, rates=None)]) == {}
    assert list(formatting.best([kit.record("upstream"), fast])) == ["torch", "upstream"]


def test_peak_memory_is_of_where_it_ran() -> None:
    on_gpu, on_cpu = kit.record("torch"), kit.record("onnx", gpu=False)
    assert on_gpu.memory is not None
    assert on_cpu.memory is not None
    assert on_gpu.peak_memory == on_gpu.memory.device
    assert on_cpu.peak_memory == on_cpu.memory.host
    assert replace(on_gpu, memory=replace(on_gpu.memory, device=None)).peak_memory is None
    assert replace(on_gpu, memory=None).peak_memory is None
    assert not replace(on_gpu, actual=None).on_gpu


def test_cases_in_few_words() -> None:
    case = kit.record("torch", tile=256, batch=4, lanes=2)
    assert (formatting.title(case), formatting.series(case)) == (
        "torch 256 b4 L2",
        "torch, batch 4, lanes 2",
    )
    auto = kit.record("onnx", tile="auto", gpu=False)
    assert (formatting.point(auto), formatting.tile(auto)) == ("whole auto", "whole (auto)")
    asked = replace(auto, actual=None)
    assert formatting.tile(asked) == "auto"
    odd = replace(auto.case, precision="fp32", threads=1)
    used = ResolvedCase(backend="onnx", device="cpu", tile=96)
    assert formatting.title(replace(auto, case=odd, actual=used)) == "onnx 96 auto t1 fp32"
    assert formatting.title(kit.record("upstream")) == "upstream"


def test_an_environment_is_rows_of_text() -> None:
    rows = formatting.environment_rows(
        {"zeta": 1.23456, "gpu": {"memory (bytes)": 2**30, "clocks": [1, 2]}, "cpu": "x", "b": None}
    )
    assert rows == [
        ("cpu", "x"),
        ("gpu", "clocks 1, 2, memory 1.0 GiB"),
        ("b", "-"),
        ("zeta", "1.235"),
    ]


@pytest.mark.slow
def test_many_lines_are_parted_by_lanes_and_slow_subjects_keep_the_line_at_one(
    tmp_path: Path,
) -> None:
    records = kit.gpu(tiles=(128, 256), lanes=(1, 2, 3))
    _, files = written(records, tmp_path / "many")
    names = [path.name for path in files if path.name.startswith("tiles")]
    assert [name.split("-resharp")[0] for name in names] == [
        f"tiles-gpu-lanes-{lanes}" for lanes in (1, 2, 3)
    ]
    slow = replace(kit.record("torch"), ratio=kit.estimate(0.1))
    _, files = written(Records(kit.run(), (slow,)), tmp_path / "slow")
    assert (tmp_path / "slow" / "speed-resharp-x4-640x360.png") in files
