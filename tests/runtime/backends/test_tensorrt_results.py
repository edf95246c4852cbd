"""Result arrays in page-locked memory, and their life."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.runtime.backends.tensorrt.pinned_pool import STEP, PinnedPool
from tests.fakes.host_provider import OLD, HostProvider
from tests.fakes.tensorrt_kit import SCALE, Kit, expected, machine, picture

BYTE = np.dtype(np.uint8)


@pytest.fixture
def provider() -> HostProvider:
    return HostProvider()


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with machine(tmp_path, monkeypatch) as made:
        made.add()
        yield made


def test_an_array_outlives_the_backend(kit: Kit) -> None:
    image = picture(40, 60)
    with kit.open() as backend:
        out = backend.run(image, _whole(image))
        view = out[10:, ::2].reshape(-1, 3)[3:]
    assert kit.provider.closed == 0  # the memory belongs to the device's context
    np.testing.assert_array_equal(out, expected(image))
    wanted = out[10:, ::2].reshape(-1, 3)[3:].copy()
    del out
    gc.collect()
    np.testing.assert_array_equal(view, wanted)
    del view
    gc.collect()
    assert kit.provider.live["pinned"] == 0
    assert kit.provider.closed == 1


def _whole(image: Any) -> Any:
    from resharp.runtime.tiling.plan import plan

    return plan(image.shape[0], image.shape[1], 48, 4, 1, 16)


def test_a_view_alone_keeps_the_memory(provider: HostProvider) -> None:
    results = PinnedPool(provider)
    row = results.allocate((100, 30, 3), np.dtype(np.float32))[7:9, ::-1]
    row[:] = 0.5
    gc.collect()
    other = results.allocate((100, 30, 3), np.dtype(np.float32))
    other[:] = 0
    assert (row == 0.5).all()
    assert results.owns(np.ascontiguousarray(row)) is False
    assert results.owns(other)
    assert results.owns(other[5:])
    assert not results.owns(np.empty(3, np.uint8))
    results.close()
    assert (row == 0.5).all()
    results.close()
    assert provider.closed == 0
    del row, other
    assert provider.closed == 1
    assert provider.leaks() == {}


def test_memory_is_used_again(provider: HostProvider) -> None:
    results = PinnedPool(provider)
    places = {
        results.allocate((700 + i, 700, 3), BYTE).__array_interface__["data"][0] for i in range(9)
    }
    assert len(places) == 1
    assert provider.live["pinned"] == 1
    results.close()
    assert provider.leaks() == {}


def test_the_caps(provider: HostProvider) -> None:
    results = PinnedPool(provider, most_out=4 * STEP, most_idle=2 * STEP)
    held = [results.allocate((STEP,), BYTE) for _ in range(6)]
    assert [results.owns(array) for array in held] == [True] * 4 + [False] * 2
    del held
    one = results.allocate((STEP,), BYTE)
    assert provider.live["pinned"] == 2  # of four, two were given up; one of the others is out
    assert results.allocate((0, 3), BYTE).shape == (0, 3)
    results.close()
    assert not results.owns(results.allocate((10,), BYTE))
    assert one is not None
    del one
    assert provider.leaks() == {}


def test_ordinary_memory_where_none_can_be_locked(
    provider: HostProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.errors import OutOfMemoryError

    def refuse(size: int) -> Any:
        raise OutOfMemoryError("cuMemHostAlloc")

    monkeypatch.setattr(provider, "pin", refuse)
    results = PinnedPool(provider)
    array = results.allocate((4, 5), BYTE)
    assert array.shape == (4, 5)
    assert not results.owns(array)
    results.close()
    assert provider.closed == 1


def test_arrays_that_die_in_other_threads_and_in_cycles(provider: HostProvider) -> None:
    results = PinnedPool(provider)

    class Cycle:
        def __init__(self, array: Any) -> None:
            self.array, self.me = array, self

    def work() -> None:
        for number in range(50):
            array = results.allocate((1000 + number,), BYTE)
            array[:] = number
            Cycle(array)
            assert (array == number).all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    results.close()
    for thread in threads:
        thread.join()
    gc.collect()
    assert provider.leaks() == {}
    assert provider.closed == 1


def test_results_without_out_are_page_locked(kit: Kit) -> None:
    image = picture(60, 60)
    backend = kit.open()
    with backend:
        found = backend.run(image, _whole(image))
        assert backend._executor.results.owns(found)
        assert found.shape == (60 * SCALE, 60 * SCALE, 3)
        assert not (found == OLD).all()
        del found
