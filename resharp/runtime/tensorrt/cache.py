"""The kernels that TensorRT-RTX compiles at the first run, kept beside the engine."""

from __future__ import annotations

import logging
import threading
from typing import Any

from resharp.engines import Engine, Here, Shelf, target_name, write_whole
from resharp.errors import OutputError

log = logging.getLogger(__name__)


class KernelCache:
    """The runtime cache of one engine on one kind of GPU.

    TensorRT-RTX itself refuses a cache of another version, driver or GPU; then the kernels are
    compiled again, which takes seconds and changes nothing.

    Args:
        config: of the engine's contexts; must not have a context yet.
        shelf: where the engine is.
        engine: it.
        here: the GPU and driver.
    """

    def __init__(self, config: Any, shelf: Shelf, engine: Engine, here: Here) -> None:
        place = f"{target_name(here.capability)}-{here.driver}"
        self._path = shelf.folder / f"{engine.key}.cache-{place}"
        self._cache: Any = config.create_runtime_cache()
        self._size = self._load()
        self._lock, self._saved = threading.Lock(), False
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write it, if kernels were added; a folder that cannot be written is no error."""
        data = bytes(memoryview(self._cache.serialize()))
        if len(data) == self._size:
            return
        self._size = len(data)
        try:
            write_whole(self._path, data)
        except OutputError as error:
            log.info("compiled kernels are not kept: %s", str(error))

    def save_once(self) -> None:
        """After a run: a process that is killed later has kept its first kernels."""
        with self._lock:
            if self._saved:
                return
            self._saved = True
        self.save()

    def _load(self) -> int:
        try:
            data = self._path.read_bytes()
        except OSError:
            return 0
        if not self._cache.deserialize(data):
            log.info("%s is not for this GPU, driver and version: compiling anew", self._path)
            return 0
        return len(data)
