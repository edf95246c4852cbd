"""A command as a user types it, in this process."""

from __future__ import annotations

from click.testing import CliRunner

from resharp.cli import main


def call(*args: str) -> tuple[int, str]:
    """Exit code, and all that it printed."""
    done = CliRunner().invoke(main, list(args))
    assert "Traceback" not in done.output
    return done.exit_code, done.output
