"""Ctrl-C and SIGTERM: one line, the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner

from resharp import deploy
from resharp.cli import interrupts, main
from resharp.drawing import draw
from resharp.engines import Bundle
from tests.held import Child
from tests.waiting import LIMIT, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs named pipes and signals")


def start(*arguments: str) -> Child:
    command = [sys.executable, "-m", "resharp", *arguments]
    return Child(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def reads(process: Child, name: str) -> bool:
    """Whether a process has opened a file."""
    descriptors = Path(f"/proc/{process.pid}/fd")
    try:
        return any(one.readlink().name == name for one in descriptors.iterdir())
    except OSError:  # it has closed one, or ended
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("output", ["out", "-", "b.png"])
def test_the_wait_for_a_pipe_without_a_writer_can_be_ended(
    here: Path, compact: Bundle, number: signal.Signals, code: int, output: str
) -> None:
    os.mkfifo("a.png")
    model = ("-m", str(compact.folder), "--backend", "onnx", "--device", "cpu")
    with start("upscale", "a.png", "-o", output, *model) as process:
        until(lambda: reads(process, "a.png"), "it opens the pipe", process)
        process.send_signal(number)
        out, error = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (code, "")
    assert error.startswith("Interrupted.")
    assert len(error.splitlines()) == 1
    left = [path for path in here.rglob("*") if path.is_file()]
    assert left == []
    assert Path("a.png").is_fifo()


@pytest.mark.slow
def test_a_second_interrupt_ends_the_process_at_once() -> None:
    script = """
import signal, time
from resharp.cli.interrupts import handled_signals
with handled_signals():
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("cleaning up", flush=True)
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                print("swallowed", flush=True)
"""
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        command = [sys.executable, "-c", script]
        with Child(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in ("ready", "cleaning up"):
                assert process.stdout.readline() == f"{line}\n"
                process.send_signal(number)
            assert process.stdout.read() == ""
        assert process.returncode == code


@pytest.mark.slow
def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    """It ends in the middle of a foreign call, without the shutdown that could crash."""
    script = """
import threading
import click
from resharp import joining
from resharp.cli import main
joining.PATIENCE = 0.05
@main.command()
def hang():
    thread = threading.Thread(target=threading.Event().wait, name="resharp-hung-0")
    thread.start()  # not even a daemon
    joining.join([thread])
    click.echo("done")
    raise click.exceptions.Exit(5)
main.get_command = lambda ctx, name: hang
main(["hang"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout) == (5, "done\n")
    assert "gave up waiting for the threads resharp-hung-0, which do not end" in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), interrupts.Terminated()])
def test_every_command_ends_with_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: KeyboardInterrupt
) -> None:
    from resharp import weights
    from resharp.cli import export, info
    from resharp.folders import folder_run

    def interrupted(*args: Any, **how: Any) -> Any:
        raise error

    monkeypatch.setattr(weights, "fetch", interrupted)
    monkeypatch.setattr(deploy, "export_model", interrupted)
    monkeypatch.setattr(export, "export_model", interrupted)
    monkeypatch.setattr(info, "model_info", interrupted)
    monkeypatch.setattr(folder_run, "discover", interrupted)
    assert cv2.imwrite("a.png", draw(8, 8))
    code = 143 if isinstance(error, interrupts.Terminated) else 130
    for arguments, words in (
        (("models", "fetch", "realesr-general-x4v3"), "Interrupted.\n"),
        (("export", "realesr-general-x4v3"), "Interrupted.\n"),
        (("info",), "Interrupted.\n"),
        (("upscale", "a.png", "-o", "out"), "Interrupted. Finished work is kept"),
    ):
        done = CliRunner().invoke(main, list(arguments))
        assert done.exit_code == code, arguments
        assert done.stderr.startswith(words)
        assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def usual_handlers() -> Iterator[None]:
    """Set the handlers that Python starts with; libraries of other tests may have left theirs."""
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    usual[signal.SIGTERM] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_handlers")
def test_the_handlers_of_others_are_theirs() -> None:
    usual, own = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupts.handled_signals():
        assert signal.getsignal(signal.SIGTERM) not in (usual, own)
        with interrupts.handled_signals():  # of the one outside
            pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (usual, own)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupts.handled_signals():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, own)
    done: list[bool] = []

    def elsewhere() -> None:  # where Python allows no handler
        with interrupts.handled_signals():
            done.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [True]
