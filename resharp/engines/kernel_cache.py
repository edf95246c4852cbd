"""Cache, next to the engine, of the kernels that TensorRT-RTX compiles at the first run."""

from __future__ import annotations

import logging
import threading
from typing import Any

from resharp.engines.engine import Engine, Environment, file_part, target_name
from resharp.engines.engine_store import EngineStore
from resharp.errors import OutputError
from resharp.fsutil import write_whole
from resharp.reading import read_bounded

LARGEST = 1 << 30
"""Largest size of a cache in bytes; usual ones have a few million."""

logger = logging.getLogger(__name__)


class KernelCache:
    """Runtime cache of one engine on one GPU model.

    TensorRT-RTX itself rejects a cache of another version, driver or GPU; the kernels are then
    compiled again, which takes seconds and does not change results.

    Args:
        config: configuration of the engine's contexts; must not have a context yet.
        engine_store: store that holds the engine.
        engine: the engine.
        here: GPU and driver of this machine.
    """

    def __init__(
        self, config: Any, engine_store: EngineStore, engine: Engine, here: Environment
    ) -> None:
        # Kernels fit one GPU model: models of equal compute capability would overwrite each other.
        place = f"{target_name(here.capability)}-{here.driver}-{file_part(here.gpu)}"
        self._path = engine_store.folder / f"{engine.key}.cache-{place}"
        self._cache: Any = config.create_runtime_cache()
        self._size = self._load()
        self._lock, self._runs = threading.Lock(), 0
        if not config.set_runtime_cache(self._cache):
            logger.info("TensorRT-RTX does not accept a cache: each process compiles the kernels")

    def save(self) -> None:
        """Write the cache if kernels were added; failing to write it is not an error."""
        with self._lock:
            serialized = self._cache.serialize()
            if serialized is None:
                logger.info("compiled kernels are not cached: TensorRT-RTX returned none")
                return
            data = bytes(memoryview(serialized))
            if len(data) == self._size:
                return
            try:
                write_whole(self._path, data, parents=True)
            except OutputError as error:
                logger.info("compiled kernels are not cached: %s", str(error))
            self._size = len(data)

    def note_run(self) -> None:
        """Save after run 1, 2, 4, 8, ..., so that a killed process has saved most kernels."""
        with self._lock:
            self._runs += 1
            due = self._runs & (self._runs - 1) == 0
        if due:
            self.save()

    def _load(self) -> int:
        try:
            data = read_bounded(self._path, LARGEST)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                logger.info("%s is not used: %s", self._path, error)
            return 0
        if not self._cache.deserialize(data):
            logger.info("%s is not for this GPU, driver and version: compiling again", self._path)
            return 0
        return len(data)
