"""OpenVINO on the CPU, in float32, on the bundle's uint8 graph: the whole picture at once."""

from __future__ import annotations

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.records import Actual
from resharp.bench.subjects import Subject
from resharp.engines import Bundle
from resharp.optional import require
from resharp.types import Image


class OpenVino(Subject):
    """See :class:`Subject`."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        openvino = require("openvino", feature="The baseline openvino", extra="")
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if case.threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(case.threads)
        core = openvino.Core()
        model = core.read_model(str(bundle.path(bundle.manifest.graphs["uint8"])))
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def __call__(self, image: Image) -> Image:
        """See :meth:`Subject.__call__`."""
        self._request.infer([np.ascontiguousarray(image[None])])
        return np.array(self._request.get_output_tensor(0).data[0])

    def actual(self, image: Image) -> Actual:
        """See :meth:`Subject.actual`."""
        pixels = image.shape[0] * image.shape[1]
        return Actual(backend="OpenVINO", device="cpu", windows=1, pixels=pixels)


def open_subject(case: Case, bundle: Bundle) -> Subject:
    """See :func:`resharp.bench.subjects.open_subject`."""
    return OpenVino(case, bundle)
