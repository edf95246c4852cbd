"""A progress bar whose failures never stop a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from resharp.optional import require

logger = logging.getLogger(__name__)


class Bar:
    """A bar on the terminal, created when it is first drawn, and dropped when drawing fails.

    Args:
        how: arguments of tqdm.
    """

    def __init__(self, **how: Any) -> None:
        self._how, self._dropped = how, False
        self._bar: Any = None

    def draw(self, show: Callable[[Any], object], **how: Any) -> None:
        """Draw the bar; errors of the terminal or tqdm are logged and not raised.

        Args:
            show: sets the bar's values.
            how: further arguments for its creation.
        """
        if not self._dropped:
            self._guarded(lambda: show(self._created(how)))

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._guarded(self._bar.close)

    def _created(self, how: dict[str, Any]) -> Any:
        if self._bar is None:
            tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
            self._bar = tqdm(**self._how, **how, disable=None, leave=False)
        return self._bar

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._bar, self._dropped = None, True
            logger.debug("the progress bar cannot be drawn: %s", error)
            # tqdm may not have released its lock, on which the next bar would block.
            require("tqdm", feature="The progress bar", extra="").tqdm.set_lock(threading.RLock())
