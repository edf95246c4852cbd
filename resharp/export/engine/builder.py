"""ONNX to engine, for TensorRT 10 and 11 and TensorRT-RTX alike.

The network is always strongly typed: TensorRT 11 and RTX know nothing else, and so the precision is
that of the graph. Nothing in TensorRT raises; what returns None, False or -1 becomes our error with
the log's lines. Names and traps: docs/design/tensorrt.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resharp.engines import PORTABLE, Profile
from resharp.errors import BuildError, OutputError
from resharp.fsutil import write_whole
from resharp.gpu import tensorrt as variants
from resharp.types import Log

START_TIMEOUT = 10.0
"""Seconds to wait for a thread whose start was interrupted: it begins in milliseconds, or never."""


class Cancel:
    """Asks a build to stop at its next step."""

    def __init__(self) -> None:
        self.asked = False


def build(
    trt: Any,
    graph: Path,
    profile: Profile,
    *,
    inputs: int = 1,
    targets: Sequence[str] = (),
    level: int | None = None,
    timing_cache: Path | None = None,
    user_allocation: bool = False,
    log: Log = lambda line: None,
    cancel: Cancel | None = None,
) -> bytes:
    """Build one engine.

    Args:
        trt: the module of a variant.
        graph: ONNX file; weights outside it lie beside it.
        profile: pictures to build for.
        inputs: how many the graph has; the pictures are the first, the others are of fixed shape.
        targets: TensorRT-RTX: ``sm86``, ..., ``portable``, or ``current``, the current GPU, which
            TensorRT always builds for.
        level: builder optimisation level 0..5; None is TensorRT's own.
        user_allocation: TensorRT-RTX: the engine takes all its memory from whoever runs it, and
            none by itself in the midst of a run, which no CUDA graph could hold.
        timing_cache: TensorRT: measured kernels of earlier builds, read and written.
        log: told each phase.
        cancel: asked between TensorRT's steps.

    Raises:
        BuildError: TensorRT refused; its log lines are kept.
        KeyboardInterrupt: ``cancel`` was asked.
    """
    trt_log = variants.trt_logger(trt)
    builder = _builder(trt, trt_log)
    network = _parse(trt, builder, graph, trt_log, inputs)
    config = builder.create_builder_config()
    cancel = cancel or Cancel()
    config.progress_monitor = _monitor(trt, log, cancel)
    if user_allocation:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if level is not None:
        config.builder_optimization_level = level
    _target(trt, config, targets, trt_log)
    _add_profile(builder, network, config, profile, trt_log)
    if timing_cache is not None:
        _load_timing(config, timing_cache)
    data = builder.build_serialized_network(network, config)
    if cancel.asked:
        raise KeyboardInterrupt
    data = bytes(_made(data, trt_log, f"build {graph.name}"))
    if timing_cache is not None:
        _save_timing(config, timing_cache, log)
    return data


def in_background(work: Callable[[], bytes], cancel: Cancel, log: Log) -> bytes:
    """Run a build in a thread, so that Ctrl-C is heard while TensorRT computes.

    Ctrl-C asks the build to stop, and waits for that: a process that ends while TensorRT computes
    crashes.
    """
    done: list[bytes] = []
    failed: list[BaseException] = []
    begun = threading.Event()
    ended = threading.Event()  # a join that was interrupted once no longer waits, before 3.13

    def run() -> None:
        begun.set()
        try:
            if cancel.asked:
                raise KeyboardInterrupt
            done.append(work())
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=run, name="resharp-build", daemon=True).start()
    except KeyboardInterrupt:  # in the midst of the start: the thread begins soon, or never
        cancel.asked = True
        if not begun.wait(START_TIMEOUT):
            raise
    while True:
        try:
            while not ended.wait(0.1):
                pass
            break
        except KeyboardInterrupt:
            cancel.asked = True
            log("stopping: TensorRT can do so only between its steps")
    if cancel.asked:
        raise KeyboardInterrupt
    if failed:
        raise failed[0]
    return done[0]


def _builder(trt: Any, trt_log: Any) -> Any:
    try:
        return _made(trt.Builder(trt_log), trt_log, "start its builder")
    except TypeError as error:  # what the bindings make of a null pointer
        raise BuildError(
            f"TensorRT could not start its builder ({trt_log.errors()}): it needs a working NVIDIA "
            "driver; see resharp doctor"
        ) from error


def _parse(trt: Any, builder: Any, graph: Path, trt_log: Any, inputs: int) -> Any:
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = _made(builder.create_network(flag), trt_log, "make a network")
    parser = trt.OnnxParser(network, trt_log)
    parsed = parser.parse_from_file(str(graph))
    if not parsed:
        lines = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BuildError(f"TensorRT cannot read {graph}: {'; '.join(lines) or trt_log.errors()}")
    if not (network.num_layers and network.num_inputs == inputs and network.num_outputs == 1):
        # It parses an empty file, or plain text, without a complaint.
        raise BuildError(
            f"TensorRT found no network in {graph} ({network.num_layers} layers, "
            f"{network.num_inputs} inputs, {network.num_outputs} outputs): export the model again"
        )
    return network


def _target(trt: Any, config: Any, targets: Sequence[str], trt_log: Any) -> None:
    if not targets or targets[0] == PORTABLE:
        return
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper())
        if not config.set_compute_capability(capability, index):
            raise BuildError(f"this TensorRT-RTX cannot build for {target}: {trt_log.errors()}")


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile, trt_log: Any) -> None:
    shapes = builder.create_optimization_profile()
    small, large = profile.smallest, profile.tile
    least, best, most = (1, small, small, 3), (1, large, large, 3), (profile.batch, large, large, 3)
    try:
        shapes.set_shape(network.get_input(0).name, least, best, most)
    except (RuntimeError, ValueError) as error:  # the bindings raise one, and document the other
        raise BuildError(f"TensorRT refuses the sizes {profile}: {error}") from error
    if config.add_optimization_profile(shapes) < 0:
        raise BuildError(f"TensorRT refuses the sizes {profile}: {trt_log.errors()}")


def _monitor(trt: Any, log: Log, cancel: Cancel) -> Any:
    began = time.monotonic()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known only at run time
        """Names phases; a share of them says nothing, since one step may be nearly all."""

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                log(f"{phase} (after {time.monotonic() - began:.0f} s)")

        def step_complete(self, phase: str, step: int) -> bool:
            return not cancel.asked

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()


def _load_timing(config: Any, path: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    for content in (data, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _save_timing(config: Any, path: Path, log: Log) -> None:
    cache = config.get_timing_cache()
    data = None if cache is None else cache.serialize()
    if data is None:
        log("the timing cache was not kept: TensorRT gave none")
        return
    try:
        write_whole(path, bytes(data), parents=True)
    except OutputError as error:
        log(f"the timing cache was not kept: {error}")


def _made(thing: Any, trt_log: Any, what: str) -> Any:
    if thing is None:
        raise BuildError(f"TensorRT could not {what}: {trt_log.errors()}")
    return thing
