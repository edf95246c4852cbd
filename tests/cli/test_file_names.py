"""Names of files that the output's encoding or the file system's cannot hold: shown, and made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from resharp.cli import main
from resharp.cli.wording import printable
from resharp.drawing import draw
from resharp.engines import Bundle
from tests.cli.commands import call

SUN = "\u65e5.png"
ENCODINGS = ("cp1252", "latin-1", "shift_jis", "ascii", "utf-8")
SMALL = ["--backend", "onnx", "--device", "cpu"]

posix_only = pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")


def image(name: str) -> None:
    data: bytes = cv2.imencode(".png", draw(8, 9))[1].tobytes()
    Path(name).write_bytes(data)


def pixels(name: str) -> Any:
    """What Pillow reads."""
    with Image.open(name) as opened:
        return np.asarray(opened)


def process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command as a shell starts it, with these variables of the environment."""
    unset = ("PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL", "LC_CTYPE", "LANG")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command: list[str | bytes] = [sys.executable, "-m", "resharp", *map(os.fsencode, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment | variables, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


@pytest.mark.parametrize("charset", ENCODINGS)
def test_a_name_that_the_output_lacks_is_replaced(here: Path, charset: str) -> None:
    image(SUN)
    done = CliRunner(charset=charset).invoke(main, ["upscale", SUN, "-o", "\u6708é.png", *SMALL])
    assert (done.exit_code, done.exception) == (0, None)
    assert pixels("\u6708é.png").shape == (32, 36, 3)
    shown = "\u6708é.png".encode(charset, "replace").decode(charset)
    # click takes an ASCII stream for a mistake and writes UTF-8 to it.
    assert f"{shown} (36x32)" in done.stdout or charset == "ascii"
    assert ".png (36x32)" in done.stdout


@pytest.mark.parametrize("charset", ENCODINGS)
def test_errors_and_tables_show_such_names(here: Path, charset: str) -> None:
    """Each keeps its exit code: a usage error, an error of ours, a failed image, a table."""
    runner = CliRunner(charset=charset)
    Path("\u6708").mkdir()
    for arguments, code in (
        (["\u6708"], 2),
        (["info", "\u6708"], 1),
        (["upscale", SUN, "-o", "x.png"], 1),
        (["models", "verify", "yunet", "--weights-dir", "\u6708"], 1),
        (["models", "import", SUN], 1),
    ):
        done = runner.invoke(main, arguments)
        assert done.exit_code == code, arguments
        assert not isinstance(done.exception, UnicodeError)
        assert done.output


@pytest.mark.parametrize("charset", ["cp1252", "ascii"])
def test_json_names_them_exactly(here: Path, charset: str) -> None:
    image(SUN)
    runner = CliRunner(charset=charset)
    done = runner.invoke(main, ["upscale", SUN, "-o", "\u6708/", "--json", *SMALL])
    (result,) = json.loads(done.stdout)["results"]
    assert (result["input"], Path(result["output"])) == (SUN, Path("\u6708") / SUN)
    done = runner.invoke(main, ["models", "list", "--weights-dir", "\u6708", "--json"])
    paths = [row["path"] for row in json.loads(done.stdout) if row["path"]]
    assert paths
    assert all(path.startswith("\u6708") for path in paths)


@posix_only
@pytest.mark.parametrize("charset", ["utf-8", "cp1252"])
def test_names_that_are_no_text_are_shown(here: Path, charset: str) -> None:
    name = os.fsdecode(b"a\xff.png")
    image("a.png")
    Path("a.png").rename(name)
    done = CliRunner(charset=charset).invoke(main, ["upscale", name, "-o", name + ".png", *SMALL])
    assert done.exit_code == 0, done.output
    assert "a\ufffd.png.png".encode(charset, "replace").decode(charset) in done.stdout


@posix_only
@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp1252:strict"])
def test_a_process_ends_with_the_code_of_its_work(here: Path, encoding: str) -> None:
    image(SUN)
    good = process("upscale", SUN, "-o", "\u6708.png", *SMALL, PYTHONIOENCODING=encoding)
    assert good.returncode == 0, good.stderr
    assert b".png (36x32)" in good.stdout
    assert pixels("\u6708.png").shape == (32, 36, 3)
    bad = process("upscale", "\u7121.png", "-o", "x.png", *SMALL, PYTHONIOENCODING=encoding)
    assert bad.returncode == 1
    assert b".png does not exist" in bad.stderr


@posix_only
@pytest.mark.slow
def test_an_ascii_file_system_encoding_is_no_obstacle(here: Path) -> None:
    """The C locale with Python's UTF-8 mode and coercion off, as in old services and cron."""
    names = [SUN, "é" * 120 + ".png", "a" * 247 + ".png"]
    for name in names:
        image(name)
    c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = process("upscale", *names, "-o", "\u6708/", *SMALL, **c)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in Path("\u6708").glob("*.png")) == sorted(names)
    assert {pixels(f"\u6708/{name}").shape for name in names} == {(32, 36, 3)}
    again = process("upscale", *names, "-o", "\u6708/", *SMALL, **c)
    assert b"3 skipped" in again.stdout


@posix_only
def test_controls_in_names_do_not_reach_the_terminal(here: Path, compact: Bundle) -> None:
    names = ["a\x1b[31m.png", "b\nc.png", "d\r.png", "e\x9b.png", "f\t.png"]
    for name in names:
        image(name)
    Path("g\x1b[2J.png").write_bytes(b"no image")
    model = ["-m", str(compact.folder), *SMALL]
    done = CliRunner().invoke(main, ["upscale", *names, "g\x1b[2J.png", "-o", "out", *model])
    assert done.exit_code == 1
    assert {path.name for path in Path("out").glob("*.png")} == set(names)
    one = CliRunner().invoke(main, ["upscale", names[0], "-o", "out2", *model])
    wrong = CliRunner().invoke(main, ["upscale", "x\x1b*.png", "-o", "out3"])
    for result in (done, one, wrong):
        shown = result.stdout + result.stderr
        assert not set(shown) & {chr(code) for code in (*range(10), *range(11, 32), 127, 0x9B)}
    assert "failed: g\\x1b[2J.png: g\\x1b[2J.png is not a supported image" in done.stderr
    assert "out2/a\\x1b[31m.png" in one.stdout
    assert r"no file matches x\x1b*.png" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\x0ab"),
        ("\x00\x7f\x85\t", r"\x00\x7f\x85\x09"),
        ("\ud800\udfff", "\ufffd\ufffd"),
        ("\udce6\udc97\udca5", "\u65e5"),
        ("\udcff", "\ufffd"),
    ],
)
def test_any_text_can_be_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("a\nb", lines=True) == "a\nb"


@pytest.mark.parametrize(
    "arguments",
    [
        ("x" * 70_000,),
        ("upscale", "a.png", f"--{'x' * 70_000}"),
        ("upscale", "a.png", "-o", "out", "--scale", "x" * 70_000),
        ("upscale", "a.png", "-o", "out", "--backend", "x" * 70_000),
        ("upscale", "a.png", "-o", "x" * 70_000),
        ("upscale", "a.png", "-o", "out", "-m", "d/" * 20_000),
        ("video", "x" * 70_000, "-o", "a.mp4"),
        ("export", "x" * 70_000),
        ("bench", "report", "x" * 70_000),
    ],
    ids=range(9),
)
def test_messages_do_not_repeat_a_long_argument(here: Path, arguments: tuple[str, ...]) -> None:
    code, output = call(*arguments)
    assert code in (1, 2)
    assert max(map(len, output.splitlines())) < 1000
