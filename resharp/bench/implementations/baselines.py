"""Baselines: bare libraries in FP32 on the whole image, which show the overhead of resharp."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.implementations.interface import Implementation
from resharp.bench.records import ResolvedCase
from resharp.engines import Bundle
from resharp.errors import BackendError
from resharp.optional import require
from resharp.types import Image


def _whole(image: Image, backend: str, device: str = "cpu") -> ResolvedCase:
    pixels = image.shape[0] * image.shape[1]
    return ResolvedCase(backend=backend, device=device, windows=1, pixels=pixels)


class OnnxRuntimeSession(Implementation):
    """A bare onnxruntime session that runs the bundle's uint8 graph on the CPU."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        ort = require("onnxruntime", feature="The baseline onnxruntime", extra="cpu")
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        if case.threads is not None:
            settings.intra_op_num_threads = case.threads
        path = str(bundle.path(bundle.manifest.graphs["uint8"]))
        self._session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Image) -> Image:
        """Run the session on the whole image."""
        return np.asarray(self._session.run(None, {self._input: image[None]})[0][0])

    def actual(self, image: Image) -> ResolvedCase:
        """Return a case of one whole image on the CPU."""
        return _whole(image, "onnxruntime, bare session")


class PyTorchNetwork(Implementation):
    """A bare PyTorch network, channels last, on uint8 images.

    It shows the overhead of resharp's torch backend. The upstream script uses other kernels, whose
    time varies between processes.
    """

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
        module = models.for_images(network, checkpoint.facts, "uint8")
        self._module = module.to(self._device)

    def __call__(self, image: Image) -> Image:
        """Run the network on the whole image, including the copies to and from its device."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(self._device)
            return np.asarray(self._module(batch)[0].cpu().numpy())

    def actual(self, image: Image) -> ResolvedCase:
        """Return a case of one whole image on the network's device."""
        return _whole(image, "PyTorch, bare network", self._device)


class OpenVinoModel(Implementation):
    """OpenVINO, running the bundle's uint8 graph on the CPU."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        openvino = require("openvino", feature="The baseline openvino", extra="")
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if case.threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(case.threads)
        core = openvino.Core()
        model = core.read_model(str(bundle.path(bundle.manifest.graphs["uint8"])))
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def __call__(self, image: Image) -> Image:
        """Run the compiled model on the whole image."""
        self._request.infer([np.ascontiguousarray(image[None])])
        return np.array(self._request.get_output_tensor(0).data[0])

    def actual(self, image: Image) -> ResolvedCase:
        """Return a case of one whole image on the CPU."""
        return _whole(image, "OpenVINO")


class NcnnNetwork(Implementation):
    """The network converted by pnnx and run by ncnn on the CPU.

    ncnn (Tencent, BSD-3-Clause) is the library behind the portable upscalers. Its inputs and
    outputs are float planes, so the measured time includes the conversions from and to uint8.
    """

    def __init__(self, case: Case, bundle: Bundle) -> None:
        self._ncnn = require("ncnn", feature="The baseline ncnn", extra="")
        self._folder = tempfile.TemporaryDirectory(prefix="resharp-ncnn-")
        param, weights = _convert(bundle, Path(self._folder.name))
        self._net = self._ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        # By default ncnn rounds to half precision on processors that support it.
        self._net.opt.use_fp16_packed = self._net.opt.use_fp16_storage = False
        self._net.opt.use_fp16_arithmetic = self._net.opt.use_bf16_storage = False
        if case.threads is not None:
            self._net.opt.num_threads = case.threads
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise BackendError(f"ncnn cannot load {bundle.manifest.name}")

    def __call__(self, image: Image) -> Image:
        """Run the network on the whole image, including the conversions from and to uint8."""
        rgb = image[:, :, ::-1].astype(np.float32) / 255
        planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
        extractor = self._net.create_extractor()
        extractor.input("in0", self._ncnn.Mat(planes))
        code, out = extractor.extract("out0")
        if code:
            raise BackendError(f"ncnn failed to run the network (code {code})")
        found = np.clip(np.asarray(out).transpose(1, 2, 0)[:, :, ::-1] * 255, 0, 255)
        return np.asarray(np.rint(found), np.uint8)

    def actual(self, image: Image) -> ResolvedCase:
        """Return a case of one whole image on the CPU."""
        return _whole(image, "ncnn")

    def close(self) -> None:
        """Release the network and delete the converted files."""
        self._net.clear()
        self._folder.cleanup()


def _convert(bundle: Bundle, folder: Path) -> tuple[Path, Path]:
    """Convert a network with pnnx, which needs PyTorch; return ncnn's param and weight files."""
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
        raise BackendError(f"pnnx failed to convert {bundle.manifest.name} for ncnn")
    return param, weights
