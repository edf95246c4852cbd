"""``python -m benchmarks.gpu.provider``: correctness and speed of a CUDA provider.

Checks its copies and graphs. ``RESHARP_CUDA`` selects the provider. With ``--fake`` sizes are small
and times are meaningless.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.checks import Checks
from resharp.gpu.cuda import Provider, Stream, open_provider

PITCHES = (1551, 5760)
OFFSETS = (0, 3, 12)
PASTES = ((512, 1551), (512, 5760), (2048, 6147), (2048, 23040))
"""Side of the window in three-byte pixels, and pitch of the image in bytes."""
SMALL = ((40, 131), (40, 480))
TIMES = 50
GUARD = 64
"""Bytes before and after a target that must not change."""
LIMIT = 60.0
UNCLOSED = """
import threading
import numpy as np
from resharp.gpu.cuda import open_provider
device = open_provider(0)
with device.scope():
    stream, event = device.stream(), device.event()
    buffer, pinned = device.allocate(1000), device.pin(1000)
    device.upload(buffer.address, pinned.array, stream)
    event.record(stream)
def work():
    with device.scope():
        device.allocate(10)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print("left open")
"""


@dataclass
class Device:
    """An open provider with a stream, and whether its driver is fake."""

    provider: Provider
    stream: Stream
    fake: bool

    def seconds(self, work: Callable[[], object], times: int = TIMES) -> float:
        """Return the seconds of one call, measured by events of the stream."""
        first, last = (self.provider.event(timing=True) for _ in range(2))
        work()
        first.record(self.stream)
        for _ in range(times):
            work()
        last.record(self.stream)
        last.synchronize()
        found = last.elapsed_since(first) / 1e3 / times
        first.free()
        last.free()
        return found

    def upload(self, address: int, data: np.ndarray[Any, Any]) -> None:
        """Upload through page-locked memory and synchronize."""
        pinned = self.provider.pin(data.nbytes)
        pinned.array[:] = data.reshape(-1).view(np.uint8)
        self.provider.upload(address, pinned.array, self.stream)
        self.stream.synchronize()
        pinned.free()

    def download(self, address: int, size: int) -> np.ndarray[Any, Any]:
        """Download through page-locked memory and synchronize."""
        pinned = self.provider.pin(size)
        self.provider.download(pinned.array, address, self.stream)
        self.stream.synchronize()
        found = pinned.array.copy()
        pinned.free()
        return found


def rows_are_right(device: Device) -> str:
    """Check cutting windows out of an image and pasting them, at every offset and pitch."""
    rng, done = np.random.default_rng(0), 0
    for pitch in PITCHES:
        rows = 37
        image = rng.integers(0, 256, (rows + 3, pitch), np.uint8)
        source = device.provider.allocate(image.size)
        device.upload(source.address, image)
        for offset in OFFSETS:
            for width in (3, 1500, 1521):
                _window(device, source.address, image, offset, width, rows)
                done += 1
        source.free()
    return f"{done} windows, cut and pasted"


def _window(
    device: Device, source: int, image: np.ndarray[Any, Any], offset: int, width: int, rows: int
) -> None:
    pitch = image.shape[1]
    tight = device.provider.allocate(width * rows + 2 * GUARD)
    device.upload(tight.address, np.full(tight.size, 170, np.uint8))
    copy = device.provider.copy_rows
    start = source + 2 * pitch + offset
    copy(tight.address + GUARD, width, start, pitch, width, rows, device.stream)
    found = device.download(tight.address, tight.size)
    assert (found[:GUARD] == 170).all(), "bytes before the target were overwritten"
    assert (found[-GUARD:] == 170).all(), "bytes after the target were overwritten"
    cut, wanted = found[GUARD:-GUARD].reshape(rows, width), image[2 : 2 + rows]
    np.testing.assert_array_equal(cut, wanted[:, offset : offset + width])

    back = np.full((rows + 3, pitch), 85, np.uint8)
    whole = device.provider.allocate(back.size)
    device.upload(whole.address, back)
    target = whole.address + 2 * pitch + offset
    copy(target, pitch, tight.address + GUARD, width, width, rows, device.stream)
    back[2 : 2 + rows, offset : offset + width] = cut
    np.testing.assert_array_equal(device.download(whole.address, back.size), back.reshape(-1))
    tight.free()
    whole.free()


def rows_are_fast(device: Device) -> dict[str, float]:
    """Measure GB/s of cutting and pasting at each offset; every byte is counted once."""
    found = {}
    for side, pitch in SMALL if device.fake else PASTES:
        large = device.provider.allocate(pitch * side + max(OFFSETS) + 3 * side)
        tight = device.provider.allocate(3 * side * side)
        for offset in OFFSETS:
            place = large.address + offset
            for name, ends in {
                "cut": (tight.address, 3 * side, place, pitch),
                "paste": (place, pitch, tight.address, 3 * side),
            }.items():
                copy = partial(
                    device.provider.copy_rows, *ends, 3 * side, side, stream=device.stream
                )
                rate = 3 * side * side / device.seconds(copy) / 1e9
                found[f"{name} {side}x{side}x3, pitch {pitch}, offset {offset}"] = round(rate, 2)
        large.free()
        tight.free()
    return found


def host_and_device(device: Device) -> dict[str, float]:
    """Measure GB/s between page-locked memory and the device."""
    size = (1 << 20) if device.fake else (128 << 20)
    pinned, buffer = device.provider.pin(size), device.provider.allocate(size)
    pinned.array[:] = 7
    up = partial(device.provider.upload, buffer.address, pinned.array, device.stream)
    down = partial(device.provider.download, pinned.array, buffer.address, device.stream)
    found = {
        "up": round(size / device.seconds(up, 8) / 1e9, 2),
        "down": round(size / device.seconds(down, 8) / 1e9, 2),
    }
    assert (pinned.array == 7).all()
    pinned.free()
    buffer.free()
    return found


def pin_cost(device: Device) -> dict[str, float]:
    """Measure the milliseconds to page-lock 100 MB and to free them."""
    size, taken, freed = 1_000_000 if device.fake else 100_000_000, [], []
    for _ in range(3):
        began = time.perf_counter()
        pinned = device.provider.pin(size)
        there = time.perf_counter()
        pinned.free()
        taken.append(there - began)
        freed.append(time.perf_counter() - there)
    return {"pin (ms)": round(min(taken) * 1e3, 2), "free (ms)": round(min(freed) * 1e3, 2)}


def graphs(device: Device) -> str:
    """Check that a capture runs nothing and that its replay reads the current data."""
    provider, stream = device.provider, device.stream
    up, down = provider.pin(60), provider.pin(20)
    source, target = provider.allocate(60), provider.allocate(20)
    down.array[:] = 0
    provider.begin_capture(stream)
    provider.upload(source.address, up.array, stream)
    provider.copy_rows(target.address, 5, source.address + 12, 10, 5, 4, stream)
    provider.download(down.array, target.address, stream)
    graph = provider.end_capture(stream)
    stream.synchronize()
    assert not down.array.any(), "the capture ran"
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, 256, 60, np.uint8)
        up.array[:] = drawn
        graph.launch(stream)
        stream.synchronize()
        wanted = drawn.reshape(6, 10)[1:5, 2:7]
        np.testing.assert_array_equal(down.array.reshape(4, 5), wanted)
    for thing in (graph, up, down, source, target):
        thing.free()
    return "3 replays"


def memory(device: Device) -> tuple[int, int]:
    """Return the free and total bytes."""
    return device.provider.memory()


def left_open() -> str:
    """Check that a process that closes nothing still exits cleanly."""
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-500:]}"
    return done.stdout.strip() + (f"; {done.stderr[-500:]}" if done.stderr else "")


def main() -> None:
    """Check one provider."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path)
    parser.add_argument("--fake", action="store_true")
    options = parser.parse_args()
    check = Checks(options.records, f"provider {os.environ.get('RESHARP_CUDA', '')}")
    provider = check("open", lambda: open_provider(0))
    if isinstance(provider, Provider):
        with provider.scope():
            device = Device(provider, provider.stream(), options.fake)
            for one in (rows_are_right, rows_are_fast, host_and_device, pin_cost, graphs, memory):
                check(one.__name__, partial(one, device))
            device.stream.free()
        check("close", provider.close)
    check("left open", left_open)
    check.end()


if __name__ == "__main__":
    main()
