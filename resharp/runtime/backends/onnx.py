"""The onnx backend: ONNX Runtime on the CPU, or on CUDA with onnxruntime-gpu."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from resharp.engines import Bundle
from resharp.errors import BackendError, OutOfMemoryError
from resharp.memory import available_memory
from resharp.optional import require
from resharp.runtime.backends.base import Backend, BackendOptions, check_result, ensure_open
from resharp.types import Image

# ONNX Runtime has no exception type for out of memory.
_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
"""ONNX Runtime's names for the dtypes of graphs."""
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "out of memory", "CUDNN_STATUS_ALLOC")


class OnnxBackend(Backend):
    """ONNX Runtime sessions of the bundle's graphs; the float32 one is created on first use.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        BackendError: ONNX Runtime cannot run on the device or cannot load the graph.
    """

    name = "onnx"

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Return why ONNX Runtime cannot run on the device; None if it can."""
        extra = "gpu" if options.on_cuda else "cpu"
        ort = require("onnxruntime", feature="The onnx backend", extra=extra)
        if options.on_cuda and "CUDAExecutionProvider" not in ort.get_available_providers():
            return (
                f"onnxruntime {ort.__version__} has no CUDA provider: "
                "run pip uninstall onnxruntime; pip install 'resharp[gpu]'"
            )
        return None

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        super().__init__(bundle, options)
        self._lock = threading.Lock()
        self._sessions: dict[str, Any] = {"uint8": self._session("uint8")}

    def infer(self, batch: Image, extra: Mapping[str, float] | None = None) -> Image:
        """Run the network on a batch of images, as described in :meth:`Backend.infer`."""
        scalars = self.scalars(batch, extra)
        session = self._for(batch.dtype.name)
        extra_names = {one.name for one in self.manifest.extra}
        source = next(one.name for one in session.get_inputs() if one.name not in extra_names)
        feeds = {source: batch}
        for one, number in zip(self.manifest.extra, scalars, strict=True):
            feeds[one.name] = np.array([number], np.float32)
        try:
            out: Image = session.run(None, feeds)[0]
        except Exception as error:
            if any(mark in str(error) for mark in _NO_MEMORY):
                raise OutOfMemoryError(f"onnxruntime: {error}") from error
            raise BackendError(
                f"onnxruntime failed with a batch of {batch.shape}: {error}"
            ) from error
        check_result(out, batch[0], len(batch), self.manifest.scale, self.manifest.name)
        return out

    def free_memory(self) -> int:
        """Return the free memory of the machine or the GPU, in bytes."""
        if not self.options.on_cuda:
            return available_memory()
        from resharp.gpu.devices import cuda_free_memory

        return cuda_free_memory(self.options.index)

    def close(self) -> None:
        """Release the sessions. Closing twice is harmless."""
        with self._lock:
            self._sessions = {}

    def _for(self, dtype: str) -> Any:
        session = self._sessions.get(dtype)
        if session is None:
            with self._lock:
                ensure_open(bool(self._sessions), self.name)
                session = self._sessions.get(dtype) or self._session(dtype)
                self._sessions[dtype] = session
        return session

    def _session(self, dtype: str) -> Any:
        ort = require("onnxruntime", feature="The onnx backend", extra="cpu")
        if dtype not in self.manifest.graphs:
            raise BackendError(f"the bundle {self.manifest.name!r} has no {dtype} graph")
        settings = ort.SessionOptions()
        settings.log_severity_level = 3  # errors only: warnings concern its internal choices
        if self.options.cpu_threads is not None:
            settings.intra_op_num_threads = self.options.cpu_threads
        path = self._bundle.path(self.manifest.graphs[dtype])
        wanted, place = "CPUExecutionProvider", dict[str, int]()
        if self.options.on_cuda:
            wanted, place = "CUDAExecutionProvider", {"device_id": self.options.index}
        try:
            session = ort.InferenceSession(str(path), settings, providers=[(wanted, place)])
        except Exception as error:
            raise BackendError(f"onnxruntime cannot load {path}: {error}") from error
        if reason := self._misfit(session, dtype):
            raise BackendError(f"{path} does not match its manifest ({reason}): export it again")
        if session.get_providers()[0] != wanted:  # it falls back to the CPU silently
            raise BackendError(
                f"onnxruntime {ort.__version__} could not start {wanted}: its CUDA and cuDNN "
                "libraries are missing or do not match: run 'resharp doctor'"
            )
        return session

    def _misfit(self, session: Any, dtype: str) -> str:
        """Return how the tensors of a graph differ from the manifest; empty if they match."""
        kind, side = _TYPES[dtype], self.manifest.fixed_size
        inputs, outputs = session.get_inputs(), session.get_outputs()
        extra = [one.name for one in self.manifest.extra]
        images = [one for one in inputs if one.name not in extra]
        if len(images) != 1 or len(inputs) != 1 + len(extra) or len(outputs) != 1:
            names = ", ".join(one.name for one in (*inputs, *outputs))
            return f"its tensors are {names}, expected {' and '.join(['one input', *extra])}"
        for one in (*images, *outputs):
            if one.type != kind or len(one.shape) != 4:
                return f"{one.name} is {one.type} {one.shape}, expected {kind} [n, h, w, 3]"
        count, *sides, channels = images[0].shape
        if isinstance(count, int) or (isinstance(channels, int) and channels != 3):
            return f"{images[0].name} is {images[0].shape}, expected [n, h, w, 3]"
        if any(isinstance(one, int) and one != side for one in sides):
            return f"it takes images of {sides}, expected {side or 'any size'}"
        for one in inputs:
            if one.name in extra and (one.type != _TYPES["float32"] or one.shape != [1]):
                return f"{one.name} is {one.type} {one.shape}, expected one float32 number"
        return ""
