"""Both CUDA providers against a fake driver, each case in its own process, nothing left alive."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from resharp.errors import MissingExtraError, OptionError
from resharp.gpu.cuda import open_provider
from tests.fakes import fake_cuda

START = """
import threading
import numpy as np
from resharp.errors import OutOfMemoryError
from resharp.gpu.devices import CudaError
from resharp.gpu.cuda import open_provider

def refused(call, *args):
    try:
        call(*args)
    except (CudaError, OutOfMemoryError, ValueError) as error:
        print(type(error).__name__, error, sep=": ")
    else:
        raise AssertionError("not refused")

def free(*owners):
    for owner in owners:
        owner.free()
        owner.free()
"""
OPEN = "cuda = open_provider(0)\n"
CLOSE = "\ncuda.close()\ncuda.close()\nprint('done')\n"


def have(package: str) -> bool:
    """Whether a package is installed; a missing driver must not pass for a missing package."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(params=["pycuda", "cuda-python"])
def provider(request: pytest.FixtureRequest) -> str:
    package = {"pycuda": "pycuda", "cuda-python": "cuda.bindings"}[request.param]
    if not have(package):
        pytest.skip(f"{package} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if fake_cuda.compiler() is None:
        pytest.skip("no C compiler to make a fake CUDA driver with, or not Linux")
    return fake_cuda.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def run(driver: Path, provider: str) -> Run:
    return Run(driver, provider)


class Run:
    """Runs a script with an open provider ``cuda`` and asserts that it leaves nothing alive."""

    def __init__(self, driver: Path, provider: str) -> None:
        self.driver, self.provider = driver, provider

    def __call__(self, script: str, *, opened: bool = True, **settings: str) -> fake_cuda.Done:
        body = textwrap.dedent(script)
        code = START + (OPEN + body + CLOSE if opened else body + "\nprint('done')\n")
        done = fake_cuda.run(code, self.driver, RESHARP_CUDA=self.provider, **settings)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.endswith("done\n")
        assert done.live == fake_cuda.NOTHING_LIVE
        return done


def test_bytes_come_back(run: Run) -> None:
    run("""
        assert cuda.name in ("pycuda", "cuda-python") and cuda.index == 0
        with cuda.scope():
            stream, a, b = cuda.stream(), cuda.allocate(6000), cuda.allocate(6000)
            source, target = cuda.pin(6000), cuda.pin(6000)
            assert stream.handle and a.address % 256 == 0 and a.size == 6000
            assert source.array.shape == (6000,) and source.array.dtype == np.uint8
            free_bytes, total = cuda.memory()
            assert total == 4 << 30 and total - free_bytes == 12000
            source.array[:] = np.random.default_rng(1).integers(0, 256, 6000)
            cuda.upload(a.address, source.array, stream)
            cuda.copy_rows(b.address, 60, a.address, 60, 60, 100, stream)
            cuda.download(target.array, b.address, stream)
            stream.synchronize()
            assert (target.array == source.array).all()

            halves = source.array.view(np.float16).reshape(2, 3, 500)[1:]
            cuda.upload(b.address, halves, stream)
            back = np.zeros_like(halves)
            cuda.download(back, b.address, stream)
            stream.synchronize()
            assert back.tobytes() == halves.tobytes()
            del halves
            free(stream, a, b, source, target)
        """)


def test_pitched_copies_are_numpy_slices(run: Run) -> None:
    run("""
        rng = np.random.default_rng(2)
        with cuda.scope():
            stream, a, b = cuda.stream(), cuda.allocate(40 * 300), cuda.allocate(40 * 300)
            for _ in range(300):
                pitches, heights = rng.integers(1, 301, 2), rng.integers(1, 41, 2)
                source = rng.integers(0, 256, (heights[0], pitches[0]), dtype=np.uint8)
                target = rng.integers(0, 256, (heights[1], pitches[1]), dtype=np.uint8)
                width, rows = (int(rng.integers(1, n + 1)) for n in (pitches.min(), heights.min()))
                (x, u), (y, v) = (
                    [int(rng.integers(0, n - part + 1)) for n in size]
                    for size, part in ((pitches, width), (heights, rows))
                )
                cuda.upload(a.address, source, stream)
                cuda.upload(b.address, target, stream)
                from_pitch, to_pitch = map(int, pitches)
                cuda.copy_rows(
                    b.address + v * to_pitch + u, to_pitch,
                    a.address + y * from_pitch + x, from_pitch, width, rows, stream,
                )
                target[v : v + rows, u : u + width] = source[y : y + rows, x : x + width]
                back = np.empty_like(target)
                cuda.download(back, b.address, stream)
                stream.synchronize()
                assert (back == target).all()
            free(stream, a, b)
        """)


def test_events(run: Run) -> None:
    run("""
        with cuda.scope():
            first, second = cuda.stream(), cuda.stream()
            start, end = cuda.event(timing=True), cuda.event(timing=True)
            plain = cuda.event()
            start.record(first)
            plain.record(first)
            second.wait(plain)
            end.record(second)
            end.synchronize()
            assert end.elapsed_since(start) == 2  # the fake driver counts one for each event
            refused(plain.elapsed_since, start)
            free(first, second, start, end, plain)
        """)


def test_a_captured_graph_replays(run: Run) -> None:
    done = run("""
        with cuda.scope():
            stream, a, b = cuda.stream(), cuda.allocate(64), cuda.allocate(64)
            source, target = cuda.pin(64), cuda.pin(64)
            target.array[:] = 0
            cuda.begin_capture(stream)
            cuda.upload(a.address, source.array, stream)
            cuda.copy_rows(b.address, 8, a.address, 8, 8, 8, stream)
            cuda.download(target.array, b.address, stream)
            graph = cuda.end_capture(stream)
            assert not target.array.any()
            for value in range(1, 6):
                source.array[:] = value
                graph.launch(stream)
                stream.synchronize()
                assert (target.array == value).all()
            free(graph, stream, a, b, source, target)
        """)
    assert done.launches == 5


def test_a_spoiled_capture_raises_and_ends(run: Run) -> None:
    done = run("""
        with cuda.scope():
            stream, a = cuda.stream(), cuda.allocate(64)
            refused(cuda.end_capture, stream)
            cuda.begin_capture(stream)
            refused(stream.synchronize)
            refused(cuda.end_capture, stream)
            cuda.begin_capture(stream)
            free(cuda.end_capture(stream), stream, a)
        """)
    assert "cuStreamEndCapture failed with CUDA_ERROR_ILLEGAL_STATE" in done.stdout
    assert "cuStreamEndCapture failed with CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in done.stdout


def test_a_graph_that_cannot_be_made_leaves_no_recording(run: Run) -> None:
    script = """
        with cuda.scope():
            stream = cuda.stream()
            cuda.begin_capture(stream)
            refused(cuda.end_capture, stream)
            free(stream)
        """
    done = run(script, FAKE_CUDA_FAIL="cuGraphInstantiateWithFlags:1")
    assert "CudaError: the NVIDIA driver call cuGraphInstantiateWithFlags failed" in done.stdout


def test_no_room(run: Run) -> None:
    script = """
        with cuda.scope():
            kept = cuda.allocate(700_000)
            refused(cuda.allocate, 400_000)
            refused(cuda.pin, 1 << 55)
            kept.free()
            free(cuda.allocate(1_000_000))
        """
    lines = run(script, FAKE_CUDA_MEMORY="1000000").stdout.splitlines()
    said = "OutOfMemoryError: the NVIDIA driver call {} failed with CUDA_ERROR_OUT_OF_MEMORY"
    assert lines[:2] == [said.format("cuMemAlloc"), said.format("cuMemHostAlloc")]


CALLS = {
    "cuStreamCreate": "cuda.stream",
    "cuEventCreate": "cuda.event",
    "cuMemHostAlloc": "cuda.pin, 64",
    "cuMemAlloc": "cuda.allocate, 64",
    "cuMemcpyHtoDAsync": "cuda.upload, a.address, pinned.array, stream",
    "cuMemcpyDtoHAsync": "cuda.download, pinned.array, a.address, stream",
    "cuMemcpy2DAsync": "cuda.copy_rows, a.address, 8, a.address + 32, 8, 8, 4, stream",
    "cuStreamSynchronize": "stream.synchronize",
    "cuStreamWaitEvent": "stream.wait, event",
    "cuEventRecord": "event.record, stream",
    "cuEventSynchronize": "event.synchronize",
    "cuMemGetInfo": "cuda.memory",
    "cuStreamBeginCapture": "cuda.begin_capture, stream",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_refusal_names_the_call_and_leaks_nothing(run: Run, call: str) -> None:
    made = call in ("cuStreamCreate", "cuEventCreate", "cuMemHostAlloc", "cuMemAlloc")
    script = f"""
        with cuda.scope():
            stream, event = cuda.stream(), cuda.event()
            a, pinned = cuda.allocate(64), cuda.pin(64)
            refused({CALLS[call]})
            free(stream, event, a, pinned)
        """
    done = run(script, FAKE_CUDA_FAIL=f"{call}:{1 + made}")
    said, _, name = done.stdout.splitlines()[0].rpartition(" failed with ")
    assert said.removesuffix("_v2") == f"CudaError: the NVIDIA driver call {call}"
    assert name == "CUDA_ERROR_UNKNOWN"


def test_only_whole_arrays_are_copied(run: Run) -> None:
    done = run("""
        with cuda.scope():
            stream, a = cuda.stream(), cuda.allocate(64)
            square = np.zeros((8, 8), np.uint8)
            locked = square.copy()
            locked.flags.writeable = False
            cuda.upload(a.address, locked, stream)
            refused(cuda.upload, a.address, square.T[:, 1:], stream)
            refused(cuda.upload, a.address, np.asfortranarray(square), stream)
            refused(cuda.download, square[:, ::2], a.address, stream)
            refused(cuda.download, locked, a.address, stream)
            refused(cuda.upload, a.address, np.zeros(65, np.uint8), stream)
            free(stream, a)
        """)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:5]] == ["ValueError"] * 4 + ["CudaError"]


def test_an_exception_leaves_the_stack_balanced(run: Run) -> None:
    run("""
        stream = None
        try:
            with cuda.scope(), cuda.scope():
                stream = cuda.stream()
                with cuda.scope():
                    raise KeyError("mine")
        except KeyError:
            pass
        refused(cuda.stream)
        with cuda.scope():
            with cuda.scope():
                pass
            stream.synchronize()
            free(stream)
        """)


def test_an_exception_that_nobody_catches_ends_python_in_order(run: Run) -> None:
    script = START + OPEN + "with cuda.scope():\n    raise KeyError('mine')\n"
    done = fake_cuda.run(script, run.driver, RESHARP_CUDA=run.provider)
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: 'mine'\n")
    assert done.live == fake_cuda.NOTHING_LIVE


def test_worker_threads(run: Run) -> None:
    run("""
        wrong = []

        def work(seed):
            try:
                data = np.random.default_rng(seed).integers(0, 256, 4096, dtype=np.uint8)
                for _ in range(20):
                    with cuda.scope():
                        with cuda.scope():
                            stream, a = cuda.stream(), cuda.allocate(4096)
                        pinned, mark = cuda.pin(4096), cuda.event()
                        cuda.upload(a.address, data, stream)
                        cuda.download(pinned.array, a.address, stream)
                        mark.record(stream)
                        mark.synchronize()
                        assert (pinned.array == data).all()
                        shared.append(a)
                        free(stream, pinned, mark)
                with cuda.scope():
                    raise KeyError
            except KeyError:
                pass
            except BaseException as error:
                wrong.append(error)

        shared = []
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, wrong
        with cuda.scope():
            assert len(shared) == 80
            free(*shared)
        """)


def test_opened_and_closed_in_different_threads(run: Run) -> None:
    script = """
        opened = []
        thread = threading.Thread(target=lambda: opened.append(open_provider(0)))
        thread.start()
        thread.join()
        other = open_provider(0)
        with other.scope():
            opened[0].close()
            a = other.allocate(64)
            free(a)
        other.close()
        refused(other.scope().__enter__)
        """
    done = run(script, opened=False)
    assert "CudaError: CUDA device 0 was closed" in done.stdout


def test_a_call_outside_of_a_scope_is_refused(run: Run) -> None:
    done = run("refused(cuda.stream)\nrefused(cuda.allocate, 64)\nrefused(cuda.pin, 64)")
    assert done.stdout.count("with CUDA_ERROR_INVALID_CONTEXT") == 3


def test_what_cannot_be_opened(run: Run) -> None:
    done = run("refused(open_provider, 3)", opened=False)
    assert "CudaError: the NVIDIA driver call cuDeviceGet failed with" in done.stdout
    done = run("refused(open_provider, 0)", opened=False, FAKE_CUDA_INIT="100")
    assert (
        "CudaError: the NVIDIA driver call cuInit failed with CUDA_ERROR_NO_DEVICE" in done.stdout
    )
    failing = "cuDevicePrimaryCtxRetain:1"
    done = run("refused(open_provider, 0)", opened=False, FAKE_CUDA_FAIL=failing)
    assert "cuDevicePrimaryCtxRetain failed with CUDA_ERROR_UNKNOWN" in done.stdout


def test_no_driver(provider: str, tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1" if sys.platform != "win32" else "nvcuda.dll")
    except OSError:
        script = START + "refused(open_provider, 0)"
    else:
        pytest.skip("this machine has a driver")
    done = fake_cuda.run(script, tmp_path, RESHARP_CUDA=provider)
    assert done.stdout.startswith("CudaError: no NVIDIA driver ("), done.stderr


def test_pycuda_comes_first_where_it_is_installed(driver: Path) -> None:
    installed = [name for name in ("pycuda", "cuda.bindings") if have(name)]
    if not installed:
        pytest.skip("neither pycuda nor cuda-python is installed")
    script = START + OPEN + "print(cuda.name)\ncuda.close()\n"
    done = fake_cuda.run(script, driver, RESHARP_CUDA="")
    assert done.stdout.strip() == {"pycuda": "pycuda"}.get(installed[0], "cuda-python")


@pytest.mark.parametrize("blocked", ["pycuda", "cuda", "pycuda cuda"])
def test_a_missing_package_names_its_extra(driver: Path, blocked: str) -> None:
    if blocked == "pycuda" and not have("cuda.bindings"):
        pytest.skip("cuda-python is not installed")
    if blocked == "cuda" and not have("pycuda"):
        pytest.skip("pycuda is not installed")
    script = START + textwrap.dedent(f"""
        import importlib.abc, sys
        from resharp.errors import MissingExtraError

        class Absent(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {blocked.split()}:
                    raise ModuleNotFoundError(name, name=name)

        sys.meta_path.insert(0, Absent())
        try:
            cuda = open_provider(0)
            print(cuda.name)
            cuda.close()
        except MissingExtraError as error:
            print(error)
        """)
    done = fake_cuda.run(script, driver, RESHARP_CUDA="")
    if len(blocked.split()) == 1:
        assert done.stdout.strip() == {"pycuda": "cuda-python", "cuda": "pycuda"}[blocked]
    else:
        assert "pip install 'resharp[gpu]'" in done.stdout
        assert "pip install 'resharp[pycuda]'" in done.stdout


def test_the_choice_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHARP_CUDA", "cupy")
    with pytest.raises(OptionError, match="one of pycuda, cuda-python, got 'cupy'"):
        open_provider(0)
    if not have("pycuda"):
        monkeypatch.setenv("RESHARP_CUDA", "pycuda")
        with pytest.raises(MissingExtraError, match=r"resharp\[pycuda\]"):
            open_provider(0)


def test_the_room_imports_no_cuda_package() -> None:
    script = "import sys, resharp.gpu.cuda\nassert not {'pycuda', 'cuda'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
