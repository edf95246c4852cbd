from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from resharp import Upscaler
from resharp.engines import Bundle
from resharp.errors import (
    BackendError,
    BundleError,
    MissingExtraError,
    NotExportedError,
    OptionError,
    OutOfMemoryError,
    UnknownModelError,
)
from resharp.gpu.devices import CudaError, Gpu
from resharp.runtime import fallback
from resharp.runtime.backends import Backend
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, builtin_store
from resharp.runtime.fallback import BackendAttempt, candidates, load_backend
from resharp.weights.entry import BUILTIN


def altered(name: str, **attributes: Any) -> type[Backend]:
    """A backend with something in its place."""
    return type("Altered", (load_backend(name),), attributes)


def test_the_default_model_is_the_one_in_the_package() -> None:
    assert DEFAULT_MODEL == BUILTIN
    assert builtin_store().names() == (BUILTIN,)


def test_the_order_is_the_designs() -> None:
    assert candidates("auto", "auto") == fallback.CHAIN
    assert candidates("auto", "cpu") == (("onnx", "cpu"), ("torch", "cpu"))
    assert candidates("torch", "cuda:1") == (("torch", "cuda:1"),)
    assert candidates("onnx", "auto") == (("onnx", "cuda"), ("onnx", "cpu"))


def test_without_a_driver_no_gpu_library_is_tried(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> tuple[Gpu, ...]:
        raise CudaError("no NVIDIA driver (libcuda.so.1 was not found)")

    monkeypatch.setattr(fallback, "gpus", none)
    with Upscaler(compact) as upscaler:
        assert (upscaler.backend, upscaler.device) == ("onnx", "cpu")
        assert upscaler.attempts == (
            BackendAttempt(
                "tensorrt", "cuda", False, "no NVIDIA driver (libcuda.so.1 was not found)"
            ),
            BackendAttempt("torch", "cuda", False, "no NVIDIA driver (libcuda.so.1 was not found)"),
            BackendAttempt("onnx", "cuda", False, "no NVIDIA driver (libcuda.so.1 was not found)"),
            BackendAttempt("onnx", "cpu", True, ""),
        )


def test_with_a_driver_but_cpu_libraries_the_reason_is_theirs(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "gpus", lambda: (Gpu(0, "NVIDIA L4", "8.9", 1 << 34),))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with Upscaler(compact) as upscaler:
        reasons = {(one.backend, one.device): one.reason for one in upscaler.attempts}
    assert "finds no usable GPU" in reasons["torch", "cuda"]
    assert "has no CUDA provider" in reasons["onnx", "cuda"]


def test_a_missing_library_is_skipped_with_the_way_to_get_it(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> type[Backend]:
        if name != "onnx":
            return load_backend(name)

        def probe(options: Any) -> str | None:
            raise MissingExtraError("The onnx backend needs: pip install 'resharp[cpu]'")

        return altered(name, probe=staticmethod(probe))

    monkeypatch.setattr(fallback, "load_backend", absent)
    with Upscaler(compact, device="cpu") as upscaler:
        assert upscaler.backend == "torch"
        assert "resharp[cpu]" in upscaler.explain().splitlines()[0]


def test_when_nothing_works_every_reason_is_in_the_error(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> type[Backend]:
        return altered(name, probe=staticmethod(lambda options: f"{name} is out of order"))

    monkeypatch.setattr(fallback, "load_backend", broken)
    with pytest.raises(BackendError) as caught:
        Upscaler(compact)
    for name in ("tensorrt", "torch", "onnx"):
        assert name in str(caught.value)
    assert "onnx is out of order" in str(caught.value)


def test_an_explicit_device_that_is_not_there(compact: Bundle) -> None:
    with pytest.raises(BackendError, match="onnx on cuda:7: skipped"):
        Upscaler(compact, backend="onnx", device="cuda:7")


def test_models_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path))
    with pytest.raises(UnknownModelError, match=r"did you mean .*realesr-animevideov3"):
        Upscaler("realesr-animevideo3v")
    with pytest.raises(NotExportedError, match=r"run 'resharp export realesrgan-x4plus'$"):
        Upscaler("RealESRGAN_x4plus.pth")
    with pytest.raises(NotExportedError, match=r"run 'resharp export realesr-general-x4v3'$"):
        Upscaler("realesr-general-x4v3", denoise=0.5)
    with pytest.raises(NotExportedError, match=r"has no manifest\.json"):
        Upscaler(tmp_path / "nothing")


def test_a_damaged_built_in_model_says_to_install_it_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = builtin_store()
    shutil.copytree(shipped.folder, tmp_path / "builtin")
    weights = next((tmp_path / "builtin").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(
        "resharp.runtime.bundle_lookup.builtin_folder", lambda: tmp_path / "builtin"
    )
    with pytest.raises(BundleError, match=r"is damaged: .* 'pip install resharp'"):
        Upscaler()


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("CUDA error: no kernel image"), OutOfMemoryError("full"), OSError("libx.so")],
)
def test_whatever_a_library_raises_on_opening_skips_its_link(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def broken(name: str) -> type[Backend]:
        if name != "onnx":
            return load_backend(name)

        def opens(self: Backend, bundle: Bundle, options: Any) -> None:
            raise failure

        return altered(name, __init__=opens)

    monkeypatch.setattr(fallback, "load_backend", broken)
    with Upscaler(compact, device="cpu") as upscaler:
        assert upscaler.backend == "torch"
        assert str(failure) in upscaler.attempts[0].reason


def test_advice_leads_somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path))
    weights = tmp_path / "mine.pth"
    weights.write_bytes(b"x")
    for model, options, error, message in (
        ("resharp-x4", {"denoise": 0.5}, OptionError, "resharp-x4 has no denoise strength"),
        ("codeformer", {}, OptionError, "does not upscale: use `face`=codeformer"),
        (str(weights), {}, NotExportedError, "resharp export .*mine.pth"),
        ("m" * 300, {}, UnknownModelError, "no model is called"),
        (None, {}, OptionError, "must be a name, a folder or a Bundle"),
        (b"m", {}, OptionError, "must be a name, a folder or a Bundle"),
    ):
        with pytest.raises(error, match=message):
            Upscaler(model, **options)  # type: ignore[arg-type]
