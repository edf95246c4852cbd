"""Kills the runner's remaining process groups when the runner exits.

Reads ``+GROUP`` when a group starts and ``-GROUP`` when it has ended. The end of the input means
that the runner has exited, for any reason. This is a separate process because a killed runner
cannot clean up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Track the groups until the input ends, then kill the remaining ones."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = set[int]()
    for line in sys.stdin:
        group = int(line[1:])
        (groups.add if line[0] == "+" else groups.discard)(group)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
