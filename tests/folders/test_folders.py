"""Folders: the journal's rules, batches, memory, errors in the middle, and no thread left."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import ImageError, OptionError, OutputError
from resharp.folders import FolderReport, FolderRun, Job, Output, Result, restore_folder
from resharp.folders.output_state import OutputState
from resharp.folders.stages import READERS, WRITERS, read, restore_batch
from resharp.folders.watcher import FolderWatcher
from resharp.fsutil import write_whole
from resharp.outputs import SPARE, Journal, JournalEntry
from resharp.pipeline.restorer import RestoreConfig, Restorer
from tests.waiting import LIMIT, joined, until

pytestmark = pytest.mark.processes

JOURNAL = ".resharp/journal.jsonl"
LEFT = {"journal.jsonl"}
"""All files that a run leaves in its .resharp folder."""


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def save(path: str, height: int = 12, width: int = 16, seed: int = 0) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(path, draw(height, width, seed))
    return Path(path)


def several(count: int, folder: str = "in") -> list[str]:
    return [save(f"{folder}/{n:02}.png", seed=n).name for n in range(count)]


def counts(report: FolderReport) -> tuple[int, int, int]:
    return report.count("restored"), report.count("skipped"), report.count("failed")


def lines() -> list[JournalEntry]:
    found = map(JournalEntry.parse, Path("out", JOURNAL).read_bytes().splitlines())
    return [entry for entry in found if entry is not None]


def left(root: str = "out") -> set[str]:
    return {path.name for path in Path(root, ".resharp").rglob("*") if path.is_file()}


def pixels(path: str) -> Any:
    return cv2.imread(path)


def test_a_tree_is_restored_once_and_reported(config: RestoreConfig) -> None:
    save("in/a.png")
    save("in/sub/b.jpg", 10, 20)
    seen: list[Result] = []
    shares: list[tuple[float, float]] = []
    report = restore_folder(
        "in",
        "out",
        config=config,
        on_result=seen.append,
        progress=lambda d, t: shares.append((d, t)),
    )
    assert counts(report) == (2, 0, 0)
    assert sorted(r.output for r in seen) == [
        str(Path("out/a.png")),
        str(Path("out/sub/b.jpg")),
    ]
    assert list(shares[-1]) == [2, 2]
    assert [s[0] for s in shares] == sorted(s[0] for s in shares)
    assert [stage.name for stage in report.stages] == ["claim", "read", "restore", "write"]
    assert {stage.items for stage in report.stages} == {2}
    assert report.megapixels_per_second == pytest.approx(1568e-6 / report.seconds)
    assert all(0 <= share <= 1 for share in report.waiting().values())
    assert left() == LEFT
    again = restore_folder("in", "out", config=config)
    assert counts(again) == (0, 2, 0)
    assert again.upscaler is None  # no model was opened
    assert len(lines()) == 2


def test_what_is_there_of_a_truncated_file_is_restored_on_request(config: RestoreConfig) -> None:
    whole = save("in/a.png", 40, 30).read_bytes()
    Path("in/a.png").write_bytes(whole[: len(whole) * 2 // 3])
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (0, 0, 1)
    assert "or use `allow_truncated` to restore the readable part" in str(report.results[0].error)
    report = restore_folder("in", "out", config=config, allow_truncated=True)
    assert counts(report) == (1, 0, 0)
    assert report.results[0].notes[0].startswith("the file is truncated: the last ")
    assert pixels("out/a.png").shape == (80, 60, 3)
    for allow_truncated in (True, False):  # it is finished either way
        report = restore_folder("in", "out", config=config, allow_truncated=allow_truncated)
        assert counts(report) == (0, 1, 0)
    Path("in/a.png").write_bytes(whole)
    report = restore_folder("in", "out", config=config, allow_truncated=True)
    assert counts(report) == (1, 0, 0)
    assert report.results[0].redone
    assert not report.results[0].notes


def test_what_changed_is_redone(config: RestoreConfig) -> None:
    several(3)
    restore_folder("in", "out", config=config)
    before = pixels("out/01.png")
    save("in/01.png", seed=9)
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (1, 2, 0)
    assert "1 restored (1 redone: input, model or options changed), 2 skipped" in report.summary()
    assert np.any(pixels("out/01.png") != before)
    scaled = config.on(scale=3.0)
    assert counts(restore_folder("in", "out", config=scaled)) == (3, 0, 0)
    assert pixels("out/00.png").shape == (36, 48, 3)
    assert counts(restore_folder("in", "out", config=config.on(scale=3, tile=64))) == (0, 3, 0)


def test_another_model_or_quality_is_another_result(
    config: RestoreConfig, tiny: dict[str, Bundle]
) -> None:
    save("in/a.jpg")
    save("in/b.png")
    restore_folder("in", "out", config=config)
    assert counts(restore_folder("in", "out", config=config, quality=95)) == (
        0,
        2,
        0,
    )  # the default
    assert counts(restore_folder("in", "out", config=config, quality=40)) == (1, 1, 0)
    other = config.on(model=str(tiny["rrdb2"].folder))
    assert counts(restore_folder("in", "out", config=other, quality=40)) == (2, 0, 0)


def test_a_touched_or_copied_file_is_known_by_its_bytes(config: RestoreConfig) -> None:
    several(2)
    restore_folder("in", "out", config=config)
    os.utime("in/00.png", ns=(1, 1))
    os.utime("out/01.png", ns=(1, 1))
    assert counts(restore_folder("in", "out", config=config)) == (0, 2, 0)


def test_unchanged_inputs_are_not_read_again(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(2)
    restore_folder("in", "out", config=config)
    read: list[Path] = []

    def hashed(path: Path) -> str:
        read.append(path)
        return "0"

    monkeypatch.setattr("resharp.folders.scheduler.sha256_of", hashed)
    assert counts(restore_folder("in", "out", config=config)) == (0, 2, 0)
    assert read == []
    os.utime("in/00.png", ns=(1, 1))
    assert counts(restore_folder("in", "out", config=config)) == (1, 1, 0)
    assert read == [Path("in/00.png")]


def test_what_others_changed_is_left_alone(config: RestoreConfig) -> None:
    several(2)
    restore_folder("in", "out", config=config)
    Path("out/00.png").write_bytes(b"mine")
    save("in/00.png", seed=5)
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (0, 2, 0)
    assert "changed since it was written" in report.results[0].notes[0]
    assert Path("out/00.png").read_bytes() == b"mine"
    report = restore_folder("in", "out", config=config, overwrite=True)
    assert counts(report) == (1, 0, 1)
    assert "was changed since it was written" in report.results[0].error
    assert Path("out/00.png").read_bytes() == b"mine"
    Path("out/00.png").unlink()
    assert counts(restore_folder("in", "out", config=config)) == (1, 1, 0)


def test_what_is_missing_is_done_and_what_is_unknown_is_nobody_elses_to_replace(
    config: RestoreConfig,
) -> None:
    several(3)
    restore_folder("in", "out", config=config)
    Path("out/00.png").unlink()
    assert counts(restore_folder("in", "out", config=config)) == (1, 2, 0)
    shutil.rmtree("out/.resharp")
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    for overwrite in (False, True):
        report = restore_folder("in", "out", config=config, overwrite=overwrite)
        assert counts(report) == (0, 0, 3)
        assert "already exists, and the journal does not say that" in report.results[0].error
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.png")} == before
    assert not Path("out/.resharp").exists()


def test_another_inputs_result_is_not_replaced(config: RestoreConfig) -> None:
    save("one/a.png")
    save("two/a.png", seed=1)
    restore_folder("one", "out", config=config)
    before = pixels("out/a.png")
    report = restore_folder("two", "out", config=config)
    assert counts(report) == (0, 0, 1)
    assert "already the result of ../one/a.png" in report.results[0].error
    assert np.array_equal(pixels("out/a.png"), before)


def test_beside_the_inputs_results_are_known_though_their_inputs_are_gone(
    config: RestoreConfig,
) -> None:
    several(2)
    assert counts(restore_folder("in", config=config)) == (2, 0, 0)
    Path("in/00.png").unlink()
    assert counts(restore_folder("in", config=config)) == (0, 1, 0)
    assert left("in") == LEFT


def test_the_journal_of_single_files_is_in_the_cache_folder(config: RestoreConfig) -> None:
    save("a.png")
    for expected in ((1, 0, 0), (0, 1, 0)):
        assert counts(restore_folder("a.png", config=config)) == expected
        assert counts(restore_folder("a.png", "b.png", config=config)) == expected
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "a_restored.png", "b.png"]
    assert counts(restore_folder("a.png", "b.png", config=config.on(scale=3.0))) == (1, 0, 0)
    assert pixels("b.png").shape == (36, 48, 3)


def test_a_damaged_journal_is_read_as_far_as_it_goes(config: RestoreConfig) -> None:
    several(4)
    restore_folder("in", "out", config=config)
    path = Path("out", JOURNAL)
    whole = sorted(path.read_bytes().splitlines(keepends=True))  # each begins with its target
    text = [b"\xff\xfe\n", b"[]\n", b'{"v": 2}\n', whole[0], whole[1], b'{"v": 1, "target": 3}\n']
    path.write_bytes(b"".join(text) + whole[2] + whole[3][:50])
    Path("out/03.png").unlink()
    save("in/00.png", seed=8)
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (2, 2, 0)
    again = Journal(path)  # the new lines do not hang on the half one
    again.refresh()
    assert all(again.get(f"0{n}.png") for n in range(4))
    assert counts(restore_folder("in", "out", config=config)) == (0, 4, 0)


def test_a_journal_does_not_grow_for_ever(config: RestoreConfig) -> None:
    several(1)
    restore_folder("in", "out", config=config)
    path = Path("out", JOURNAL)
    path.write_bytes(path.read_bytes() * (SPARE + 9))
    assert counts(restore_folder("in", "out", config=config, overwrite=True)) == (1, 0, 0)
    assert len(lines()) == 1
    assert counts(restore_folder("in", "out", config=config)) == (0, 1, 0)


def test_names_of_all_kinds(config: RestoreConfig) -> None:
    names = ["日本 é.png", "[a]*?.png", "  .png", "'\"\\.png"]
    for name in names:
        save(f"in/{name}")
    if os.path.exists("in/  .png") and os.name == "posix":
        Path("in/  .png").rename(os.fsdecode(b"in/\xff\xfe.png"))
    assert counts(restore_folder("in", "out", config=config)) == (4, 0, 0)
    assert counts(restore_folder("in", "out", config=config)) == (0, 4, 0)
    assert len(list(Path("out").iterdir())) == 5


class Fakes:
    """Restorers that record their batches, wait until the queue is full, and can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fills: int, total: int) -> None:
        self.batches: list[int] = []
        self.read = self.taken = 0
        self.ahead, self.total = READERS + fills, total  # in hand, and in the queue
        self.at_once = self.most = 0
        self.bad: int | None = None
        self.lock = threading.Lock()
        monkeypatch.setattr(Restorer, "batch_for", lambda own, h, w: 1 if w == 99 else fills)
        monkeypatch.setattr(Restorer, "batch", lambda own, images: self.many(images))
        monkeypatch.setattr("resharp.folders.stages.read", self.read_in)
        monkeypatch.setattr("resharp.folders.stages.restore_batch", self.restore)

    def read_in(self, *work: Any) -> Any:
        done = read(*work)
        with self.lock:
            self.read += 1
        return done

    def restore(self, restorer: Any, advance: Any, items: Any) -> Any:
        self.taken += len(items)
        until(lambda: self.read - self.taken >= self.ahead or self.read == self.total)
        return restore_batch(restorer, advance, items)

    def many(self, images: list[Any]) -> list[Any]:
        assert len({image.shape for image in images}) == 1
        if any(image.mean() == self.bad for image in images):
            raise ImageError("bad")
        self.batches.append(len(images))
        return [np.repeat(np.repeat(image, 2, 0), 2, 1) for image in images]


def test_pictures_of_a_size_share_a_run(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(monkeypatch, fills=4, total=27)
    several(24)
    for n in range(3):
        save(f"in/y{n}.png", 9, 99)  # batches do not help at this size
    assert counts(restore_folder("in", "out", config=config)) == (27, 0, 0)
    assert max(fakes.batches) == 4
    for n in range(24):
        wanted = np.repeat(np.repeat(draw(12, 16, n), 2, 0), 2, 1)
        found = pixels(f"out/{n:02}.png")
        if np.array_equal(found, wanted):
            break
    else:
        pytest.fail("no image was restored in a batch")


def test_one_bad_picture_of_a_batch_is_one_failure(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(monkeypatch, fills=8, total=8)
    fakes.bad = 7
    several(8)
    for n in (2, 5):
        cv2.imwrite(f"in/0{n}.png", np.full((12, 16, 3), 7, np.uint8))
    own = Restorer.with_count

    def call(self: Restorer, image: Any, *, progress: Any = None) -> Any:
        if image.mean() == 7:
            raise MemoryError("so large")
        return own(self, image, progress=progress)

    monkeypatch.setattr(Restorer, "with_count", call)
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (6, 0, 2)
    assert report.results[2].error == "out of memory (so large): use a smaller `scale`"
    assert [one.code for one in report.results if one.error] == ["out-of-memory"] * 2


def test_large_pictures_wait_for_memory(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = 40 * 50 * 3 * 5
    monkeypatch.setattr("resharp.folders.stages.available_memory", lambda: 4 * 2 * weight)
    for n in range(12):
        save(f"in/{n:02}.png", 40, 50, n)
    alive, most, lock = set[int](), 0, threading.Lock()
    own = Restorer.with_count

    def call(self: Restorer, image: Any, *, progress: Any = None) -> Any:
        nonlocal most
        with lock:
            alive.add(int(image.sum()))
            most = max(most, len(alive))
        return own(self, image, progress=progress)

    def slow(path: Path, data: bytes) -> None:
        time.sleep(0.02)
        write_whole(path, data)
        with lock:
            alive.discard(int(pixels(f"in/{path.name}").sum()))

    monkeypatch.setattr(Restorer, "with_count", call)
    monkeypatch.setattr("resharp.folders.stages.write_whole", slow)
    assert counts(restore_folder("in", "out", config=config, workers=4)) == (12, 0, 0)
    assert 1 <= most <= 2


def test_a_full_disk_stops_it_and_is_said(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    lock = threading.Lock()

    def full(path: Path, data: bytes) -> None:
        with lock:
            if len(written) == 3:
                raise OutputError("No space left") from OSError(errno.ENOSPC, "No space left")
            written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr("resharp.folders.stages.write_whole", full)
    several(30)
    with pytest.raises(OutputError, match="No space left"):
        restore_folder("in", "out", config=config)
    assert len(written) == 3
    assert len(lines()) <= 3 + WRITERS  # a line comes before its result, one in each writer's hand
    assert left() <= LEFT
    monkeypatch.setattr("resharp.folders.stages.write_whole", write_whole)
    assert sum(counts(restore_folder("in", "out", config=config))) == 30
    assert len(list(Path("out").glob("*.png"))) == 30


def test_a_bug_in_the_middle_stops_it(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = Restorer.with_count, []

    def call(self: Restorer, image: Any, *, progress: Any = None) -> Any:
        seen.append(1)
        if len(seen) == 4:
            raise KeyError("a bug")
        return own(self, image, progress=progress)

    monkeypatch.setattr(Restorer, "with_count", call)
    several(30)
    with pytest.raises(KeyError, match="a bug"):
        restore_folder("in", "out", config=config)
    assert len(seen) == 4
    assert left() <= LEFT
    monkeypatch.setattr(Restorer, "with_count", own)
    assert sum(counts(restore_folder("in", "out", config=config))) == 30
    assert len(list(Path("out").iterdir())) == 31


def test_raising_in_progress_cancels(config: RestoreConfig) -> None:
    several(9)

    def progress(done: float, total: float) -> None:
        if done > 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        restore_folder("in", "out", config=config, progress=progress)
    assert left() <= LEFT


def test_a_failed_result_has_the_code_of_its_error(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("in/a.png")
    Path("in/b.png").write_bytes(b"")
    save("in/c.jpg", seed=1)
    save("in/c.png", seed=2)
    save("in/sub/c.png", seed=3)

    def refuse(path: Path, data: bytes) -> None:
        if path.name == "a.png":
            raise OutputError("refused")
        write_whole(path, data)

    monkeypatch.setattr("resharp.folders.stages.write_whole", refuse)
    report = restore_folder(
        ["in/a.png", "in/b.png", "in/c.jpg", "in/sub/c.png", "in/c.png", "gone.png"],
        "out",
        config=config,
        format="png",
    )
    codes = {Path(one.input).as_posix(): one.code for one in report.results}
    assert codes == {
        "in/a.png": "output",  # written
        "in/b.png": "invalid-image",  # read
        "in/c.jpg": "",  # becomes c.jpg.png
        "in/sub/c.png": "",
        "in/c.png": "invalid-option",  # discovered: two results would have one name
        "gone.png": "invalid-image",
    }
    assert [bool(one.error) for one in report.results] == [bool(code) for code in codes.values()]
    found = {Path(one["input"]).as_posix(): one["code"] for one in report.as_dict()["results"]}
    assert found == codes


def test_an_unwritable_place_is_a_failure_of_each(config: RestoreConfig, caplog: Any) -> None:
    several(2)
    Path("out").write_text("in the way")
    report = restore_folder("in", "out/deeper", config=config)
    assert counts(report) == (0, 0, 2)
    assert "cannot create the folder" in report.results[0].error
    assert [one.code for one in report.results] == ["output"] * 2
    assert "the journal is kept in the cache folder" in caplog.text


def test_without_a_place_beside_the_results_the_journal_is_in_the_cache_folder(
    config: RestoreConfig, caplog: Any
) -> None:
    several(2)
    Path("out").mkdir()
    Path("out/.resharp").write_text("mine")
    assert counts(restore_folder("in", "out", config=config)) == (2, 0, 0)
    assert "the journal is kept in the cache folder" in caplog.text
    assert counts(restore_folder("in", "out", config=config)) == (0, 2, 0)
    assert Path("out/.resharp").read_text() == "mine"


def test_without_any_journal_nothing_is_replaced(
    config: RestoreConfig, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(2)
    Path("out").mkdir()
    Path("out/.resharp").write_text("mine")
    Path("home").write_text("no folder")
    monkeypatch.setenv("RESHARP_HOME", os.path.abspath("home"))  # noqa: PTH100
    assert counts(restore_folder("in", "out", config=config)) == (2, 0, 0)
    assert "no journal is kept" in caplog.text
    assert counts(restore_folder("in", "out", config=config)) == (0, 0, 2)


def test_a_claim_is_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = OutputState(tmp_path), OutputState(tmp_path)
    tidied: list[int] = []
    for number, state in enumerate((one, two), 1):
        monkeypatch.setattr(state.records.journal, "compact", partial(tidied.append, number))
        state.open("k")
    job = Job(Path("a.png"), tmp_path / "b.png", root=tmp_path, base=Path())
    held = one.claim(job)
    assert held is not None
    assert two.claim(job) is None
    thread = threading.Thread(target=one.release, args=(held,))
    thread.start()
    thread.join()
    assert two.claim(job) is not None
    one.close()
    assert tidied == []  # the other one is alive
    three = OutputState(tmp_path)
    three.open("k")
    assert three.claim(job) is None
    three.close()
    two.close()
    assert tidied == [2]
    assert not Path(tmp_path, ".resharp").exists()


def test_overwriting_runs_at_once_do_each_picture_once(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(20)
    restore_folder("in", "out", config=config)
    reports: list[FolderReport] = []
    barrier, own = threading.Barrier(2), FolderRun._restore

    def begin(run: FolderRun, todo: Any) -> None:
        barrier.wait(LIMIT)  # both know what there was before either of them
        own(run, todo)

    monkeypatch.setattr(FolderRun, "_restore", begin)

    def run() -> None:
        reports.append(restore_folder("in", "out", config=config, overwrite=True))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    joined(*threads)
    assert sum(report.count("failed") for report in reports) == 0
    assert sum(report.count("restored") for report in reports) == 20


def test_a_file_that_grows_is_taken_when_it_has_ended() -> None:
    Path("in").mkdir()
    watch = FolderWatcher(["in"], Output(path=Path("out")), lambda job: False)

    def arrived() -> list[str]:
        return [job.source.name for job in watch.poll()]

    data = save("whole.png").read_bytes()
    growing = Path("in/a.png")
    growing.touch()
    assert [arrived(), arrived()] == [[], []]  # not written yet
    for size in range(100, len(data), len(data) // 8):  # different at each poll
        growing.write_bytes(data[:size])
        assert arrived() == []
    growing.write_bytes(data)
    assert [arrived(), arrived(), arrived()] == [[], ["a.png"], []]
    os.utime(growing, ns=(5, 5))
    assert [arrived(), arrived(), arrived()] == [[], ["a.png"], []]
    growing.unlink()
    assert arrived() == []


def test_a_watch_ends_when_it_is_told(config: RestoreConfig) -> None:
    Path("in").mkdir()
    stop, done = threading.Event(), threading.Event()
    reports: list[FolderReport] = []
    watch = threading.Thread(
        target=lambda: reports.append(
            restore_folder(
                "in", "out", config=config, watch=0.05, stop=stop, on_result=lambda r: done.set()
            )
        )
    )
    watch.start()
    try:
        save("a.png").rename("in/a.png")  # at once, and not half of it first
        assert done.wait(LIMIT)
    finally:
        stop.set()
        watch.join()
    assert counts(reports[0]) == (1, 0, 0)
    assert left() == LEFT


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"watch": 0}, "a number above 0"),
        ({"quality": 101}, "between 1 and 100, got 101"),
        ({"watch": 1, "src": "a.png"}, "existing folders or globs, got a.png"),
        ({"watch": 1, "dst": "b.png"}, "requires a folder as `dst`"),
        ({"workers": 0}, "between 1 and 256, got 0"),
        ({"workers": 100_000}, "between 1 and 256, got 100000"),
        ({"max_pixels": 0}, "`max_pixels` must be a positive integer, got 0"),
        ({"max_pixels": True}, "`max_pixels` must be a positive integer, got True"),
        ({"config": RestoreConfig(device="cuda:0,0")}, "each once"),
        ({"tile": 64}, "either `config` or tile"),
    ],
)
def test_requests_that_make_no_sense(
    config: RestoreConfig, values: dict[str, Any], words: str
) -> None:
    several(1)
    save("a.png")
    with pytest.raises(OptionError, match=words):
        restore_folder(**{"src": "in", "dst": "out", "config": config, **values})
    assert not os.path.exists("out")


def test_the_key_needs_no_opening(config: RestoreConfig) -> None:
    for one in (config, config.on(scale=2.0), replace(config, tta=2)):
        with one.open() as restorer:
            assert restorer.info.key == one.key()
    assert config.key() == config.on(scale=2).key()  # the model's own scale


def test_a_kill_between_a_result_and_its_time_is_no_harm(
    config: RestoreConfig, monkeypatch: Any
) -> None:
    save("in/a.png")
    save("in/b.png")

    class KilledError(BaseException):
        pass

    def killed(*args: Any, **options: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("resharp.folders.stages.os.utime", killed)
        with pytest.raises(KilledError):
            restore_folder("in", "out", config=config)
    assert counts(restore_folder("in", "out", config=config))[2] == 0
    assert counts(restore_folder("in", "out", config=config.on(scale=3.0))) == (2, 0, 0)


def test_a_journal_of_garbage_is_said(config: RestoreConfig, caplog: Any) -> None:
    save("in/a.png")
    restore_folder("in", "out", config=config)
    Path("out", JOURNAL).write_bytes(bytes(range(256)) * 4)
    assert counts(restore_folder("in", "out", config=config.on(scale=3.0))) == (0, 0, 1)
    assert "has no valid entries" in caplog.text
