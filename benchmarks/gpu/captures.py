"""``python -m benchmarks.gpu.captures KIND``: operations that break PyTorch's CUDA graph captures.

Each kind needs its own process, since a broken capture may permanently break PyTorch's allocator.
Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

DEVICE = "cuda:0"
LIMIT = 10.0
"""Timeout of the other thread, in seconds."""


def network() -> torch.nn.Module:
    """Build a network of many small layers in half precision."""
    layers = [torch.nn.Conv2d(16, 16, 3, 1, 1) for _ in range(40)]
    made = torch.nn.Sequential(*layers).half()
    return made.to(DEVICE, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def nothing() -> int:
    """Do nothing, for comparison."""
    return 0


def wait() -> None:
    """Synchronize with the whole device."""
    torch.cuda.synchronize()


def wait_for_the_default_stream() -> None:
    """Synchronize with the default stream only."""
    torch.cuda.default_stream().synchronize()


def convolution() -> Any:
    """Run a thread's first convolution: a cuDNN handle, plans, lazily loaded kernels."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode(), torch.cuda.stream(stream):
        image = torch.rand(1, 24, 50, 50, device=DEVICE).half()
        weight = torch.rand(40, 24, 5, 5, device=DEVICE).half()
        return tuple(torch.nn.functional.conv2d(image, weight).shape)


def memory() -> Any:
    """Allocate page-locked and device memory that the allocators must request from the driver."""
    pinned = torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True)
    large = torch.empty(600 << 20, dtype=torch.uint8, device=DEVICE)
    return pinned.is_pinned(), large.numel(), torch.cuda.mem_get_info()[0]


def empty_cache() -> None:
    """Release cached memory."""
    torch.cuda.empty_cache()


ITEM = "item in the capture itself"
KINDS: dict[str, Callable[[], Any]] = {
    "nothing": nothing,
    "device wait": wait,
    "default stream wait": wait_for_the_default_stream,
    "first convolution": convolution,
    "memory": memory,
    "empty_cache": empty_cache,
    ITEM: nothing,
}
"""Operations of another thread during the capture; the last runs in the capturing thread."""


def said(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def tried(work: Callable[[], Any]) -> str:
    """Return the result or the error of a call as text."""
    try:
        return str(work())
    except Exception as error:
        return said(error)


def spoil(kind: str) -> dict[str, Any]:
    """Run an operation in the middle of a capture, replay the capture, then test the allocator."""
    found: dict[str, Any] = {}
    layers: Any = network()
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    image = torch.rand(1, 16, 64, 64, device=DEVICE).half()
    torch.cuda.synchronize()
    graph: Any = torch.cuda.CUDAGraph()
    pool = torch.cuda.graph_pool_handle()

    def work() -> None:
        found["other thread"] = tried(KINDS[kind])

    with torch.inference_mode(), torch.cuda.stream(stream):
        wanted = layers(image).clone()
        options: Any = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(graph, **options):
                middle = layers[:20](image)
                if kind == ITEM:
                    middle.sum().item()
                else:
                    thread = threading.Thread(target=work, daemon=True)
                    thread.start()
                    thread.join(LIMIT)
                result = layers[20:](middle)
            graph.replay()
            stream.synchronize()
            found["capture"] = f"equal: {bool(torch.equal(result, wanted))}"
        except Exception as error:
            found["capture"] = said(error)
    del graph
    inner: Any = torch._C
    found["empty_cache afterwards"] = tried(torch.cuda.empty_cache)
    found["endAllocateToPool"] = tried(lambda: inner._cuda_endAllocateToPool(0, pool))
    found["empty_cache after that"] = tried(torch.cuda.empty_cache)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(spoil(sys.argv[1])) + "\n")
