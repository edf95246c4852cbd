"""The kernels that TensorRT-RTX compiles at the first run, kept beside the engine."""

from __future__ import annotations

import logging
import threading
from typing import Any

from resharp.engines.engine import Engine, Environment, file_part, target_name
from resharp.engines.engine_store import EngineStore
from resharp.errors import OutputError
from resharp.fsutil import write_whole

logger = logging.getLogger(__name__)


class KernelCache:
    """The runtime cache of one engine on one kind of GPU.

    TensorRT-RTX itself refuses a cache of another version, driver or GPU; then the kernels are
    compiled again, which takes seconds and changes nothing.

    Args:
        config: of the engine's contexts; must not have a context yet.
        engine_store: where the engine is.
        engine: it.
        here: the GPU and driver.
    """

    def __init__(
        self, config: Any, engine_store: EngineStore, engine: Engine, here: Environment
    ) -> None:
        # Kernels are for one model of GPU: two of one compute capability would take turns with it.
        place = f"{target_name(here.capability)}-{here.driver}-{file_part(here.gpu)}"
        self._path = engine_store.folder / f"{engine.key}.cache-{place}"
        self._cache: Any = config.create_runtime_cache()
        self._size = self._load()
        self._lock, self._runs = threading.Lock(), 0
        if not config.set_runtime_cache(self._cache):
            logger.info("TensorRT-RTX does not take a cache: kernels are compiled in each process")

    def save(self) -> None:
        """Write it, if kernels were added; that it cannot be kept is no error."""
        with self._lock:
            serialized = self._cache.serialize()
            if serialized is None:
                logger.info("compiled kernels are not kept: TensorRT-RTX gave none")
                return
            data = bytes(memoryview(serialized))
            if len(data) == self._size:
                return
            try:
                write_whole(self._path, data, parents=True)
            except OutputError as error:
                logger.info("compiled kernels are not kept: %s", str(error))
            self._size = len(data)

    def note_run(self) -> None:
        """Save after the 1st, 2nd, 4th, 8th... run: a process that is killed has kept most."""
        with self._lock:
            self._runs += 1
            due = self._runs & (self._runs - 1) == 0
        if due:
            self.save()

    def _load(self) -> int:
        try:
            data = self._path.read_bytes()
        except OSError:
            return 0
        if not self._cache.deserialize(data):
            logger.info("%s is not for this GPU, driver and version: compiling anew", self._path)
            return 0
        return len(data)
