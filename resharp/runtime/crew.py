"""Several restorers at work together: one for each GPU, or a share of the cores for each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from resharp.errors import OptionError
from resharp.gpu.devices import usable_threads
from resharp.runtime.recipe import Recipe, Restorer

FEW_CORES = 4
"""Up to so many, each core restores a picture of its own: measured 1.1 times as fast as all cores
on one picture (SRVGGNetCompact, two cores); beyond, memory would grow with every core."""


class Crew:
    """The restorers of one recipe on several devices. A context manager.

    Args:
        recipe: what they do.
        gpus: numbers of GPUs, one restorer each; empty leaves the device to the recipe.
        workers: pictures in work at once on each device; None: on a GPU what its backend keeps
            busy with, on the CPU a picture for each core, up to 4.
        on_cpu: the same for the CPU alone, where ``workers`` is None.
        most: pictures in work at once that make sense, if so few; None: any.

    Raises:
        OptionError: a number makes no sense.
        ResharpError: see :meth:`Recipe.open`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        gpus: Sequence[int] = (),
        workers: int | None = None,
        on_cpu: int | None = None,
        most: int | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise OptionError(f"workers is {workers!r}; it must be at least 1")
        if len(set(gpus)) != len(gpus) or any(gpu < 0 for gpu in gpus):
            raise OptionError(f"gpus are numbers, each once, not {list(gpus)}")
        if gpus and recipe.settings.device != "auto":
            raise OptionError("give either the device or the GPUs")
        self._most, self._on_cpu = most, on_cpu
        with ExitStack() as stack:
            if gpus:
                self.members = [
                    stack.enter_context(recipe.on(device=f"cuda:{gpu}").open()) for gpu in gpus
                ]
                self._threads = workers
            else:
                self.members = self._unnumbered(recipe, workers, stack)
            self._stack = stack.pop_all()

    def _unnumbered(self, recipe: Recipe, workers: int | None, stack: ExitStack) -> list[Restorer]:
        first = stack.enter_context(recipe.open())
        self._threads = workers
        if not first.place.endswith("on cpu"):
            return [first]
        workers = self._on_cpu if workers is None else workers
        count, threads = _share(recipe.settings.threads, workers, self._most)
        self._threads = 1
        if count == 1:
            return [first]
        memory = recipe.settings.memory / count
        own = first.recipe.on(threads=threads, memory=memory, device="cpu")
        first.close()
        if threads == 1:  # one copy of the weights serves all
            self._threads = count
            return [stack.enter_context(own.open())]
        return [stack.enter_context(own.open()) for _ in range(count)]

    @property
    def first(self) -> Restorer:
        """One of them, to ask: all are alike but for the device."""
        return self.members[0]

    @property
    def calls(self) -> list[Restorer]:
        """A restorer for each picture that is to be in work at once; one may be there twice."""
        rounds = [
            [member] * (member.threads if self._threads is None else self._threads)
            for member in self.members
        ]
        longest = max(map(len, rounds))
        return [one[i] for i in range(longest) for one in rounds if i < len(one)][: self._most]

    def close(self) -> None:
        """Close all; twice does nothing."""
        self._stack.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _share(threads: int | None, workers: int | None, most: int | None) -> tuple[int, int]:
    """Pictures at once on the CPU, and threads for each."""
    here = usable_threads()
    if workers is None:
        workers = max(here // threads, 1) if threads else min(here, FEW_CORES)
    workers = min(workers, most or workers)
    return workers, threads or max(here // workers, 1)
