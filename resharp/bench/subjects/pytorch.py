"""A bare PyTorch network in FP32, channels last, on the picture's bytes: the whole picture at once.

What resharp's torch backend adds is seen against this; the script's way (``upstream``) has other
kernels, whose time differs from process to process.
"""

from __future__ import annotations

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.records import Actual
from resharp.bench.subjects import Subject
from resharp.engines import Bundle
from resharp.optional import require
from resharp.types import Image


class PyTorch(Subject):
    """See :class:`Subject`."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        torch = require("torch", feature="The baseline pytorch", extra="torch")
        require("safetensors", feature="The baseline pytorch", extra="torch")
        from resharp import models

        if case.threads is not None:
            torch.set_num_threads(case.threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        checkpoint = models.read_checkpoint(bundle.path(bundle.manifest.weights))
        network = models.build(checkpoint)
        for one in network.parameters():
            if one.ndim == 4:
                one.data = one.data.contiguous(memory_format=torch.channels_last)
        module = models.for_pictures(network, checkpoint.facts, "uint8")
        self._module = module.to(self._device)

    def __call__(self, image: Image) -> Image:
        """See :meth:`Subject.__call__`."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(self._device)
            return np.asarray(self._module(batch)[0].cpu().numpy())

    def actual(self, image: Image) -> Actual:
        """See :meth:`Subject.actual`."""
        pixels = image.shape[0] * image.shape[1]
        return Actual(
            backend="PyTorch, bare network", device=self._device, windows=1, pixels=pixels
        )


def open_subject(case: Case, bundle: Bundle) -> Subject:
    """See :func:`resharp.bench.subjects.open_subject`."""
    return PyTorch(case, bundle)
