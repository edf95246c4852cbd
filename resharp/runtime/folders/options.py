"""How folders are restored, and who is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from resharp.errors import OptionError
from resharp.runtime.folders.progress import OnProgress
from resharp.runtime.folders.report import Result


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How folders are restored; what is to become of the pictures is a recipe's matter.

    Raises:
        OptionError: a number makes no sense.
    """

    quality: int | None = None
    """Of JPEG, WebP and AVIF, 1 to 100."""
    overwrite: bool = False
    """Redo what is done."""
    gpus: tuple[int, ...] = ()
    """Numbers of GPUs to share the pictures among."""
    workers: int | None = None
    """Pictures in work at once on each device; None: one on the CPU, with all cores, and on a GPU
    what keeps its backend busy."""
    watch: float | None = None
    """Seconds between two looks at the inputs, for ever; None: one look, and an end."""

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionError(f"A quality of {self.quality} makes no sense. Give 1 to 100.")
        if self.watch is not None and not self.watch > 0:
            raise OptionError(f"an interval of {self.watch} seconds makes no sense: give 1, say")


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Who wants to be told; each may be None. Raising in one ends the run."""

    progress: OnProgress | None = None
    """See :data:`OnProgress`."""
    on_result: Callable[[Result], object] | None = None
    """Called with each result at once, from any thread but never from two together."""
    on_ready: Callable[[], object] | None = None
    """Called once, when the model is open."""
    stop: threading.Event | None = None
    """When it is set, nothing new is begun, what is in work is finished, and the run ends."""

    @property
    def stopping(self) -> bool:
        """Whether somebody wants the run to end."""
        return self.stop is not None and self.stop.is_set()
