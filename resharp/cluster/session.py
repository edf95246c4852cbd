"""Connection to a Ray cluster, and the actors that restore on it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from resharp.checks import check_int, check_number
from resharp.cluster.worker import RestoreWorker, probe_worker
from resharp.errors import BackendError, OptionError
from resharp.optional import require
from resharp.pipeline.restorer import RestoreConfig, RestorerInfo

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a cluster to accept the connection."""
AHEAD = 2
"""Units of work given to each worker at once, so that it does not wait for the next one."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Which cluster to use, and how much of it.

    Raises:
        OptionError: a number is out of range.
    """

    address: str | None = None
    """Address of the cluster's head, e.g. ``host:6379``, or ``auto`` on one of its machines; None:
    ``RAY_ADDRESS`` if it is set, else a cluster of this machine alone, started for the run."""
    workers: int | None = None
    """Number of restorers; None: one per GPU, or one per four cores if there is no GPU."""
    cpus: float | None = None
    """Cores per restorer; None: an equal share of all cores."""
    gpus: float | None = None
    """GPUs per restorer, e.g. 0.5 for two restorers on one GPU; None: 1 if there are any."""
    retries: int = 3
    """How many times Ray restarts a worker that died and retries its unit of work."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_int("workers", self.workers)
        for name in ("cpus", "gpus"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, above=True)
        check_int("retries", self.retries, 0)


class ClusterSession:
    """The workers of one run on a cluster, created by :func:`session`."""

    def __init__(self, ray: Any, config: RestoreConfig, options: ClusterOptions) -> None:
        self._ray, self._options = ray, options
        self.count, (cpus, gpus) = _shares(ray.cluster_resources(), options)
        config = config.on(threads=config.threads or max(int(cpus), 1))
        self._needs = {"num_cpus": cpus, "num_gpus": gpus}
        probe = self._ray.remote(probe_worker).options(**self._needs)
        self.info: RestorerInfo = self._answer(probe.remote(config))
        """Models, backend and device of a worker."""
        self._config = config if self.info.tile is None else config.on(tile=self.info.tile)
        self._actors: list[Any] = []

    def start(self) -> None:
        """Start the workers, without waiting for them."""
        retries = self._options.retries
        actor = self._ray.remote(RestoreWorker).options(
            max_restarts=retries, max_task_retries=retries, **self._needs
        )
        self._actors = [actor.remote(self._config) for _ in range(self.count)]

    def map(
        self, units: Iterable[tuple[Any, ...]], method: str
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Distribute units of work to workers as they become free.

        Args:
            units: arguments of each call of the method; read only as fast as they are processed.
            method: name of the workers' method.

        Yields:
            Each unit with its result, in the order of completion.

        Raises:
            ResharpError: a unit failed, or a worker died more than ``retries`` times.
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
        """Run one unit of work on a worker and wait for it; blocks the calling thread.

        Args:
            which: index of the worker.
            method: name of the worker's method.
            unit: arguments of the method.
            check: called every 0.25 seconds; raising in it stops waiting.

        Raises:
            ResharpError: the unit failed, or the worker died more than ``retries`` times.
        """
        reference = getattr(self._actors[which], method).remote(*unit)
        while not self._ray.wait([reference], timeout=0.25)[0]:
            check()
        return self._answer(reference)

    def _answer(self, reference: Any) -> Any:
        """Return a result, or raise the worker's own exception."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            raise cause from None
        except errors.RayActorError as error:
            raise BackendError(
                f"a worker died after {self._options.retries} restarts. Look at its log, increase "
                "`cpus` so that fewer workers share the memory of a machine, or increase "
                f"`retries`. {error}"
            ) from error

    def stop(self) -> None:
        """Kill the workers."""
        for actor in self._actors:
            with suppress(Exception):  # it may be dead already
                self._ray.kill(actor)


@contextmanager
def session(config: RestoreConfig, options: ClusterOptions) -> Iterator[ClusterSession]:
    """Start workers for a config; they, and a cluster started for them, end with the context.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: the cluster cannot be reached.
        OptionError: the cluster has fewer resources than requested.
        ResharpError: as for :meth:`RestoreConfig.open`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Silences a warning about future handling of CUDA_VISIBLE_DEVICES for workers without a GPU.
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
        if host and port.isdecimal():  # fail early: Ray itself retries for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **extra)
    except (ConnectionError, ImportError, RuntimeError, ValueError, OSError) as error:
        raise BackendError(
            f"cannot connect to the Ray cluster {where or 'on this machine'}: "
            f"{str(error).rstrip('.')}. Use `address`=auto on a machine of the cluster; other "
            "machines may need its token (RAY_AUTH_MODE). The command 'ray start' starts a cluster."
        ) from error


def _shares(have: dict[str, float], options: ClusterOptions) -> tuple[int, tuple[float, float]]:
    """Return the number of workers, and the cores and GPUs of each.

    Raises:
        OptionError: the cluster has fewer resources.
    """
    cpus, gpus = have.get("CPU", 1.0), have.get("GPU", 0.0)
    each = options.gpus if options.gpus is not None else float(gpus > 0)
    count = options.workers or (int(gpus // each) if each else max(int(cpus // 4), 1))
    share = options.cpus or max(cpus // count, 1.0)
    if count * each > gpus or count * share > cpus:
        raise OptionError(
            f"{count} workers with {share:g} cores and {each:g} GPUs each need more than the "
            f"cluster has ({cpus:g} cores, {gpus:g} GPUs): use fewer `workers`"
        )
    return count, (share, each)
