"""Kills the process groups that the runner names, as soon as the runner is gone.

It reads ``+GROUP`` where one begins and ``-GROUP`` where one has ended. The end of its input is the
end of the runner, whatever ended that. A process of its own, since a killed one can do nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Hold the groups until the input ends."""
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
