"""Names of outputs: no input is overwritten and no file of others replaced, whatever is typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import OptionError, OutputError, ResharpError
from resharp.folders import FolderReport, restore_folder
from resharp.fsutil import write_whole
from resharp.pipeline.restorer import RestoreConfig

DIRS = ("a", "b", "a/sub", "out")
NAMES = ("x.png", "x.jpg", "x.gif", "X.PNG", "y.png", "x_restored.png", "x.gif.png")


def save(path: str, seed: int = 0) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = draw(8, 12, seed)
    if path.lower().endswith(".gif"):
        Image.fromarray(pixels).save(path)
    else:
        assert cv2.imwrite(path, pixels)
    return Path(path)


def contents(folder: str = ".") -> dict[str, bytes]:
    """All files but those of journals, links followed."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if ".resharp" not in path.parts}


def counts(report: FolderReport) -> tuple[int, int, int]:
    return report.count("restored"), report.count("skipped"), report.count("failed")


def test_the_result_of_one_input_is_not_another_input(config: RestoreConfig) -> None:
    save("a/x.png", 1)
    save("b/x.png", 2)
    before = contents()
    for overwrite in (False, True):
        for inputs in (["a", "b"], ["a/x.png", "b/x.png"], ["a/x.png", "b/*.png"]):
            report = restore_folder(inputs, "b", config=config, overwrite=overwrite)
            assert counts(report) == (0, 0, 2)
            assert "would overwrite the input b/x.png" in report.results[0].error
            assert contents() == before
            assert not Path("b/.resharp").exists()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_an_input_are_that_input(config: RestoreConfig, link: Any) -> None:
    save("a/x.png", 1)
    save("a/y.png", 2)
    Path("out").mkdir()
    link(os.path.abspath("a/y.png"), "out/x.png")  # noqa: PTH100
    before = contents()
    report = restore_folder("a", "out", config=config, overwrite=True)
    assert counts(report) == (1, 0, 1)
    assert "would overwrite the input a/y.png" in report.results[0].error
    assert {name: data for name, data in contents().items() if name in before} == before


def test_another_spelling_of_an_input_is_that_input(config: RestoreConfig) -> None:
    save("a/x.png")
    Path("link").symlink_to("a")
    before = contents()
    for target in ("link/x.png", "a/../a/x.png", "./link/", os.path.abspath("a")):  # noqa: PTH100
        report = restore_folder("a/x.png", target, config=config, overwrite=True)
        assert counts(report) == (0, 0, 1)
        assert contents() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_the_program_chose_is_nobody_elses(config: RestoreConfig, overwrite: bool) -> None:
    save("in/cat.gif", 1)
    mine = save("p/cat.png", 2).read_bytes()
    report = restore_folder("in/cat.gif", "p", config=config, overwrite=overwrite)
    assert counts(report) == (0, 0, 1)
    assert "p/cat.png already exists, and the journal does not say" in report.results[0].error
    assert contents("p") == {"p/cat.png": mine}
    assert not Path("p/.resharp").exists()


def test_a_name_that_was_typed_is_replaced_only_if_that_was_said(config: RestoreConfig) -> None:
    save("x.png", 1)
    mine = save("y.png", 2).read_bytes()
    report = restore_folder("x.png", "y.png", config=config)
    assert "use `overwrite` to replace it" in report.results[0].error
    assert Path("y.png").read_bytes() == mine
    assert counts(restore_folder("x.png", "y.png", config=config, overwrite=True)) == (1, 0, 0)
    assert counts(restore_folder("x.png", "y.png", config=config)) == (0, 1, 0)


def test_two_that_differ_in_their_extension_are_both_restored(config: RestoreConfig) -> None:
    save("in/cat.gif", 1)
    save("in/cat.png", 2)
    assert counts(restore_folder("in", "out", config=config)) == (2, 0, 0)
    assert set(contents("out")) == {"out/cat.png", "out/cat.gif.png"}
    expected = restore_folder("in/cat.png", "alone.png", config=config)
    assert expected.count("restored") == 1
    assert Path("out/cat.png").read_bytes() == Path("alone.png").read_bytes()
    save("two/a.jpg", 3)
    save("two/a.png", 4)
    assert counts(restore_folder("two", "three", format="png", config=config)) == (2, 0, 0)
    assert set(contents("three")) == {"three/a.png", "three/a.jpg.png"}
    assert counts(restore_folder("in", "out", config=config)) == (0, 2, 0)


def test_an_animation_that_fails_does_not_take_the_name(config: RestoreConfig) -> None:
    frames = [Image.fromarray(draw(8, 12, n)) for n in range(2)]
    Path("in").mkdir()
    frames[0].save("in/cat.gif", save_all=True, append_images=frames[1:])
    save("in/cat.png", 2)
    assert counts(restore_folder("in", "out", config=config)) == (1, 0, 1)
    assert set(contents("out")) == {"out/cat.png"}


def test_an_input_folder_inside_the_output_folder(config: RestoreConfig) -> None:
    save("sub/a.png")
    assert counts(restore_folder("sub", ".", config=config)) == (1, 0, 0)
    assert set(contents()) == {"sub/a.png", "a.png"}
    assert counts(restore_folder("sub", ".", config=config)) == (0, 1, 0)


def test_results_inside_the_input_folder_are_known_by_the_journal(config: RestoreConfig) -> None:
    save("in/a.png")
    save("in/out/own.png", 5)  # nobody's result, though it lies there
    assert counts(restore_folder("in", "in/out", config=config)) == (2, 0, 0)
    assert set(contents("in")) == {
        "in/a.png",
        "in/out/a.png",
        "in/out/own.png",
        "in/out/out/own.png",
    }
    assert counts(restore_folder("in", "in/out", config=config)) == (0, 2, 0)


def test_a_name_like_that_of_a_result_is_an_input(config: RestoreConfig) -> None:
    save("in/a.png", 1)
    save("in/a_x2.png", 2)
    assert counts(restore_folder("in", config=config)) == (2, 0, 0)
    assert counts(restore_folder("in", config=config)) == (0, 2, 0)
    assert set(contents("in")) == {f"in/{name}" for name in (
        "a.png", "a_x2.png", "a_restored.png", "a_x2_restored.png"
    )}  # fmt: skip


def test_a_file_that_appears_during_the_work_stays(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.folders import stages

    save("in/a.png")

    def encode(*arguments: Any) -> Any:
        Path("out/a.png").write_bytes(b"mine")
        return own(*arguments)

    own = stages.encode_file
    monkeypatch.setattr(stages, "encode_file", encode)
    report = restore_folder("in", "out", config=config)
    assert "created by another program meanwhile" in report.results[0].error
    assert contents("out") == {"out/a.png": b"mine"}


@pytest.mark.parametrize(
    ("inputs", "output"),
    [("", "out"), (["a.png", ""], "out"), ([], "out"), ("a.png", "")],
)
def test_an_empty_path_is_not_the_current_folder(
    config: RestoreConfig, inputs: Any, output: str
) -> None:
    save("a.png")
    with pytest.raises(OptionError, match="empty"):
        restore_folder(inputs, output, config=config)
    assert set(contents()) == {"a.png"}


@pytest.mark.parametrize("name", ["out.heic", "out.jxl", "large.jgp", "out.gif", "results.v2"])
def test_an_extension_that_cannot_be_written_is_refused(config: RestoreConfig, name: str) -> None:
    save("a.png")
    with pytest.raises(OptionError, match=r"must be one of .*\.webp, got"):
        restore_folder("a.png", name, config=config)
    assert set(contents()) == {"a.png"}
    assert counts(restore_folder("a.png", f"{name}/", config=config)) == (1, 0, 0)
    assert Path(name, "a.png").is_file()
    assert counts(restore_folder("a.png", name, config=config)) == (0, 1, 0)  # it exists now


def test_a_run_that_makes_nothing_leaves_nothing(config: RestoreConfig) -> None:
    Path("in").mkdir()
    Path("in/bad.png").write_bytes(b"no image")
    for journal in ("output", "cache"):
        report = restore_folder("in", "out/deeper", config=config, journal=journal)
        assert counts(report) == (0, 0, 1)
        assert sorted(path.name for path in Path().iterdir()) == ["in"]
    Path("out").mkdir()
    assert counts(restore_folder("in", "out", config=config)) == (0, 0, 1)
    assert list(Path("out").iterdir()) == []


def test_the_journal_can_be_in_the_cache_folder(config: RestoreConfig) -> None:
    save("in/a.png")
    assert counts(restore_folder("in", "out", config=config, journal="cache")) == (1, 0, 0)
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]
    assert counts(restore_folder("in", "out", config=config)) == (0, 1, 0)  # both are looked at
    assert counts(restore_folder("in", "out", config=config.on(scale=3.0))) == (1, 0, 0)
    assert Path("out/.resharp/journal.jsonl").is_file()
    assert counts(restore_folder("in", "out", config=config, journal="cache")) == (1, 0, 0)


def test_an_unreadable_input_is_no_finished_work(config: RestoreConfig) -> None:
    save("in/a.png")
    restore_folder("in", "out", config=config)
    Path("in/a.png").unlink()
    Path("in/a.png").symlink_to("in/a.png")  # a loop: any other error than absence
    before = contents("out")
    report = restore_folder("in/a.png", "out", config=config)
    assert counts(report) == (0, 0, 1)
    assert contents("out") == before


def test_runs_with_other_options_do_not_mix(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.folders.output_state import OutputState

    for n in range(3):
        save(f"in/{n}.png", n)
    running = OutputState(Path("out"))
    running.open("k" * 64)
    with pytest.raises(OutputError, match="another run with other options is writing to out"):
        restore_folder("in", "out", config=config)
    assert counts(restore_folder("in/0.png", "out", config=config)) == (
        1,
        0,
        0,
    )  # one has no mixture
    running.close()
    report = restore_folder("in", "out", config=config.on(scale=3.0))
    assert counts(report) == (3, 0, 0)
    assert {cv2.imread(str(path)).shape for path in Path("out").glob("*.png")} == {(24, 36, 3)}  # type: ignore[union-attr]


@pytest.mark.parametrize("places", [("output", "cache"), ("cache", "output")])
def test_runs_with_their_journals_in_two_places_do_not_mix(
    config: RestoreConfig, places: tuple[Any, Any]
) -> None:
    from resharp.folders.output_state import OutputState

    save("in/a.png")
    running = OutputState(Path("out"), places[0])
    running.alone = True
    running.open("k" * 64)
    with pytest.raises(OutputError, match="another run with other options is writing to out"):
        restore_folder("in", "out", config=config, journal=places[1])
    assert contents("out") == {}
    running.close()
    assert list(Path().rglob("*.lock")) == []
    assert counts(restore_folder("in", "out", config=config, journal=places[1])) == (1, 0, 0)


def test_a_distinct_name_is_no_other_inputs_name(config: RestoreConfig) -> None:
    names = ("x.gif", "x.gif.gif.png", "x.gif.png", "x.png")
    for number, name in enumerate(names):
        save(f"in/{name}", number)
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (4, 0, 0)
    made = {Path(one.input).name: Path(one.output).name for one in report.results}
    assert made == {name: name for name in names[1:]} | {"x.gif": "x.gif.gif.gif.png"}
    assert len(set(contents("out").values())) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced(config: RestoreConfig) -> None:
    save("a.png")
    os.mkfifo("p.png")
    os.mkfifo("q")
    Path("link.png").symlink_to("p.png")
    for name in ("p.png", "link.png"):
        for overwrite in (False, True):
            report = restore_folder("a.png", name, config=config, overwrite=overwrite)
            assert "is a pipe, which is not replaced" in report.results[0].error
    with pytest.raises(OptionError, match="`dst` must be a folder, got q: it is a pipe"):
        restore_folder("a.png", "q", config=config)
    assert Path("p.png").is_fifo()
    assert Path("link.png").is_symlink()


def test_a_slash_after_the_name_of_a_file_is_refused(config: RestoreConfig) -> None:
    save("a.png")
    Path("notes").write_text("mine")
    for name in ("a.png/", "notes"):
        with pytest.raises(OptionError, match=f"must be a folder, got {name}: it is a file"):
            restore_folder("a.png", name, config=config)
    assert set(contents()) == {"a.png", "notes"}


def test_a_tilde_that_is_no_user_is_part_of_the_name(config: RestoreConfig) -> None:
    save("~no-such-user.png")
    assert counts(restore_folder("~no-such-user.png", "out", config=config)) == (1, 0, 0)
    assert set(contents("out")) == {"out/~no-such-user.png"}
    assert counts(restore_folder("~nobody-here/a.png", "out", config=config)) == (0, 0, 1)


def test_a_glob_that_leads_upwards_stays_in_the_output(config: RestoreConfig) -> None:
    save("other/p.png")
    Path("here/a").mkdir(parents=True)
    os.chdir("here")
    assert counts(restore_folder("*/../../other/*.png", "out", config=config)) == (1, 0, 0)
    assert set(contents()) == {"out/other/p.png"}


def test_linked_folders_are_left_out_with_a_warning(config: RestoreConfig, caplog: Any) -> None:
    save("in/sub/a.png")
    save("elsewhere/b.png")
    Path("in/link").symlink_to("../elsewhere")
    Path("in/again").symlink_to("sub")  # its images are there already
    assert counts(restore_folder("in", "out", config=config)) == (1, 0, 0)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["in/link is a link to a folder, which is not followed: name it too"]


def test_a_name_that_gets_too_long_fails_before_the_work(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> bytes:
        raise AssertionError("it was read")

    save(f"in/{'x' * 251}.png")
    monkeypatch.setattr("resharp.folders.stages.load", load)
    (result,) = restore_folder("in", "out", config=config, suffix="_large").results
    assert "the name of the result is too long" in result.error
    assert contents("out") == {}


def test_a_result_that_is_edited_during_the_work_stays(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.folders import stages

    save("in/a.png")
    restore_folder("in", "out", config=config)

    def encode(*arguments: Any) -> Any:
        Path("out/a.png").write_bytes(b"mine")
        return own(*arguments)

    own = stages.encode_file
    monkeypatch.setattr(stages, "encode_file", encode)
    report = restore_folder("in", "out", config=config.on(scale=3.0))
    assert "was changed since it was written" in report.results[0].error
    assert contents("out") == {"out/a.png": b"mine"}


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_a_result_is_replaced_is_no_harm(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    class KilledError(BaseException):
        pass

    def killed(path: Path, data: bytes) -> None:
        if after:
            write_whole(path, data)
        raise KilledError

    save("in/a.png")
    restore_folder("in", "out", config=config)
    with monkeypatch.context() as patch:
        patch.setattr("resharp.folders.stages.write_whole", killed)
        with pytest.raises(KilledError):
            restore_folder("in", "out", config=config.on(scale=3.0))
    with Image.open("out/a.png") as image:
        assert image.size == ((36, 24) if after else (24, 16))
    report = restore_folder("in", "out", config=config, overwrite=True)
    assert counts(report) == (1, 0, 0), report.results[0].error
    with Image.open("out/a.png") as image:
        assert image.size == (24, 16)


@pytest.mark.parametrize("more", [0, 1])
def test_what_a_killed_run_left_goes_with_the_next_one(config: RestoreConfig, more: int) -> None:
    save("in/a.png", 1)
    restore_folder("in", "out", config=config)
    Path("out/.resharp/locks").mkdir()  # of a run that was killed while it replaced a.png
    Path("out/.resharp/locks", f"{'0' * 40}.lock").touch()
    mine = {".mine.png.0123abcd.part", ".a.png.notes.part"}  # no result of ours, no name of ours
    for name in (".a.png.0123abcd.part", *mine):
        Path("out", name).write_bytes(b"half")
    if more:
        save("in/b.png", 2)
    assert counts(restore_folder("in", "out", config=config)) == (more, 1, 0)
    made = {"out/a.png", *(["out/b.png"] if more else [])}
    assert set(contents("out")) == made | {f"out/{name}" for name in mine}
    assert not Path("out/.resharp/locks").exists()


@pytest.mark.parametrize("content", ["deep", "pipe"])
def test_a_journal_that_is_none_does_not_stop_a_run(
    config: RestoreConfig, caplog: Any, content: str
) -> None:
    save("in/a.png")
    journal = Path("out/.resharp/journal.jsonl")
    journal.parent.mkdir(parents=True)
    if content == "deep":
        journal.write_text("[" * 200_000 + "\n")
    elif hasattr(os, "mkfifo"):
        os.mkfifo(journal)
    else:
        pytest.skip("needs named pipes")
    assert counts(restore_folder("in", "cached", config=config, journal="cache")) == (1, 0, 0)
    report = restore_folder("in", "out", config=config)
    assert counts(report) == (1, 0, 0)
    assert "the results in it are not recognized" in caplog.text


def test_a_watch_without_a_journal_knows_its_results(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("in/a.png")
    Path("in/.resharp").write_text("mine")
    Path("home").write_text("no folder")
    monkeypatch.setenv("RESHARP_HOME", os.path.abspath("home"))  # noqa: PTH100
    stop = threading.Event()
    timer = threading.Timer(1.5, stop.set)

    def begun(result: Any) -> None:
        if not timer.is_alive():
            timer.start()

    restore_folder("in", config=config, watch=0.05, stop=stop, on_result=begun)
    assert set(contents("in")) == {"in/a.png", "in/a_restored.png"}


FILES = st.sampled_from([f"{folder}/{name}" for folder in DIRS for name in NAMES])
INPUTS = st.sampled_from([*DIRS, "a/*", "a/x.png", "b/x.gif", "b/x.png", "out/x.png"])
TARGETS = ("a", "b", "out", "new", "a/x.png", "out/x.png", "b/link.png", "new.jpg", "./b/../a/")
RUNS = st.tuples(
    st.lists(INPUTS, min_size=1, max_size=3),
    st.sampled_from([None, *TARGETS]),
    st.sampled_from([None, "", "_x2", "_restored"]),
    st.sampled_from([None, "png", "jpg"]),
    st.booleans(),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60)
@given(
    files=st.lists(FILES, min_size=1, max_size=7, unique=True),
    links=st.lists(st.tuples(FILES, FILES, st.sampled_from(["symlink", "link"])), max_size=2),
    runs=st.lists(RUNS, min_size=1, max_size=3),
)
def test_whatever_is_typed_no_input_and_no_file_of_others_changes(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: dict[str, Bundle],
    files: list[str],
    links: list[tuple[str, str, str]],
    runs: list[tuple[Any, ...]],
) -> None:
    home = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("tree"))
    try:
        for number, name in enumerate(files):
            save(name, number)
        for old, new, kind in links:
            if Path(old).is_file() and not os.path.lexists(new):
                Path(new).parent.mkdir(parents=True, exist_ok=True)
                if kind == "link":
                    Path(new).hardlink_to(Path(old).resolve())
                else:
                    Path(new).symlink_to(Path(old).resolve())
        foreign = contents()
        for number, (inputs, output, suffix, form, overwrite) in enumerate(runs):
            chosen = [name for name in inputs if "*" in name or os.path.exists(name)]
            if not chosen:
                continue
            read = [name for name in chosen if Path(name).is_file()]
            before = contents()
            scale = 2.0 if number % 2 else 3.0
            config = RestoreConfig(model=str(tiny["compact"].folder), backend="onnx", scale=scale)
            report = None
            try:
                report = restore_folder(
                    chosen, output, config=config, suffix=suffix, format=form, overwrite=overwrite
                )
            except ResharpError:
                assert contents() == before
            typed = output if overwrite and output is not None and Path(output).suffix else ""
            for name, data in list(foreign.items()):
                now = Path(name).read_bytes()
                if now != data:
                    assert os.path.realpath(name) == os.path.realpath(typed), (name, report)
                    foreign[name] = now
            for name in read:  # an input is one, even if a run has made it
                assert Path(name).read_bytes() == before[name]
            if report is not None:
                for result in report.results:
                    assert (result.status == "restored") <= Path(result.output).is_file()
    finally:
        os.chdir(home)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_in_a_circle_do_not_keep_a_glob_from_ending(
    config: RestoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Python's own ``**`` takes 2 ** 40 ways through two of them."""
    save("a/x.png")
    save("a/sub/y.png")
    save("a/.hidden/z.png")
    save("elsewhere/z.png")
    for name, target in (("1", "."), ("2", "../a"), ("3", "3"), ("sub/4", ".."), ("5", "missing")):
        Path("a", name).symlink_to(target)
    Path("a/6.png").symlink_to("6.png")
    for glob, names in (
        ("a/**/*.png", {"x.png", "sub/y.png"}),
        ("a/**/**/?.png", {"x.png", "sub/y.png"}),
        ("a/**", {"x.png", "sub/y.png"}),
        ("a/**/sub/**/*.png", {"sub/y.png"}),
        ("**/y.png", {"a/sub/y.png"}),
        ("*/**/[xy].png", {"a/x.png", "a/sub/y.png"}),
    ):
        report = restore_folder(glob, "out", config=config)
        assert report.count("restored") == len(names), report
        found = {p.relative_to("out").as_posix() for p in Path("out").rglob("*.png")}
        assert found == names
        shutil.rmtree("out")
    assert caplog.text == ""
    Path("a/7").symlink_to("../elsewhere")
    restore_folder("a/**/x.png", "out", config=config)
    assert "a/7 is a link to a folder, which is not followed: name it too" in caplog.text


def test_images_that_cannot_be_read_are_counted_in_one_note(
    config: RestoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    save("a/x.png")
    for name in ("1.heic", "sub/2.HEIC", "3.heic", "4.ppm", "notes.txt", ".5.heic"):
        Path("a", name).parent.mkdir(exist_ok=True)
        Path("a", name).write_bytes(b"something")
    for source in ("a", "a/**"):
        caplog.clear()
        assert counts(restore_folder(source, "out", config=config, overwrite=True)) == (1, 0, 0)
        where = "in the folder a" if source == "a" else "among the files that match a/**"
        assert [record.getMessage() for record in caplog.records] == [
            f"3 files are left out {where}: resharp cannot read .heic, convert them first",
            f"1 file is left out {where}: resharp cannot read .ppm, convert it first",
        ]
    caplog.clear()
    with pytest.raises(OptionError, match="no images"):
        restore_folder("a/*.heic", "out", config=config)
    assert "2 files are left out" in caplog.text
    caplog.clear()
    assert counts(restore_folder("a/1.heic", "out", config=config)) == (0, 0, 1)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["~no_such_user", "~no_such_user/x.png", "~no_such_user/"])
def test_a_user_who_does_not_exist_has_no_folder(config: RestoreConfig, name: str) -> None:
    save("a.png")
    with pytest.raises(OptionError, match=r"`dst` refers to the unknown user '.*': write"):
        restore_folder("a.png", name, config=config)
    report = restore_folder([name, "a.png"], "out", config=config)
    assert counts(report) == (1, 0, 1)
    assert "does not exist" in report.results[0].error
    restore_folder("a.png", f"./{name}", config=config)
    assert Path("a.png").exists()


def test_the_home_folder_is_found_in_an_output_too(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", os.path.abspath("home"))  # noqa: PTH100
    monkeypatch.setenv("USERPROFILE", os.path.abspath("home"))  # noqa: PTH100
    save("home/in/a.png")
    assert counts(restore_folder("~/in", "~/out", config=config)) == (1, 0, 0)
    assert Path("home/out/a.png").exists()
    assert not Path("~").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize(
    "name", ["loop", "loop/x.png", "x" * 300 + ".png", "y/" * 2000, "...", "\udcff.png"]
)
def test_an_input_that_cannot_be_does_not_keep_the_others(config: RestoreConfig, name: str) -> None:
    save("a.png")
    Path("loop").symlink_to("loop")
    report = restore_folder([name, "a.png"], "out", config=config)
    assert counts(report) == (1, 0, 1)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_an_output_that_cannot_be_fails(config: RestoreConfig) -> None:
    save("a.png")
    Path("loop").symlink_to("loop")
    for output in ("loop", "loop/deeper", "x" * 300 + ".png", "y" * 300 + "/", "a.png/deeper"):
        report = restore_folder("a.png", output, config=config)
        assert counts(report) == (0, 0, 1), output
    save("sub/b.png")
    Path("sub/again").symlink_to(".")
    report = restore_folder("sub", "sub/again", config=config)
    assert "would overwrite the input" in report.results[0].error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_an_input_each_time(config: RestoreConfig) -> None:
    """It is neither hashed nor judged by its time, which would wait for a second writer."""
    data = save("a.png").read_bytes()
    os.mkfifo("p.png")
    for redone in (False, True):
        writer = threading.Thread(target=Path("p.png").write_bytes, args=(data,))
        writer.start()
        report = restore_folder("p.png", "out", config=config)
        writer.join()
        assert counts(report) == (1, 0, 0), report
        assert Path("out/p.png").exists()
        assert report.results[0].redone is False or redone


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_journal_that_is_a_pipe_is_a_warning(
    config: RestoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    save("a/x.png")
    Path("out/.resharp").mkdir(parents=True)
    os.mkfifo("out/.resharp/journal.jsonl")
    report = restore_folder("a", "out", config=config)
    assert counts(report) == (1, 0, 0)
    assert "so the results in it are not recognized: it is a pipe" in caplog.text
    assert "not recorded in the journal" in report.results[0].notes[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="gives up rights as Linux has them")
def test_a_folder_without_rights_does_not_keep_the_others(compact: Bundle) -> None:
    for name in ("in/closed/a.png", "in/listed/b.png", "in/open/c.png", "in/d.png"):
        save(name)
    Path("in/closed").chmod(0)
    Path("in/listed").chmod(0o444)  # its files have names, but cannot be looked at
    Path("in/d.png").chmod(0)
    script = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
libc = ctypes.CDLL(None, use_errno=True)
for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):  # of root, after the next exec
    libc.prctl(PR_CAPBSET_DROP, right, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "resharp", *sys.argv[1:]])
"""

    def call(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    model = ("-m", str(compact.folder), "--backend", "onnx", "--device", "cpu")
    try:
        for source in ("in", "in/**/*.png"):
            code, said = call("upscale", source, "-o", "out", *model)
            assert (code, set(contents("out"))) == (1, {"out/open/c.png"})
            assert "WARNING: cannot read the folder in/closed: Permission denied" in said
            for name in ("in/listed/b.png", "in/d.png"):
                assert f"failed: {name}: {name} cannot be read: Permission denied." in said
            shutil.rmtree("out")
        code, said = call("upscale", "in/closed/a.png", "in/open/c.png", "-o", "out", *model)
        assert (code, set(contents("out"))) == (1, {"out/c.png"})
        assert "in/closed/a.png cannot be read: Permission denied" in said
        for arguments, words in (
            (("realesrgan", "-i", "in/closed", "-o", "x"), "in/closed cannot be read: Permission"),
            (("video", "in/closed", "-o", "x.mp4", *model), "in/closed cannot be read: Permission"),
            (("upscale", "in/open", "-o", "in/closed", *model), "cannot write to in/closed"),
        ):
            code, said = call(*arguments)
            assert code == 1
            assert words in said
    finally:
        for name in ("in/closed", "in/listed", "in/d.png"):
            Path(name).chmod(0o755)
