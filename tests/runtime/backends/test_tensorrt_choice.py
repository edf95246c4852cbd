"""Which engine the tensorrt backend takes, and how it reports the others."""

from __future__ import annotations

import _thread
import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp import Upscaler
from resharp.engines import Bundle, Engine, ParityResult
from resharp.engines.kernel_cache import KernelCache
from resharp.engines.reference import compare_images
from resharp.errors import BackendError, MissingExtraError
from resharp.gpu import tensorrt as variants
from resharp.gpu.devices import LOST, CudaError, gpus, refusal
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.tensorrt import backend as backend_module
from resharp.runtime.backends.tensorrt import check_engine
from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from tests.fakes import fake_trt
from tests.fakes.fake_trt import EngineValidity
from tests.fakes.tensorrt_kit import OPTIONS, Kit, expected, machine, picture
from tests.waiting import joined, until


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with machine(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with machine(tmp_path, monkeypatch, rtx=True) as made:
        yield made


def marks(kit: Kit) -> list[str]:
    """Precisions of the engines that TensorRT was given."""
    return [load["mark"] for load in kit.fake.loads]


def test_the_best_precision_is_taken_and_proven_once(kit: Kit) -> None:
    for precision in ("fp32", "fp16", "mixed"):
        engine = kit.add(precision)
    with kit.open() as backend:
        assert "(fp16)" in backend.note
    assert marks(kit) == ["fp16"]
    fp16 = next(e for e in kit.bundle.engine_store.engines()[0] if e.spec.precision == "fp16")
    record = kit.bundle.engine_store.parity(fp16, kit.here)
    assert record is not None
    assert record.passed
    assert kit.bundle.engine_store.parity(engine, kit.here) is None


def test_a_recorded_parity_spares_the_run(kit: Kit) -> None:
    engine = kit.add(spoil="noise")
    kit.bundle.engine_store.record(engine, kit.here, ParityResult(psnr=55.0, levels=1, passed=True))
    with kit.open():
        assert kit.provider.used == 0  # nothing has run
    kit.bundle.engine_store.record(
        engine, kit.here, ParityResult(psnr=12.5, levels=90, passed=False)
    )
    with pytest.raises(BackendError, match=r"does not match fp32 on this GPU: 12\.5 dB"):
        kit.open()


@pytest.mark.parametrize("spoil", ["black", "noise", "nan"])
def test_an_engine_that_spoils_the_picture_is_passed_over(kit: Kit, spoil: str) -> None:
    kit.add("fp16", spoil=spoil)
    kit.add("mixed", spoil=spoil)
    kit.add("fp32")
    with kit.open() as backend:
        assert "(fp32); rejected: " in backend.note
        assert backend.note.count("does not match fp32 on this GPU") == 2
        image = picture(30, 30)
        np.testing.assert_array_equal(backend.infer(image[None])[0], expected(image))
    assert marks(kit) == ["fp16", "mixed", "fp32"]
    with kit.open():
        pass
    assert marks(kit) == ["fp16", "mixed", "fp32", "fp32"]  # their figures were recorded


def real(kit: Kit, compact: Bundle, folder: Path) -> Bundle:
    """A bundle that onnxruntime can run too; the kit's engines go to it from now on."""
    manifest = kit.bundle.manifest
    renamed = replace(manifest, graphs=compact.manifest.graphs, weights=compact.manifest.weights)
    kit.bundle = replace(kit.bundle, manifest=renamed, engine_store_folder=folder / "engines")
    return replace(compact, engine_store_folder=folder / "engines")


def test_deep_pictures_go_on_along_the_chain_where_their_engine_fails(
    kit: Kit, compact: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = real(kit, compact, tmp_path)
    kit.add()
    kit.add(dtype="float32", spoil="nan")
    plain, deep = picture(30, 40), picture(30, 40, dtype="float32")
    with Upscaler(bundle) as upscaler, Upscaler(bundle, backend="onnx") as exact:
        np.testing.assert_array_equal(upscaler(plain), expected(plain))
        for one in (deep, (plain.astype(np.uint16) * 257)):
            np.testing.assert_array_equal(upscaler(one), exact(one))
        np.testing.assert_array_equal(upscaler.batch([deep, deep])[1], exact(deep))
        assert upscaler.backend == "tensorrt"
        text = upscaler.explain()
    assert "16-bit and float images: no float32 engine" in text
    assert "onnx on cpu" in text.splitlines()[-1]
    assert caplog.text.count("using onnx on cpu for them") == 1
    with (
        Upscaler(bundle, backend="tensorrt") as upscaler,
        pytest.raises(BackendError, match="16-bit and float images: no float32 engine"),
    ):
        upscaler(deep)


def test_when_all_spoil_it_the_chain_goes_on(kit: Kit, compact: Bundle, tmp_path: Path) -> None:
    bundle = real(kit, compact, tmp_path)
    for precision in ("fp16", "mixed", "fp32"):
        kit.add(precision, spoil="black")
    with Upscaler(bundle) as upscaler:
        assert (upscaler.backend, upscaler.device) == ("onnx", "cpu")
        first = upscaler.attempts[0]
    assert (first.backend, first.works) == ("tensorrt", False)
    assert first.reason.count("does not match fp32") == 3
    assert first.reason.startswith("no engine for NVIDIA L4, TensorRT 11.4.0: run 'export-engines")


def test_a_nan_of_the_float_engine_gives_the_next(kit: Kit) -> None:
    kit.add()
    kit.add("fp16", dtype="float32", spoil="nan")
    kit.add("fp32", dtype="float32")
    image = picture(30, 30, dtype="float32")
    with kit.open() as backend:
        assert len(kit.fake.loads) == 1  # the float one is opened when it is needed
        np.testing.assert_array_equal(backend.infer(image[None])[0], expected(image))
        backend.infer(image[None])
    assert marks(kit) == ["fp16", "fp16", "fp32"]


def test_the_float_engine_is_like_the_first_one(kit: Kit) -> None:
    kit.add("mixed")
    for precision in ("fp16", "mixed", "fp32"):
        kit.add(precision, dtype="float32")
    with kit.open() as backend:
        backend.infer(picture(20, 20, dtype="float32")[None])
    assert marks(kit) == ["mixed", "mixed"]


def test_without_a_float_engine(kit: Kit) -> None:
    kit.add()
    kit.add(dtype="float32", profile=(16, 32, 4))
    with kit.open() as backend:
        with pytest.raises(BackendError, match=r"no float32 engine.*export-engines tiny.*smaller"):
            backend.infer(picture(20, 20, dtype="float32")[None])
        backend.infer(picture(20, 20)[None])


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"driver": "12.8"}, "built with a driver for CUDA 12.8, this driver is for CUDA 13.0"),
        ({"gpu": "NVIDIA A10G"}, "built for NVIDIA A10G .8.9., this GPU is NVIDIA L4"),
        ({"version": "10.16.1"}, "built with tensorrt 10.16.1, this machine has tensorrt 11.4.0"),
        ({"graph": "0" * 64}, "built from an older export"),
        ({"profile": None}, "its tile of 20 leaves no pixels between overlaps; the smallest is 24"),
    ],
)
def test_engines_for_something_else_are_never_loaded(
    kit: Kit, recipe: dict[str, Any], reason: str
) -> None:
    if "profile" in recipe:
        kit.add(profile=(16, 20, 4))
    else:
        kit.add(**recipe)
    with pytest.raises(
        BackendError, match=f"^no engine for NVIDIA L4, TensorRT 11.4.0: run .* tiny' .*{reason}"
    ):
        kit.open()
    assert kit.fake.loads == []
    assert kit.provider.live == {}


def test_no_engine_at_all(kit: Kit) -> None:
    with pytest.raises(BackendError, match=r"TensorRT 11\.4\.0: run 'export-engines tiny'$"):
        kit.open()


def _damages() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    for tenth in range(10):
        yield f"cut{tenth}", lambda data, n=tenth: data[: len(data) * n // 10]  # type: ignore[misc]
    chance = random.Random(4)
    for number in range(50):
        bit = chance.randrange(400 * 8)

        def flip(data: bytes, bit: int = bit) -> bytes:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            return bytes(changed)

        yield f"flip{number}", flip


def test_damaged_engines_never_reach_tensorrt(kit: Kit) -> None:
    engine = kit.add()
    path = kit.bundle.engine_store.path(engine.file)
    whole = path.read_bytes()
    for name, damage in _damages():
        path.write_bytes(damage(whole))
        with pytest.raises(BackendError, match=r"is damaged: .*build it again") as caught:
            kit.open()
        assert engine.file.name in str(caught.value), name
    assert kit.fake.loads == []
    path.write_bytes(whole)
    reference = kit.bundle.engine_store.path(engine.reference)
    reference.write_bytes(reference.read_bytes()[:-1])
    with pytest.raises(BackendError, match=r"reference\.npz is damaged"):
        kit.open()
    assert kit.fake.loads == []


def test_a_damaged_engine_gives_the_next_one(kit: Kit) -> None:
    engine = kit.add("fp16")
    kit.add("fp32")
    kit.bundle.engine_store.path(engine.file).write_bytes(b"short")
    with kit.open() as backend:
        assert "(fp32); rejected: " in backend.note
        assert "bytes, got 5" in backend.note
    assert marks(kit) == ["fp32"]


def _sidecar(kit: Kit, engine: Engine) -> Path:
    return kit.bundle.engine_store.folder / f"{engine.key}.json"


def test_sidecars_that_are_gone_changed_or_of_another_engine(kit: Kit) -> None:
    engine, other = kit.add("fp16"), kit.add("fp16", driver="12.8")
    sidecar = _sidecar(kit, engine)
    text = sidecar.read_text()
    facts = json.loads(text)
    facts["spec"]["precision"] = "fp32"
    for content, reason in (
        (None, "has no sidecar"),
        (_sidecar(kit, other).read_text(), "belongs to another engine"),
        (json.dumps(facts), "was changed after it was written"),
        (text[: len(text) // 2], "is damaged"),
    ):
        sidecar.unlink() if content is None else sidecar.write_text(content)
        with pytest.raises(BackendError, match=reason):
            kit.open()
    assert kit.fake.loads == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("refuse", "TensorRT cannot load it: Serialization assertion magicTag failed"),
        ("tensors", "tensor image is .*HALF.*, expected uint8"),
        ("shape", "less than its sidecar promises"),
    ],
)
def test_what_tensorrt_says_of_a_refused_engine(kit: Kit, spoil: str, reason: str) -> None:
    kit.add(spoil=spoil)
    with pytest.raises(BackendError, match=reason) as caught:
        kit.open()
    assert "catchCudaError" not in str(caught.value)


def test_rtx_validity_comes_before_loading(rtx: Kit) -> None:
    rtx.add(targets=("portable",), gpu="", capability="", driver="")
    rtx.fake.validity, rtx.fake.diagnostics = EngineValidity["INVALID"], 1 | 2
    with pytest.raises(
        BackendError,
        match=r"TensorRT-RTX 11.*not valid on this machine .VERSION_MISMATCH, UNSUPPORTED_CC",
    ):
        rtx.open()
    assert rtx.fake.loads == []
    rtx.fake.validity = EngineValidity["SUBOPTIMAL"]
    with rtx.open() as backend:
        assert "suboptimal on this GPU" in backend.note


def test_an_engine_that_spoils_whole_tiles_alone_is_passed_over(kit: Kit) -> None:
    wide = (16, 96, 4)  # the reference is of 40x56
    bad, good = kit.add(spoil="large", profile=wide), kit.add("mixed", profile=wide)
    backend = kit.open()
    with backend:
        assert f"rejected: tensorrt engine {bad.key[:12]}" in backend.note
        assert backend._engines["uint8"].key == good.key
    record = kit.bundle.engine_store.parity(bad, kit.here)
    assert record is not None
    assert not record.passed
    assert record.psnr < 20


def test_without_room_for_a_whole_tile_the_reference_alone_is_the_proof_for_now(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    engine = kit.add(profile=(16, 512, 1))
    limit, kit.provider.limit = kit.provider.limit, 3 << 20
    with caplog.at_level("INFO"), kit.open() as backend:
        image = picture(48, 48)
        np.testing.assert_array_equal(backend.infer(image[None])[0], expected(image))
    assert "verified on its reference only, for now" in caplog.text
    assert kit.bundle.engine_store.parity(engine, kit.here) is None
    kit.provider.limit = limit
    with kit.open():
        pass
    assert kit.bundle.engine_store.parity(engine, kit.here) is not None


def test_a_network_that_looks_at_the_whole_picture_is_proven_on_the_reference(kit: Kit) -> None:
    """Its full-size tile no longer equals the reference."""
    kit.add(spoil="large", profile=(16, 96, 4))
    curve = ((4, 9.0), (64, 3.0))
    kit.bundle = replace(kit.bundle, manifest=replace(kit.bundle.manifest, overlap_curve=curve))
    with kit.open() as backend:
        assert "rejected" not in backend.note


def test_a_proof_of_an_earlier_release_is_made_again(kit: Kit) -> None:
    bad, good = kit.add(spoil="large", profile=(16, 96, 4)), kit.add("mixed", profile=(16, 96, 4))
    kit.bundle.engine_store.record(bad, kit.here, ParityResult(psnr=60.0, levels=1, passed=True))
    path = kit.bundle.engine_store.folder / f"{bad.key}.parity.json"
    records = json.loads(path.read_text())
    for record in records.values():
        del record["proof"]  # of its small reference alone
    path.write_text(json.dumps(records))
    backend = kit.open()
    with backend:
        assert backend._engines["uint8"].key == good.key


def test_rtx_lets_go_of_its_configuration_before_the_cache_in_it(rtx: Kit) -> None:
    rtx.add(targets=("sm89",), gpu="", capability="", driver="")
    with rtx.open() as backend:
        backend.infer(picture(16, 16)[None])
    assert rtx.fake.order == ["config", "cache"]


def test_two_gpus_of_one_compute_capability_have_kernels_of_their_own(rtx: Kit) -> None:
    engine = rtx.add(targets=("sm89",), gpu="", capability="", driver="")
    config = fake_trt.Config(rtx.fake)
    places = {
        KernelCache(config, rtx.bundle.engine_store, engine, replace(rtx.here, gpu=gpu))._path
        for gpu in ("NVIDIA GeForce RTX 4080", "NVIDIA GeForce RTX 4090")
    }
    assert len(places) == 2


def test_after_an_error_that_sticks_it_says_that_cuda_is_lost(kit: Kit) -> None:
    kit.add()
    assert LOST in str(refusal("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS"))
    assert LOST not in str(refusal("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY"))
    with kit.open() as backend:
        kit.fake.says = "Cuda Runtime (an illegal memory access was encountered)"
        with pytest.raises(BackendError, match=re.escape(f"{kit.fake.says} ({LOST})")):
            backend.infer(picture(16, 16)[None])


@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])  # logging knows the threads that it met
def test_what_tensorrt_logs_is_kept_apart_by_thread(
    kit: Kit, caplog: pytest.LogCaptureFixture, level: str
) -> None:
    caplog.set_level(level)
    log, said = variants.trt_logger(kit.fake.module()), list[str]()

    def say(line: str) -> None:
        log.log(fake_trt.Severity.INFO, "before it")
        log.log(fake_trt.Severity.ERROR, line)
        said.append(line)

    lane = threading.Thread(target=say, args=("out of memory",))  # another lane's
    lane.start()
    joined(lane)
    assert log.errors() == "it gave no reason"
    _thread.start_new_thread(say, ("of a thread of TensorRT's own",))
    until(lambda: len(said) == 2, "the line")
    say("its own")
    assert log.errors() == "its own; of a thread of TensorRT's own"
    assert log.errors() == "it gave no reason"


def test_rtx_keeps_its_compiled_kernels(rtx: Kit) -> None:
    engine = rtx.add(targets=("sm89",), gpu="", capability="", driver="")
    with rtx.open():
        caches = list(rtx.bundle.engine_store.folder.glob(f"{engine.key}.cache-*"))
        assert [path.name for path in caches] == [f"{engine.key}.cache-sm89-13.0-nvidia-l4"]
    assert rtx.fake.caches == []
    backend = rtx.open()
    with backend:
        image = picture(150, 150)
        for _ in range(4):
            np.testing.assert_array_equal(
                backend.infer(image[None, :48, :48])[0], expected(image[:48, :48])
            )
        assert rtx.provider.live["graph"] == 0  # TensorRT-RTX captures by itself
        caches[0].unlink()
        cache = backend._engines["uint8"].cache
        assert cache is not None
        cache._size = 0  # as if kernels had been added
        for _ in range(4):
            backend.infer(image[None, :48, :48])
        assert caches[0].exists()  # after the 8th run, closed or not
    assert rtx.fake.caches == [b"compiled kernels"]
    caches[0].write_bytes(b"of another GPU")
    with rtx.open() as another:
        another.infer(picture(16, 16)[None])
    assert caches[0].read_bytes() == b"compiled kernels"


def test_a_cache_that_tensorrt_does_not_give(rtx: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx.add(targets=("sm89",), gpu="", capability="", driver="")
    monkeypatch.setattr(fake_trt.Cache, "serialize", lambda self: None)
    with rtx.open() as backend:
        backend.infer(picture(16, 16)[None])
    assert not list(rtx.bundle.engine_store.folder.glob("*.cache-*"))


def test_a_store_that_cannot_be_written(rtx: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx.add(targets=("sm89",), gpu="", capability="", driver="")

    def refuse(*args: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr("os.replace", refuse)
    with rtx.open() as backend:
        backend.infer(picture(16, 16)[None])


def test_probe(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorrtBackend.probe(OPTIONS) is None
    assert TensorrtBackend.probe(BackendOptions()) == "TensorRT requires a CUDA device"
    assert "reports 1 GPUs" in str(TensorrtBackend.probe(BackendOptions(device="cuda:3")))

    def broken(variant: str) -> None:
        raise MissingExtraError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr("resharp.gpu.tensorrt.load", broken)
    assert "libnvinfer" in str(TensorrtBackend.probe(OPTIONS))
    monkeypatch.setattr("resharp.gpu.tensorrt.installed", lambda: ())
    assert "pip install 'resharp[gpu]'" in str(TensorrtBackend.probe(OPTIONS))

    def absent() -> None:
        raise CudaError("no NVIDIA driver")

    monkeypatch.setattr(backend_module, "gpus", absent)
    assert TensorrtBackend.probe(OPTIONS) == "no NVIDIA driver"
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        kit.open()


REAL = """
import sys
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
print(TensorrtBackend.probe(BackendOptions(device="cuda")), "tensorrt_rtx_bindings" in sys.modules)
"""


def test_the_real_package_without_a_driver_is_not_even_imported() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    try:
        gpus()
    except CudaError as error:
        reason = str(error)
    else:
        pytest.skip("there is a driver")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", REAL], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{reason} False"), done.stderr


def test_the_real_package_has_all_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    used = {
        "Runtime": ("deserialize_cuda_engine", "get_engine_validity"),
        "IRuntimeCache": ("deserialize", "serialize"),
        "IRuntimeConfig": (
            "set_execution_context_allocation_strategy",
            "cuda_graph_strategy",
            "create_runtime_cache",
            "set_runtime_cache",
        ),
        "IExecutionContext": (
            "set_input_shape",
            "get_tensor_shape",
            "update_device_memory_size_for_shapes",
            "set_device_memory",
            "set_tensor_address",
            "execute_async_v3",
        ),
        "ICudaEngine": (
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_mode",
            "get_tensor_dtype",
            "get_tensor_shape",
            "get_tensor_profile_shape",
            "get_device_memory_size_for_profile_v2",
            "create_runtime_config",
            "create_execution_context",
        ),
        "DataType": ("UINT8", "FLOAT"),
        "EngineInvalidityDiagnostics": ("__members__",),
    }
    for name, members in used.items():
        for member in members:
            assert hasattr(getattr(trt, name), member), (name, member)
    flags = trt.EngineInvalidityDiagnostics.__members__
    assert int(flags["UNSUPPORTED_CC"]) == 2


def test_an_engine_is_checked_after_its_build(kit: Kit) -> None:
    good, bad = kit.add(), kit.add("mixed", spoil="black")
    assert check_engine(kit.bundle, good, 0).passed
    assert not check_engine(kit.bundle, bad, 0).passed
    record = kit.bundle.engine_store.parity(bad, kit.here)
    assert record is not None
    assert record.psnr < 20
    other = kit.add("fp32", variant="tensorrt_rtx")
    with pytest.raises(BackendError, match="tensorrt_rtx, which built the engine"):
        check_engine(kit.bundle, other, 0)


def test_likeness() -> None:
    one = picture(20, 20, dtype="float32")
    assert compare_images((one * 255).round().astype(np.uint8), one) == ParityResult(
        psnr=200.0, levels=0, passed=True
    )
    off = compare_images(np.clip(one + 3 / 255, 0, 1).astype(np.float32), one)
    assert (off.levels, off.passed) == (3, False)
    assert 38 < off.psnr < 40
    assert compare_images(np.where(one > 0.5, np.nan, one), one) == ParityResult(
        psnr=0.0, levels=255, passed=False
    )
    dark = np.zeros_like(one)
    dark[0, 0] = 0.1
    assert compare_images(np.zeros((20, 20, 3), np.uint8), dark).psnr > 40
    assert not compare_images(np.zeros((20, 20, 3), np.uint8), dark).passed
    assert compare_images(np.zeros((20, 20, 3), np.uint8), np.zeros_like(one)).passed
