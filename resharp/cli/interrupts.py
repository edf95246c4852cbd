"""Ctrl-C and SIGTERM: the first stops the work cleanly, a second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as shells have them."""


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, so that it ends the work as Ctrl-C does."""


def code_of(error: KeyboardInterrupt) -> int:
    """Return the exit code after an interrupt."""
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


@contextmanager
def handled_signals() -> Iterator[None]:
    """Handle both signals, except one that is ignored or has another handler already."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before: dict[signal.Signals, Any] = {}
    asked = False

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal asked
        error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if asked:  # even if the main thread is blocked
            os._exit(code_of(error))
        asked = True
        raise error

    if threading.current_thread() is threading.main_thread():
        for number, handler in usual.items():
            if signal.getsignal(number) is handler:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
