"""Several processes on one folder, and many threads on one upscaler."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np

from tests.drill.kit import BACKEND, Drill, differing, draw_images, files, leftovers
from tests.fuzz.child import Child

IMAGES = 16
PROCESSES = 4


def processes(drill: Drill) -> str:
    """Start four runs over one folder at once."""
    draw_images(drill.folder / "given", IMAGES)
    alone = drill.start("upscale", "given", "-o", "alone/", *BACKEND).wait()
    assert alone.code == 0, alone.stderr
    wanted, counts = files(drill.folder / "alone"), []
    for number in range(drill.count):
        out = f"out-{number}"
        command = ("upscale", "given", "-o", f"{out}/", *BACKEND, "--json")
        outcomes = [one.wait() for one in [drill.start(*command) for _ in range(PROCESSES)]]
        assert not any(one.code for one in outcomes), [(one.code, one.stderr) for one in outcomes]
        made = [
            result["input"]
            for one in outcomes
            for result in json.loads(one.stdout)["results"]
            if result["status"] == "restored"
        ]
        assert len(made) == len(set(made)) == IMAGES, f"restored {sorted(made)}"
        assert not differing(files(drill.folder / out), wanted)
        assert not leftovers(drill.folder / out)
        counts.append(len(made))
    return f"{PROCESSES} runs at once on {IMAGES} images, {drill.count} times: each restored once"


def threads(drill: Drill) -> str:
    """Call one upscaler from many threads at once."""
    outcome = _in_child(drill, lambda: _threads_alike(drill.count))
    return f"{drill.count} threads on one upscaler: results equal to serial ones{outcome}"


def calls(drill: Drill) -> str:
    """Call one upscaler many times."""
    return f"{drill.count} calls: memory grew by {_in_child(drill, lambda: _growth(drill.count))}"


GROWTH = 16 << 20
"""Bytes by which memory may grow, whatever the number of calls."""


def _in_child(drill: Drill, work: Any) -> str:
    """Run in a child, whose threads do not outlive it; return what it printed."""
    logs = drill.folder / "logs"
    logs.mkdir()
    outcome = Child(work, drill.folder, logs).wait(300)
    assert outcome.code == 0, f"exit code {outcome.code} {outcome.ended}\n{outcome.stderr}"
    return outcome.stdout.strip()


def _images(count: int) -> list[Any]:
    random = np.random.default_rng(9)
    sides = [(16 + n % 7, 18 + n % 5) for n in range(count)]
    return [random.integers(0, 256, (height, width, 3), np.uint8) for height, width in sides]


def _threads_alike(count: int) -> int:
    from resharp import Upscaler

    images, made = _images(count), dict[int, Any]()
    with Upscaler(backend="onnx", threads=1) as upscaler:
        wanted = [upscaler(image) for image in images]

        def call(number: int) -> None:
            made[number] = upscaler(images[number])

        running = [threading.Thread(target=call, args=(number,)) for number in range(count)]
        for one in running:
            one.start()
        for one in running:
            one.join()
    assert sorted(made) == list(range(count)), "a thread raised"
    assert all(np.array_equal(made[n], wanted[n]) for n in range(count)), "results differ"
    return 0


def _growth(count: int) -> int:
    from resharp import Upscaler

    images = _images(20)
    with Upscaler(backend="onnx", threads=1) as upscaler:
        for number in range(200):  # until allocators have what they keep
            upscaler(images[number % len(images)])
        before = _resident()
        for number in range(count):
            upscaler(images[number % len(images)])
        grown = _resident() - before
    print(f"{grown / (1 << 20):.1f} MiB")  # noqa: T201
    return int(grown > GROWTH)


def _resident() -> int:
    import resource
    from pathlib import Path

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
