"""Names of videos and image sequences: inputs and files of others stay, whatever is typed."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp import fsutil
from resharp.errors import OptionError, OutputError, ResharpError, VideoError
from resharp.images import write
from resharp.video import VideoOptions, VideoReport
from resharp.video.run import render_video
from tests.video.kit import Enlarged, Spec, draw, make, parts

ASS = Spec(frames=3, subtitles="ass")
"""MP4 cannot hold its subtitles, so that another name than an asked-for .mp4 is used."""


def restore(
    source: Path, target: Path | str, overwrite: bool = False, **options: Any
) -> VideoReport:
    config: Any = Enlarged(2)
    chosen = VideoOptions(**options)
    return render_video(source, target, config, options=chosen, overwrite=overwrite)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_ending_never_leads_to_the_input(tmp_path: Path, overwrite: bool) -> None:
    film = make(tmp_path / "film.mkv", ASS)
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="would overwrite the input"):
        restore(film, tmp_path / "film.mp4", overwrite)
    with pytest.raises(OptionError, match="would overwrite the input"):
        restore(clip, tmp_path / "clip.webm", overwrite, codec="h264")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_ending_never_leads_to_a_file_of_others(tmp_path: Path, overwrite: bool) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    old = make(tmp_path / "a.avi", Spec(frames=3, codec="mpeg4", time_base=Fraction(1, 24)))
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"mine too")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"holiday\.mp4 already exists.*rename or remove it"):
        restore(clip, tmp_path / "holiday.webm", overwrite, codec="h264")
    with pytest.raises(OutputError, match=r"a\.mp4 already exists.*rename or remove it"):
        restore(old, f"{tmp_path}/v/", overwrite)
    assert contents(tmp_path) == before


def test_a_name_that_was_typed_is_replaced_only_if_that_was_said(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    target = tmp_path / "out.mp4"
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="use `overwrite` to replace it"):
        restore(clip, target)
    assert target.read_bytes() == b"mine"
    assert restore(clip, target, overwrite=True).frames == 3
    again = restore(clip, target)
    assert again.skipped
    assert again.notes == ()
    other = restore(clip, target, crf=30)
    assert other.skipped
    assert "made from a different input, model or options" in other.notes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_the_input_are_the_input(tmp_path: Path, link: Any) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    link(clip, tmp_path / "other.mp4")
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="would overwrite the input"):
        restore(clip, tmp_path / "other.mp4", overwrite=True)
    assert contents(tmp_path) == before


def test_images_of_others_are_no_frames(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    out = tmp_path / "out"
    out.mkdir()
    (out / "000002.png").write_bytes(b"mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"000002\.png already exists.*use `overwrite`"):
        restore(clip, out / "%06d.png")
    assert contents(tmp_path) == before
    (out / "000002.png").rename(out / "timecodes.txt")
    for overwrite in (False, True):
        with pytest.raises(
            OutputError, match=r"timecodes\.txt already exists.*rename or remove it"
        ):
            restore(clip, out / "%06d.png", overwrite)
    assert (out / "timecodes.txt").read_bytes() == b"mine"


def test_images_after_the_last_one_go_only_if_a_run_has_made_them(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=5))
    out = tmp_path / "out"
    assert restore(clip, out / "%06d.png").frames == 5
    write(out / "000009.png", draw(1))
    report = restore(clip, out / "%06d.png", overwrite=True, end=Fraction(1, 10))
    assert report.frames == 3
    names = {path.name for path in out.glob("*.png")}
    assert names == {"000001.png", "000002.png", "000003.png", "000009.png"}
    assert "1 image after the last frame kept: not made from this video" in report.notes
    assert restore(clip, out / "%06d.png", end=Fraction(1, 10)).skipped


def test_images_that_took_the_place_of_a_result_are_not_it(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=4))
    out = tmp_path / "out"
    restore(clip, out / "%06d.png")
    for number, mine in ((2, b"mine"), (4, b"mine too")):
        (out / f"{number:06d}.png").write_bytes(mine)
    before = contents(out)
    with pytest.raises(OutputError, match="missing, or were changed since they were written"):
        restore(clip, out / "%06d.png")
    (out / "000001.png").unlink()
    before.pop("000001.png")
    with pytest.raises(OutputError, match="missing, or were changed since they were written"):
        restore(clip, out / "%06d.png", end=Fraction(1, 20))
    assert contents(out) == before
    report = restore(clip, out / "%06d.png", overwrite=True, end=Fraction(1, 20))
    assert report.frames == 2
    after = contents(out)
    assert set(after) == {"000001.png", "000002.png", "000004.png", "timecodes.txt"}
    assert after["000004.png"] == b"mine too"


def test_what_killed_runs_left_of_images_is_removed(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    out = tmp_path / "out"
    out.mkdir()
    for name in (".000002.png.0123abcd.part", ".timecodes.txt.0123abcd.part", ".mine.part"):
        (out / name).write_bytes(b"half")
    restore(clip, out / "%06d.png")
    frames = {f"00000{number}.png" for number in (1, 2, 3)}
    assert set(contents(out)) == frames | {"timecodes.txt", ".mine.part"}


def test_unfinished_work_of_another_pattern_is_no_leave_to_replace(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=4))
    out = tmp_path / "out"
    config: Any = Enlarged(2)

    def stop(done: float, total: float) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    options = VideoOptions(segment=1)
    with pytest.raises(KeyboardInterrupt):
        render_video(clip, out / "a_%06d.png", config, options=options, progress=stop)
    assert (tmp_path / "out.resharp" / "journal.jsonl").is_file()
    (out / "b_000001.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"b_000001\.png already exists"):
        restore(clip, out / "b_%06d.png", segment=1)
    assert (out / "b_000001.png").read_bytes() == b"mine"
    assert restore(clip, out / "a_%06d.png", segment=1).resumed_at


def test_a_result_of_another_input_is_not_finished_work(tmp_path: Path) -> None:
    spec = Spec(frames=3, codec="mpeg4", time_base=Fraction(1, 24))
    (tmp_path / "b").mkdir()
    first, second = make(tmp_path / "a.avi", spec), tmp_path / "b" / "a.avi"
    make(second, Spec(frames=4, codec="mpeg4", time_base=Fraction(1, 24)))
    folder = f"{tmp_path}/v/"
    restore(first, folder)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"a\.mp4 is already the result of .*a\.avi: choose"):
        restore(second, folder)
    assert contents(tmp_path) == before
    assert restore(first, folder).skipped
    second.write_bytes(first.read_bytes())  # a copy of the input gives the same result
    assert restore(second, folder).skipped
    frames = [tmp_path / name for name in ("one", "two")]
    for number, images in enumerate(frames):
        images.mkdir()
        write(images / "1.png", draw(number))
    restore(frames[0], tmp_path / "still.mp4")
    with pytest.raises(OutputError, match=r"still\.mp4 is already the result of one"):
        restore(frames[1], tmp_path / "still.mp4")


def test_a_changed_video_is_named_as_such(tmp_path: Path) -> None:
    clip, target = make(tmp_path / "clip.mp4", Spec(frames=3)), tmp_path / "out.mp4"
    restore(clip, target)
    target.write_bytes(target.read_bytes() + b"mine")
    with pytest.raises(OutputError, match="was changed since it was written: use `overwrite`"):
        restore(clip, target)
    assert target.read_bytes().endswith(b"mine")


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_a_video_is_replaced_is_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    clip = make(tmp_path / "a.avi", Spec(frames=3, codec="mpeg4", time_base=Fraction(1, 24)))
    folder, target = f"{tmp_path}/v/", tmp_path / "v" / "a.mp4"  # a name that was not typed
    restore(clip, folder)

    class KilledError(BaseException):
        pass

    def killed(part: Path, to: Path) -> None:
        if to == target and not after:
            raise KilledError
        own(part, to)
        if to == target:
            raise KilledError

    own = fsutil.commit_file
    with monkeypatch.context() as patch:
        patch.setattr(fsutil, "commit_file", killed)
        with pytest.raises(KilledError):
            restore(clip, folder, overwrite=True, crf=30)
    assert restore(clip, folder, overwrite=True, crf=31).frames == 3
    assert len(parts(target).times) == 3


def test_a_file_that_appears_at_the_last_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.video import muxing

    clip, target = make(tmp_path / "clip.mp4", Spec(frames=3)), tmp_path / "out.mp4"

    def missing(*arguments: Any) -> Any:
        target.write_bytes(b"mine")
        return own(*arguments)

    own = muxing._missing
    monkeypatch.setattr(muxing, "_missing", missing)
    with pytest.raises(OutputError, match="use `overwrite` to replace it"):
        restore(clip, target)
    assert target.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    clip, target = make(tmp_path / "clip.mp4", Spec(frames=3)), tmp_path / "out.mp4"
    os.mkfifo(target)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is a pipe, which is not replaced"):
            restore(clip, target, overwrite)
    with pytest.raises(OptionError, match=r"must be a folder, got .*: it is a file"):
        restore(clip, f"{clip}/")
    assert target.is_fifo()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_as_an_input(tmp_path: Path) -> None:
    """It would be read up to its header, and then again from where that ended."""
    os.mkfifo(tmp_path / "clip.mp4")
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    for name in ("clip.mp4", "link.mp4"):
        with pytest.raises(VideoError, match=f"{name} is a pipe, but a video is read more than"):
            restore(tmp_path / name, tmp_path / "out.mp4")
    with pytest.raises(VideoError, match="is a device, but"):
        restore(Path("/dev/null"), tmp_path / "out.mp4")
    for number in (1, 3):
        write(tmp_path / f"{number}.png", draw(number))
    os.mkfifo(tmp_path / "2.png")
    report = restore(tmp_path / "%d.png", tmp_path / "frames.mp4")
    assert report.frames == 2
    assert any("1 numbers from 1 to 3 have no image" in note for note in report.notes)


def test_a_user_who_does_not_exist_has_no_video(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match="refers to the unknown user 'no_such_user'"):
        restore(clip, "~no_such_user/out.mp4")
    with pytest.raises(VideoError, match="there is no file ~no_such_user"):
        restore(Path("~no_such_user/clip.mp4"), tmp_path / "out.mp4")


def test_frames_that_lead_to_an_input_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        write(folder / f"{number}.png", draw(number))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000002.png").symlink_to(folder / "1.png")
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="would overwrite the input"):
        restore(folder, tmp_path / "out" / "%06d.png", overwrite=True)
    assert contents(tmp_path) == before


def test_a_folder_of_others_is_no_workspace(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    own = tmp_path / "out.mp4.resharp"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds other files, e\.g\. thesis\.txt"):
        restore(clip, tmp_path / "out.mp4")
    assert contents(own) == {"thesis.txt": b"mine"}


def test_what_somebody_puts_into_a_workspace_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make(tmp_path / "clip.mp4", Spec(frames=3)), tmp_path / "out.mp4"

    def full(*arguments: Any) -> None:
        raise OutputError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("resharp.video.run.mux", full)
        with pytest.raises(OutputError, match="no space"):
            restore(clip, target)
    own = tmp_path / "out.mp4.resharp"
    (own / "thesis.txt").write_text("mine")
    assert restore(clip, target).resumed_at == 3
    assert contents(own) == {"thesis.txt": b"mine"}


def test_a_result_is_recorded_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make(tmp_path / "clip.mp4", Spec(frames=3)), tmp_path / "out.mp4"

    class KilledError(BaseException):
        pass

    def killed(part: Path, to: Path) -> None:
        if to == target:
            raise KilledError
        own(part, to)

    own = fsutil.commit_file

    with monkeypatch.context() as patch:
        patch.setattr(fsutil, "commit_file", killed)
        with pytest.raises(KilledError):
            restore(clip, target)
    assert not target.exists()
    assert restore(clip, target).resumed_at == 3
    assert len(parts(target).times) == 3


def test_a_file_that_appears_during_the_work_stays(tmp_path: Path) -> None:
    clip, target = make(tmp_path / "clip.mp4", Spec(frames=3)), tmp_path / "out.mp4"
    config: Any = Enlarged(2)

    def progress(done: float, total: float) -> None:
        target.write_bytes(b"mine")

    with pytest.raises(OutputError, match="use `overwrite` to replace it"):
        render_video(clip, target, config, progress=progress)
    assert target.read_bytes() == b"mine"
    target.unlink()
    assert restore(clip, target).resumed_at == 3


def test_a_run_that_makes_nothing_leaves_nothing(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    with pytest.raises(VideoError, match="no frames"):
        restore(clip, tmp_path / "new" / "deeper" / "out.mp4", start=Fraction(9))
    with pytest.raises(ResharpError):
        restore(clip, tmp_path / "new" / "%06d.png", start=Fraction(9))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("name", ["out.avi", "out.heic", "out.png", "f%.png", "out.flv"])
def test_an_extension_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match=r"must be one of .*\.mp4.* got"):
        restore(clip, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("source", "target"), [("", "out.mp4"), ("clip.mp4", ""), ("clip.mp4", "-")]
)
def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "clip.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match=r"empty|standard output"):
        restore(source, target)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


NAMES = ("a.mp4", "a.mkv", "b.mp4", "v/a.mp4", "v/b.mkv", "a.avi")
TARGETS = (*NAMES, "a.webm", "b.mov", "v/", "new/", "v", "c.mp4", "v/%d.png")
FOREIGN = st.lists(st.sampled_from([*NAMES, "v/1.png", "v/timecodes.txt", "c.mp4"]), max_size=5)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    foreign=FOREIGN,
    link=st.sampled_from([None, "b.mp4", "v/a.mp4", "a.mp4", "v/1.png"]),
    runs=st.lists(
        st.tuples(
            st.sampled_from(["film.mkv", "a.mkv", "a.mp4"]), st.sampled_from(TARGETS), st.booleans()
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_is_typed_no_input_and_no_file_of_others_changes(
    tmp_path_factory: pytest.TempPathFactory,
    foreign: list[str],
    link: str | None,
    runs: list[tuple[str, str, bool]],
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    film = make(folder / "film.mkv", ASS)
    (folder / "v").mkdir()
    for name in foreign:
        (folder / name).write_bytes(name.encode())
    for name in ("a.mkv", "a.mp4"):  # inputs
        make(folder / name, Spec(frames=2))
    if link is not None and not (folder / link).exists():
        (folder / link).hardlink_to(film)
    mine = contents(folder)
    for source, target, overwrite in runs:
        inputs = folder / source
        before = inputs.read_bytes()
        try:
            report: Any = restore(inputs, f"{folder}/{target}", overwrite, codec="h264")
        except ResharpError as error:
            report = error
        assert inputs.read_bytes() == before
        now = contents(folder)
        for name, data in list(mine.items()):
            if now.get(name) != data:
                typed = target == name or ("%d" in target and name == "v/1.png")
                assert typed, (name, target, report)
                assert overwrite, (name, target, report)
                mine[name] = now[name]
