"""A bare onnxruntime session on the CPU, on the bundle's uint8 graph: the whole picture at once."""

from __future__ import annotations

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.records import Actual
from resharp.bench.subjects import Subject
from resharp.engines import Bundle
from resharp.optional import require
from resharp.types import Image


class Session(Subject):
    """See :class:`Subject`."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        ort = require("onnxruntime", feature="The baseline onnxruntime", extra="cpu")
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        if case.threads is not None:
            settings.intra_op_num_threads = case.threads
        path = bundle.path(bundle.manifest.graphs["uint8"])
        self._session = ort.InferenceSession(
            str(path), settings, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Image) -> Image:
        """See :meth:`Subject.__call__`."""
        return np.asarray(self._session.run(None, {self._input: image[None]})[0][0])

    def actual(self, image: Image) -> Actual:
        """See :meth:`Subject.actual`."""
        pixels = image.shape[0] * image.shape[1]
        return Actual(backend="onnxruntime, bare session", device="cpu", windows=1, pixels=pixels)


def open_subject(case: Case, bundle: Bundle) -> Subject:
    """See :func:`resharp.bench.subjects.open_subject`."""
    return Session(case, bundle)
