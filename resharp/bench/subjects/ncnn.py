"""ncnn on the CPU, in float32: the network converted by pnnx, the whole picture at once.

ncnn is what the portable upscalers run on; Tencent's, BSD-3-Clause. It takes and gives float
planes, so the conversions from and to bytes are numpy's and count.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.records import Actual
from resharp.bench.subjects import Subject
from resharp.engines import Bundle
from resharp.errors import BackendError
from resharp.optional import require
from resharp.types import Image


class Ncnn(Subject):
    """See :class:`Subject`."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        self._ncnn = require("ncnn", feature="The baseline ncnn", extra="")
        self._folder = tempfile.TemporaryDirectory(prefix="resharp-ncnn-")
        param, weights = _convert(bundle, Path(self._folder.name))
        self._net = self._ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        # It would round to half precision on processors that have it.
        self._net.opt.use_fp16_packed = self._net.opt.use_fp16_storage = False
        self._net.opt.use_fp16_arithmetic = self._net.opt.use_bf16_storage = False
        if case.threads is not None:
            self._net.opt.num_threads = case.threads
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise BackendError(f"ncnn cannot load {bundle.manifest.name}")

    def __call__(self, image: Image) -> Image:
        """See :meth:`Subject.__call__`."""
        rgb = image[:, :, ::-1].astype(np.float32) / 255
        planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
        extractor = self._net.create_extractor()
        extractor.input("in0", self._ncnn.Mat(planes))
        code, out = extractor.extract("out0")
        if code:
            raise BackendError(f"ncnn could not run the network (code {code})")
        found = np.clip(np.asarray(out).transpose(1, 2, 0)[:, :, ::-1] * 255, 0, 255)
        return np.asarray(np.rint(found), np.uint8)

    def actual(self, image: Image) -> Actual:
        """See :meth:`Subject.actual`."""
        pixels = image.shape[0] * image.shape[1]
        return Actual(backend="ncnn", device="cpu", windows=1, pixels=pixels)

    def close(self) -> None:
        """See :meth:`Subject.close`."""
        self._net.clear()
        self._folder.cleanup()


def _convert(bundle: Bundle, folder: Path) -> tuple[Path, Path]:
    """ncnn's two files of a network, by pnnx, which needs PyTorch."""
    require("torch", feature="Converting a network for ncnn", extra="torch")
    pnnx = require("pnnx", feature="Converting a network for ncnn", extra="")
    import torch

    from resharp import models

    network = models.build(models.read_checkpoint(bundle.path(bundle.manifest.weights))).eval()
    example, other = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 96, 80)
    with torch.no_grad():
        traced = torch.jit.trace(network, example)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(folder / "net.pt"))
        pnnx.convert(str(folder / "net.pt"), (example,), (other,), fp16=False)
    param, weights = folder / "net.ncnn.param", folder / "net.ncnn.bin"
    if not (param.is_file() and weights.is_file()):
        raise BackendError(f"pnnx could not convert {bundle.manifest.name} for ncnn")
    return param, weights


def open_subject(case: Case, bundle: Bundle) -> Subject:
    """See :func:`resharp.bench.subjects.open_subject`."""
    return Ncnn(case, bundle)
