"""A Ray cluster, and the actors that restore on it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from resharp.cluster.worker import RestoreWorker, probe_worker
from resharp.errors import BackendError, OptionError
from resharp.optional import require
from resharp.pipeline.restorer import RestoreConfig, RestorerInfo

CONNECT_TIMEOUT = 10.0
"""Seconds for a cluster to answer."""
AHEAD = 2
"""Units that each worker is given at once, so that none waits for the next."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Which cluster, and how much of it.

    Raises:
        OptionError: a number makes no sense.
    """

    address: str | None = None
    """Of the cluster's head, ``host:6379`` say, or ``auto`` on one of its machines; None: that of
    ``RAY_ADDRESS``, or one of this machine alone, started for the run."""
    workers: int | None = None
    """Restorers at once; None: one for each GPU, or where there is none, for every four cores."""
    cpus: float | None = None
    """Cores for each; None: its share of all."""
    gpus: float | None = None
    """GPUs for each, 0.5 for two on one; None: 1 where there are any."""
    retries: int = 3
    """How often Ray starts a worker again that died, and tries its unit again."""

    def __post_init__(self) -> None:
        for name in ("workers", "cpus", "gpus"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"{name} is {value!r}; it must be above 0")
        if self.retries < 0:
            raise OptionError(f"retries is {self.retries!r}; it must be at least 0")


class ClusterSession:
    """Workers on a cluster. Made by :func:`session`."""

    def __init__(self, ray: Any, config: RestoreConfig, options: ClusterOptions) -> None:
        self._ray, self._options = ray, options
        self.count, (cpus, gpus) = _shares(ray.cluster_resources(), options)
        config = config.on(threads=config.threads or max(int(cpus), 1))
        self._needs = {"num_cpus": cpus, "num_gpus": gpus}
        probe = self._ray.remote(probe_worker).options(**self._needs)
        self.info: RestorerInfo = self._answer(probe.remote(config))
        """What the workers are."""
        self._config = config if self.info.tile is None else config.on(tile=self.info.tile)
        self._actors: list[Any] = []

    def start(self) -> None:
        """Start the workers."""
        retries = self._options.retries
        actor = self._ray.remote(RestoreWorker).options(
            max_restarts=retries, max_task_retries=retries, **self._needs
        )
        self._actors = [actor.remote(self._config) for _ in range(self.count)]

    def map(
        self, units: Iterable[tuple[Any, ...]], method: str
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Give units to workers as they become free.

        Args:
            units: arguments of the workers' method; read only as fast as they are done.
            method: its name.

        Yields:
            Each unit with its result, as they come.

        Raises:
            ResharpError: a unit cannot be done, or its worker died again and again.
        """
        running: dict[Any, tuple[int, tuple[Any, ...]]] = {}
        busy = [0] * self.count

        def finished() -> tuple[tuple[Any, ...], Any]:
            (reference,), _ = self._ray.wait(list(running), num_returns=1)
            which, unit = running.pop(reference)
            busy[which] -= 1
            return unit, self._answer(reference)

        for unit in units:
            while min(busy) >= AHEAD:
                yield finished()
            which = busy.index(min(busy))
            busy[which] += 1
            running[getattr(self._actors[which], method).remote(*unit)] = (which, unit)
        while running:
            yield finished()

    def call(
        self, which: int, method: str, unit: tuple[Any, ...], check: Callable[[], object]
    ) -> Any:
        """Give a unit to a worker and wait for it; for a thread of one's own.

        Args:
            which: number of the worker.
            method: its name.
            unit: its arguments.
            check: called now and then; raising in it gives up.

        Raises:
            ResharpError: see :meth:`map`.
        """
        reference = getattr(self._actors[which], method).remote(*unit)
        while not self._ray.wait([reference], timeout=0.25)[0]:
            check()
        return self._answer(reference)

    def _answer(self, reference: Any) -> Any:
        """A result; what the worker raised is raised here."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            raise cause from None
        except errors.RayActorError as error:
            raise BackendError(
                f"a worker died, and so did those that Ray started in its place "
                f"({self._options.retries} times): look at its log, give each more memory "
                f"(--cpus-per-worker), or raise --retries. {error}"
            ) from error

    def stop(self) -> None:
        """End the workers."""
        for actor in self._actors:
            with suppress(Exception):  # one that is dead is what we want
                self._ray.kill(actor)


@contextmanager
def session(config: RestoreConfig, options: ClusterOptions) -> Iterator[ClusterSession]:
    """Workers for a config, ready; they end with it, and so does a cluster that was started for it.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: the cluster cannot be reached.
        ResharpError: see :meth:`RestoreConfig.open`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray warns that it will one day leave CUDA_VISIBLE_DEVICES alone for workers without a GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = require("ray", feature="A cluster", extra="ray")
    with ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, options.address)
            stack.callback(ray.shutdown)
        made = ClusterSession(ray, config, options)
        stack.callback(made.stop)
        made.start()
        yield made


def _connect(ray: Any, address: str | None) -> None:
    where = address or os.environ.get("RAY_ADDRESS")
    extra = {} if where else {"include_dashboard": False}
    host, _, port = (where or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # does anybody listen there? Ray itself asks for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **extra)
    except (ConnectionError, ImportError, RuntimeError, ValueError, OSError) as error:
        raise BackendError(
            f"the Ray cluster {where or 'of this machine'} cannot be reached: "
            f"{str(error).rstrip('.')}. On its own machines --address auto finds it; from others "
            "its token may be needed (RAY_AUTH_MODE). One is started with: ray start --head"
        ) from error


def _shares(have: dict[str, float], options: ClusterOptions) -> tuple[int, tuple[float, float]]:
    """Number of workers, and the cores and GPUs of each.

    Raises:
        OptionError: the cluster has less than that.
    """
    cpus, gpus = have.get("CPU", 1.0), have.get("GPU", 0.0)
    each = options.gpus if options.gpus is not None else float(gpus > 0)
    count = options.workers or (int(gpus // each) if each else max(int(cpus // 4), 1))
    share = options.cpus or max(cpus // count, 1.0)
    if count * each > gpus or count * share > cpus:
        raise OptionError(
            f"{count} workers with {share:g} cores and {each:g} GPUs each are more than the "
            f"cluster has ({cpus:g} cores, {gpus:g} GPUs): give fewer --workers"
        )
    return count, (share, each)
