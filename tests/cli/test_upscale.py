from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from resharp.cli import main
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.pipeline.restorer import RestoreConfig
from tests import held
from tests.waiting import LIMIT, until


@pytest.fixture
def run(compact: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run ``resharp upscale`` with the tiny x2 model in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str, model: str | None = None) -> Result:
        chosen = model or str(compact.folder)
        return CliRunner().invoke(main, ["upscale", *args, "-m", chosen, "--backend", "onnx"])

    return call


def save(path: str, height: int = 12, width: int = 16, seed: int = 0) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(path, draw(height, width, seed))
    return Path(path)


def shape(path: str) -> tuple[int, ...]:
    picture = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return tuple(picture.shape)


def files(folder: str = ".") -> set[str]:
    """All files in a folder and its subfolders, except those of the journal."""
    found = (p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_file())
    return {path.as_posix() for path in found if ".resharp" not in path.parts}


def test_one_file_to_one_file(run: Any) -> None:
    save("a.jpg")
    done = run("a.jpg", "-o", "big.png")
    assert done.exit_code == 0, done.output
    assert shape("big.png") == (24, 32, 3)
    assert "1 restored with compact, onnx on cpu: big.png (32x24)" in done.output


def test_a_folder_keeps_its_tree_and_formats(run: Any) -> None:
    for name in ("in/a.png", "in/deep/b.jpg", "in/deep/.hidden/c.png", "in/notes.txt"):
        if name.endswith(".txt"):
            Path(name).write_text("no picture")
        else:
            save(name)
    done = run("in", "-o", "out")
    assert done.exit_code == 0, done.output
    assert files("out") == {"a.png", "deep/b.jpg"}


def test_globs_names_formats_and_scale(run: Any) -> None:
    save("a.png")
    save("b.png")
    done = run("*.png", "-o", "out", "--suffix", "_hd", "--format", "webp", "--scale", "1.5")
    assert done.exit_code == 0, done.output
    assert files("out") == {"a_hd.webp", "b_hd.webp"}
    assert shape("out/a_hd.webp") == (18, 24, 3)


def test_without_output_the_result_lies_beside_the_input(run: Any) -> None:
    save("in/a.png")
    assert run("in/a.png").exit_code == 0
    assert run("in/a.png", "--scale", "3").exit_code == 0
    assert files("in") == {"a.png", "a_restored.png", "a_x3.png"}


def test_done_work_is_skipped_unless_told(run: Any) -> None:
    save("a.png")
    run("a.png", "-o", "out/")
    stamp = Path("out/a.png").stat().st_mtime_ns
    done = run("a.png", "-o", "out/")
    assert done.exit_code == 0
    assert "1 skipped (already done; use --overwrite to redo it)" in done.output
    assert Path("out/a.png").stat().st_mtime_ns == stamp
    assert "1 restored" in run("a.png", "-o", "out/", "--overwrite").output
    assert Path("out/a.png").stat().st_mtime_ns > stamp


def test_results_inside_the_input_folder_are_no_inputs(run: Any) -> None:
    save("in/a.png")
    run("in", "-o", "in/out")
    assert "1 skipped" in run("in", "-o", "in/out").output
    assert files("in") == {"a.png", "out/a.png"}


def test_one_bad_file_does_not_stop_the_rest(run: Any) -> None:
    save("in/a.png")
    save("in/z.png")
    cut = save("in/cut.png")
    cut.write_bytes(cut.read_bytes()[:-60])
    Path("in/text.jpg").write_text("I am no picture, whatever my name says.\n" * 20)
    Path("in/zero.png").write_bytes(b"")
    done = run("in", "missing.png", "-o", "out")
    assert done.exit_code == 1
    assert "2 restored, 4 failed" in done.output
    for name in ("cut.png", "text.jpg", "zero.png", "missing.png"):
        assert f"failed: {name}" in done.output.replace("in/", "")
    assert "Traceback" not in done.output
    assert files("out") == {"a.png", "z.png"}


def test_json_tells_all(run: Any) -> None:
    save("a.png")
    Path("b.png").write_bytes(b"")
    done = run("a.png", "b.png", "-o", "out", "--json")
    report = json.loads(done.stdout)
    assert (report["model"], report["backend"], report["device"]) == ("compact", "onnx", "cpu")
    good, bad = report["results"]
    assert (good["status"], good["width"], good["height"], good["error"]) == (
        "restored",
        32,
        24,
        "",
    )
    assert (bad["status"], bad["code"], good["code"]) == ("failed", "invalid-image", "")
    assert "b.png" in bad["error"]


def test_an_input_is_never_overwritten_and_names_never_collide(run: Any) -> None:
    save("a.png")
    save("a.jpg", seed=1)
    before = Path("a.png").read_bytes()
    done = run("a.png", "-o", ".", "--overwrite")
    assert done.exit_code == 1
    assert "would overwrite the input a.png: choose another -o or --suffix" in done.output
    assert Path("a.png").read_bytes() == before
    assert run("a.png", "a.jpg", "-o", "out", "--format", "png").exit_code == 0
    assert files("out") == {"a.png", "a.jpg.png"}
    save("sub/a.png")
    done = run("a.png", "sub/a.png", "-o", "new", "--format", "png")
    assert done.exit_code == 1
    assert "1 restored, 1 failed" in done.output
    assert "would have the same name as that of" in done.output


def test_results_beside_their_inputs_are_no_inputs(run: Any) -> None:
    save("in/a.png")
    save("in/b.png")
    for expected in ("2 restored", "2 skipped"):
        assert expected in run("in").output
    assert "2 restored" in run("in", "--scale", "3").output
    assert files("in") == {f"{n}{s}.png" for n in "ab" for s in ("", "_restored", "_x3")}
    assert (
        "2 restored"
        in run("in", "-o", "in", "--suffix", "_hd", "--overwrite").output.replace(
            "6 restored", "too many"
        )
        or len(files("in")) == 12
    )
    assert "1 restored" in run("in/a_restored.png").output  # named by the user


def test_globs_keep_the_tree_and_take_pictures_only(run: Any) -> None:
    for name in ("in/a.png", "in/deep/a.png", "in/other/a.jpg"):
        save(name)
    Path("in/notes.txt").write_text("no picture")
    for expected in ("3 restored", "3 skipped"):
        done = run("in/**/*", "-o", "in/out")
        assert done.exit_code == 0, done.output
        assert expected in done.output
    assert files("in/out") == {"a.png", "deep/a.png", "other/a.jpg"}


def test_names_that_are_too_long_are_failures_of_their_own(run: Any) -> None:
    save("a.png")
    done = run("x" * 300 + ".png", "a.png", "-o", "out")
    assert done.exit_code == 1
    assert "1 restored, 1 failed" in done.output
    done = run("a.png", "-o", "out2", "--suffix", "y" * 300)
    assert done.exit_code == 1
    assert "1 failed" in done.output
    done = run("a.png", "-o", "out3", model="m" * 300)
    assert done.exit_code == 1
    assert "no model is called" in done.output


def test_a_result_too_large_for_memory_is_one_failure(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a.png")
    save("b.png", 20, 20)
    empty = np.empty

    def cramped(shape: Any, *args: Any, **options: Any) -> Any:
        if shape == (40, 40, 3):
            raise MemoryError
        return empty(shape, *args, **options)

    monkeypatch.setattr("resharp.runtime.upscaler.np.empty", cramped)
    done = run("b.png", "a.png", "-o", "out")
    assert done.exit_code == 1
    assert "1 restored, 1 failed" in done.output
    assert "no memory for a result of 40x40 pixels" in done.output


def test_endings_that_mean_the_same_do_not_contradict(run: Any) -> None:
    save("a.png")
    assert run("a.png", "-o", "o.jpg", "--format", "jpeg").exit_code == 0
    assert run("a.png", "-o", "o.tif", "--format", "tiff").exit_code == 0
    done = run("a.png", "-o", "o.gif")
    assert "the extension of -o must be one of " in done.output
    assert not Path("o.gif").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nothing*.png", "-o", "out"), "no file matches"),
        (("empty", "-o", "out"), "no images in the folder empty"),
        (("a.png", "-o", "out", "--format", "xyz"), "--format must be one of "),
        (
            ("a.png", "-o", "out.png", "--format", "jpg"),
            "--format must match the extension of out.png",
        ),
        (
            ("a.png", "a2.png", "-o", "one.png"),
            "2 images need a folder as -o, got the file one.png",
        ),
        (("a.png", "-o", "out", "--suffix", "../x"), "path separator"),
        (("a.png", "-o", "out", "--scale", "0"), "--scale must be in (0, 32], got 0.0"),
    ],
)
def test_requests_that_make_no_sense(run: Any, args: tuple[str, ...], message: str) -> None:
    save("a.png")
    save("a2.png")
    Path("empty").mkdir()
    done = run(*args)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not Path("out").exists()


def test_unknown_and_unexported_models(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHARP_HOME", "home")
    save("a.png")
    done = run("a.png", "-o", "out", model="realesrgan-x4plsu")
    assert done.exit_code == 1
    assert "did you mean" in done.output
    assert "realesrgan-x4plus" in done.output
    done = run("a.png", "-o", "out", model="RealESRGAN_x4plus")
    assert "resharp export realesrgan-x4plus" in done.output
    assert not Path("out").exists()


def test_an_unwritable_folder_is_one_clear_failure(run: Any) -> None:
    save("a.png")
    Path("file").write_text("in the way")
    done = run("a.png", "-o", "file/out")
    assert done.exit_code == 1
    assert "failed: a.png" in done.output
    assert "Traceback" not in done.output


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="mounting a small tmpfs needs root"
)
def test_a_full_disk_leaves_nothing(run: Any, tmp_path: Path) -> None:
    place = tmp_path / "tiny-disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs could be mounted: {mount.stderr.decode()}")
    try:
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
        cv2.imwrite("noise.png", noise)
        done = run("noise.png", "-o", str(place / "noise.png"))
        assert done.exit_code == 1
        assert "No space left" in done.output
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_whole_files_and_goes_on(
    run: Any, number: signal.Signals, tmp_path: Path
) -> None:
    for index in range(40):
        save(f"in/{index:02}.png", seed=index)
    command = ["-m", "tests.held", "20", "upscale", "in", "-o", "out"]
    with held.start(*command, stderr=subprocess.STDOUT) as process:
        until(lambda: list(Path("out").glob("*.png")), alive=process)
        process.send_signal(number)
        output = process.communicate(timeout=LIMIT)[0]
    assert process.returncode != 0
    assert "Traceback" not in output
    done = [path for path in Path("out").iterdir() if not path.name.startswith(".")]
    assert 0 < len(done) < 40
    for path in done:
        assert shape(str(path)) == (48, 64, 3)
    again = CliRunner().invoke(main, ["upscale", "in", "-o", "out", "--backend", "onnx"])
    assert again.exit_code == 0
    assert f"{40 - len(done)} restored, {len(done)} skipped" in again.output
    assert len([p for p in Path("out").iterdir() if p.suffix == ".png"]) == 40


def test_views_average_flips_and_turns(run: Any) -> None:
    save("a.png", 16, 16)
    cv2.imwrite("flipped.png", np.ascontiguousarray(draw(16, 16)[::-1, ::-1]))
    assert run("a.png", "flipped.png", "-o", "out", "--tta", "8").exit_code == 0
    assert run("a.png", "-o", "one.png").exit_code == 0
    eight, turned, one = (
        np.asarray(cv2.imread(path)) for path in ("out/a.png", "out/flipped.png", "one.png")
    )
    np.testing.assert_array_equal(eight, turned[::-1, ::-1])
    assert np.any(eight != one)
    refused = run("a.png", "--tta", "2", "--face", "codeformer", "--aligned")
    assert "leave out --tta" in refused.output


def test_what_changed_is_redone_and_said(run: Any) -> None:
    save("in/a.png")
    save("in/b.png")
    first = run("in", "-o", "out").output
    assert "2 restored with compact, onnx on cpu; " in first
    assert " images/s, " in first
    assert " MP/s out, waiting: read " in first
    save("in/a.png", seed=3)
    Path("out/b.png").write_bytes(b"mine")
    save("in/b.png", seed=4)
    done = run("in", "-o", "out")
    assert done.exit_code == 0
    assert "1 restored (1 redone: input, model or options changed), 1 skipped" in done.output
    assert "note: out/b.png: changed since it was written" in done.output.replace(os.sep, "/")
    assert Path("out/b.png").read_bytes() == b"mine"


def test_json_has_speed_and_stages(run: Any) -> None:
    save("in/a.png")
    report = json.loads(run("in", "-o", "out", "--json", "--workers", "2").stdout)
    assert report["speed"]["images_per_second"] > 0
    assert [stage["name"] for stage in report["stages"]] == ["claim", "read", "restore", "write"]
    assert [stage["threads"] for stage in report["stages"]] == [1, 2, 2, 2]
    report = json.loads(run("in", "-o", "out", "--json").stdout)
    assert (report["model"], report["stages"], report["speed"]["seconds"]) == (None, [], 0)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("in", "-o", "out", "--device", "cuda:0,0"), 1, "--device must name GPUs, each once"),
        (("in", "-o", "out", "--tile", "huge"), 2, "is not 'auto', 'whole' or a number of pixels."),
        (("in", "-o", "out", "--tile", "9" * 5000), 2, "'... is not 'auto', 'whole' or a number"),
        (("in", "-o", "out", "--interval", "3"), 1, "--interval requires --watch"),
        (("in", "-o", "out", "--watch", "--interval", "0"), 2, "--interval"),
        (("in/a.png", "-o", "out", "--watch"), 1, "--watch requires existing folders or globs"),
    ],
)
def test_options_of_folders_that_make_no_sense(
    run: Any, args: tuple[str, ...], code: int, message: str
) -> None:
    save("in/a.png")
    done = run(*args)
    assert (done.exit_code, message in done.output) == (code, True), done.output
    assert not Path("out").exists()


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="mounting a small tmpfs needs root"
)
def test_a_full_disk_ends_a_folder(run: Any, tmp_path: Path) -> None:
    place = tmp_path / "tiny-disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", place],
        capture_output=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs could be mounted: {mount.stderr.decode()}")
    try:
        for seed in range(12):
            noise = np.random.default_rng(seed).integers(0, 256, (60, 60, 3)).astype(np.uint8)
            Path("in").mkdir(exist_ok=True)
            cv2.imwrite(f"in/{seed:02}.png", noise)
        done = run("in", "-o", str(place / "out"))
        assert done.exit_code == 1
        assert "Error: " in done.output
        assert "No space left" in done.output
        assert " restored, " in done.output  # what was done before
        assert len(files(str(place / "out"))) < 12
        assert not [name for name in files(str(place)) if name.endswith(".part")]
    finally:
        subprocess.run(["umount", place], check=True)


def piped(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "resharp", "upscale", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=LIMIT)


@pytest.mark.slow
def test_standard_input_and_output(run: Any, compact: Bundle) -> None:
    data = save("a.png").read_bytes()
    options = ("-m", str(compact.folder), "--backend", "onnx")
    run("a.png", "-o", "expected.png")
    expected = Path("expected.png").read_bytes()
    before = set(Path().rglob("*"))
    for source in ("-", "a.png"):
        done = piped(source, "-o", "-", *options, stdin=data)
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected
    assert (
        piped("-", "-o", "-", "--format", "jpg", *options, stdin=data).stdout[:3] == b"\xff\xd8\xff"
    )
    assert set(Path().rglob("*")) == before
    assert piped("-", "-o", "b.png", *options, stdin=data).returncode == 0
    assert Path("b.png").read_bytes() == expected
    assert piped("-", "-o", "new/", *options, stdin=data).returncode == 0
    assert Path("new/stdin.png").read_bytes() == expected


@pytest.mark.slow
def test_standard_input_has_limits(run: Any, compact: Bundle) -> None:
    data = save("a.png").read_bytes()
    options = ("-m", str(compact.folder), "--backend", "onnx")
    done = piped("-", "-o", "b.png", "--max-pixels", "191", *options, stdin=data)
    assert done.returncode == 1
    assert b"standard input has 16 x 12 pixels, over the limit of 191." in done.stderr
    assert b"set --max-pixels to 192" in done.stderr
    done = piped("-", "-o", "b.png", *options, stdin=b"no image" * 9)
    assert b"standard input is not a supported image" in done.stderr
    long = save("long.png", 1, 8192).read_bytes()
    done = piped("-", "-o", "b.webp", *options, stdin=long)
    assert b"WebP holds at most 16383 pixels per side, but the image is 16384 x 2" in done.stderr
    assert not Path("b.png").exists()
    assert not Path("b.webp").exists()


@pytest.mark.parametrize("source", ["-", "a.png"])
def test_the_file_behind_a_stream_is_an_input(run: Any, source: str) -> None:
    data = save("a.png").read_bytes()
    os.link("a.png", "b.png")
    command = [sys.executable, "-m", "resharp", "upscale", source, "-o"]
    for output, words in (
        ("-", "standard output is the input file"),
        ("b.png", "the result would overwrite the input"),
    ):
        with Path("a.png").open("rb") as stdin, Path("b.png").open("ab") as stdout:
            done = subprocess.run(
                [*command, output, "--overwrite"],
                stdin=stdin,
                stdout=stdout if output == "-" else subprocess.PIPE,
                stderr=subprocess.STDOUT if output != "-" else subprocess.PIPE,
                check=False,
                timeout=LIMIT,
            )
        assert done.returncode == 1
        assert words in (done.stderr or done.stdout).decode()
        assert Path("a.png").read_bytes() == data


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("output", ["-", "b.png"])
def test_a_full_standard_output_is_one_line(run: Any, output: str, compact: Bundle) -> None:
    save("a.png")
    command = [sys.executable, "-m", "resharp", "upscale", "a.png", "-o", output]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*command, "-m", str(compact.folder), "--backend", "onnx"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=LIMIT,
        )
    assert done.returncode == 1
    assert b"Error: standard output cannot be written: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_stream_is_an_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from resharp.cli.upscale import restore_stream

    save("a.png")
    how: dict[str, Any] = {"suffix": None, "format_": None, "quality": None, "overwrite": False}
    for name, source, output in (("stdin", "-", "b.png"), ("stdout", "a.png", "-")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, None)
            with pytest.raises(OptionError, match="is closed: redirect it, or name a file"):
                restore_stream(RestoreConfig(), [source], output, **how)
    assert files() == {"a.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-", "a.png", "-o", "-"), "are for one image, got 2"),
        (("-",), "needs an --output"),
        (("a.png", "-o", "-", "--format", "xyz"), "--format must be one of "),
        (("a.png", "-o", "-", "--format", "gif"), "--format must be one of "),
        (("-", "-o", "b.png", "--format", "jpg"), "--format must match the extension of b.png"),
        (("-", "-o", "-", "--json"), "--json is not possible"),
        (("a.png", "-o", "-", "--watch"), "--watch is not possible"),
        (("-", "-o", "b.png"), "standard input is empty"),
        (("gone.png", "-o", "-"), "gone.png does not exist"),
        (("a.png", "-o", "out.heic"), "must be one of .avif"),
        (("a.png", "-o", "results.v2"), "end it with a slash: results.v2/"),
        (("a.png", "-o", ""), "-o is empty"),
        (("", "-o", "out"), "an input is empty"),
    ],
)
def test_refused_before_anything_is_done(run: Any, arguments: tuple[str, ...], words: str) -> None:
    save("a.png")
    done = run(*arguments)
    assert done.exit_code == 1
    assert words in done.output
    assert files() == {"a.png"}


def test_what_is_there_of_a_truncated_image_is_restored_on_request(run: Any) -> None:
    data = save("a.png", 40, 30).read_bytes()
    Path("a.png").write_bytes(data[: len(data) // 2])
    done = run("a.png", "-o", "b.png")
    assert done.exit_code == 1
    assert "or use --allow-truncated to restore the readable part." in done.output
    done = run("a.png", "-o", "b.png", "--allow-truncated")
    assert done.exit_code == 0, done.output
    assert "note: b.png: the file is truncated: the last " in done.output
    assert shape("b.png") == (80, 60, 3)


@pytest.mark.slow
def test_standard_input_may_be_truncated(compact: Bundle, tmp_path: Path) -> None:
    data = save(str(tmp_path / "a.png"), 40, 30).read_bytes()
    cut, options = data[: len(data) // 2], ("-m", str(compact.folder), "--backend", "onnx")
    assert piped("-", "-o", "-", *options, stdin=cut).returncode == 1
    done = piped("-", "-o", "-", "--allow-truncated", *options, stdin=cut)
    assert done.returncode == 0, done.stderr
    assert b"note: standard input: the file is truncated: the last " in done.stderr
