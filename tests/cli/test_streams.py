"""Standard streams that are closed, full or gone: no trace, no hang, the right exit code."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner

from resharp.cli import main
from resharp.cli.common import Bar, ProgressBar
from resharp.drawing import draw
from resharp.engines import Bundle
from tests.cli.commands import call
from tests.waiting import LIMIT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a shell")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
SHOWN = (
    ("--help",),
    ("models", "list"),
    ("models", "list", "--json"),
)


def shell(redirection: str, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command, with its streams redirected by a shell."""
    command = f'{{ "$@" {redirection}; }} 2>error; echo $? >code'
    if redirection.endswith("| true"):
        command = f'{{ {{ sleep 0.1; "$@"; echo $? >code; }} {redirection}; }} 2>error'
    full = ["sh", "-c", command, "sh", sys.executable, "-m", "resharp", *arguments]
    done = subprocess.run(full, stdout=subprocess.DEVNULL, timeout=LIMIT, check=False)
    assert done.returncode in (0, 1, 141)
    error = Path("error").read_text(encoding="utf-8")
    assert "Traceback" not in error
    assert "Exception ignored" not in error
    return int(Path("code").read_text(encoding="ascii")), error


def upscale(compact: Bundle, *more: str) -> tuple[str, ...]:
    for number in range(3):
        Path("in").mkdir(exist_ok=True)
        assert cv2.imwrite(f"in/{number}.png", draw(12, 16, number))
    model = ("-m", str(compact.folder), "--backend", "onnx", "--device", "cpu")
    return ("upscale", "in", "-o", "out", *model, *more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "json_too"),
    [
        ("2>&-", 0, ()),
        (">&-", 0, ("--json",)),
        ("<&-", 0, ()),
        ("<&- >&- 2>&-", 0, ("--json",)),
        pytest.param("2>/dev/full", 0, (), marks=FULL),
        pytest.param(">/dev/full", 1, (), marks=FULL),
        pytest.param(">/dev/full", 1, ("--json",), marks=FULL),
        pytest.param(">/dev/full 2>/dev/full", 1, (), marks=FULL),
        ("| true", 141, ()),
        ("| true", 141, ("--json",)),
    ],
)
def test_the_work_is_done_whatever_the_streams_are(
    here: Path, compact: Bundle, redirection: str, code: int, json_too: tuple[str, ...]
) -> None:
    found, error = shell(redirection, *upscale(compact, *json_too))
    assert found == code
    assert {path.name for path in Path("out").glob("*.png")} == {"0.png", "1.png", "2.png"}
    assert ("standard output cannot be written: No space left" in error) == (
        redirection == ">/dev/full"
    )


@pytest.mark.slow
@FULL
@pytest.mark.parametrize("arguments", SHOWN)
def test_what_cannot_be_printed_is_one_line(here: Path, arguments: tuple[str, ...]) -> None:
    code, error = shell(">/dev/full", *arguments)
    assert code == 1
    assert error.startswith("Error: standard output cannot be written: No space left on device.")
    assert shell("| true", *arguments) == (141, "")
    assert shell(">&- 2>&-", *arguments) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "<&- >&- 2>&-"])
def test_the_exit_code_of_an_error_does_not_depend_on_its_message(
    here: Path, redirection: str
) -> None:
    assert shell(redirection, "upscale", "--nonsense")[0] == 2
    assert shell(redirection, "upscale", "nothing.png", "-o", "out")[0] == 1


@pytest.mark.slow
def test_the_place_of_a_closed_stream_is_taken() -> None:
    """Or the next file that is opened would get what libraries print."""
    script = """
import os, sys
from resharp.cli.streams import is_closed, standard_streams
with standard_streams():
    assert is_closed(sys.stdout) and is_closed(sys.stderr), (sys.stdout, sys.stderr)
    with open("result", "wb") as file:
        assert file.fileno() > 2, file.fileno()
        os.write(1, b"printed by a library")
        os.write(2, b"printed by a library")
        print("printed", flush=True)
        print("printed", file=sys.stderr, flush=True)
        os.system("echo printed")
"""
    command = 'exec "$@" <&- >&- 2>&-'
    folder = Path.cwd()
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", script],
        timeout=LIMIT,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0
    result = folder / "result"
    assert result.read_bytes() == b""
    result.unlink()


class Broken(io.StringIO):
    """A terminal that is gone."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("stream", [None, Broken()])
def test_a_bar_that_cannot_be_drawn_is_dropped_and_leaves_no_lock(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        for _ in range(2):  # the second would wait for the lock of the first
            bar = ProgressBar()
            for done in range(3):
                bar(done, 3)
            bar.close()
    assert Bar().close() is None  # type: ignore[func-returns-value]


def test_a_bar_whose_package_cannot_be_imported_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As tqdm with TQDM_NCOLS=x, which it reads while it is imported."""

    def broken(name: str) -> None:
        raise ValueError("invalid literal for int() with base 10: 'x'")

    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    monkeypatch.setattr("resharp.optional.importlib.import_module", broken)
    bar = ProgressBar()
    for done in range(3):
        bar(done, 3)
    bar.close()


def test_an_interrupt_while_the_bar_is_drawn_is_none_of_its_faults() -> None:
    def interrupted(bar: Any) -> None:
        raise KeyboardInterrupt

    bar = Bar()
    with pytest.raises(KeyboardInterrupt):
        bar.draw(interrupted)
    bar.close()


def test_an_error_is_printed_as_json_too(here: Path) -> None:
    for arguments in (
        ("upscale", "*.png", "-o", "out"),
        ("upscale", "a.png", "-o", "out", "--scale", "99"),
        ("info", "nothing"),
        ("bench", "capacity", "--memory", "much"),
        ("bench", "compare", "a.jsonl", "b.jsonl"),
        ("engines", "list", "--store", "."),
    ):
        done = CliRunner().invoke(main, [*arguments, "--json"])
        if arguments[0] == "engines":
            assert (done.exit_code, json.loads(done.stdout)) == (0, json.loads(done.stdout))
            continue
        assert done.exit_code == 1
        found = json.loads(done.stdout)
        assert set(found) == {"error", "code"}
        assert found["error"] in done.stderr
        assert found["code"] in done.stderr
    code, said = call("info", "nothing")
    assert code == 1
    assert '"error"' not in said


def test_the_report_of_a_run_that_ends_early_holds_the_error(
    here: Path, compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.errors import OutputError
    from resharp.folders import folder_run

    def full(*args: Any) -> None:
        raise OutputError("the disk is full: use another `dst`") from OSError(28, "No space left")

    arguments = upscale(compact, "--json")
    monkeypatch.setattr(folder_run, "write", full)
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["error"], found["code"]) == ("the disk is full: use another -o", "output")
    assert found["results"][0]["status"] == "failed"


def test_an_error_of_a_video_is_an_event(here: Path) -> None:
    done = CliRunner().invoke(main, ["video", "a.mp4", "-o", "b.mp4", "--scale", "99", "--json"])
    assert done.exit_code == 1
    (event,) = map(json.loads, done.stdout.splitlines())
    assert event == {
        "event": "failed",
        "error": "--scale must be in (0, 32], got 99.0",
        "kind": "OptionError",
        "code": "invalid-option",
    }


def test_a_log_line_that_cannot_be_written_is_no_trace() -> None:
    script = """
import logging, os, sys
from resharp.cli.streams import standard_streams
with standard_streams():
    logging.basicConfig()
    logging.getLogger("resharp").warning("lost")
    sys.stderr.write("lost")
"""
    for target in ("2>&-", "2>/dev/full" if os.path.exists("/dev/full") else "2>&-"):
        command = ["sh", "-c", f'exec "$@" {target}', "sh", sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert logging.raiseExceptions
