"""Builds an engine from an ONNX file, with TensorRT 10, TensorRT 11 or TensorRT-RTX.

The network is always strongly typed, the only mode of TensorRT 11 and RTX, so the graph determines
the precision. TensorRT reports failures by returning None, False or -1; each becomes our error with
TensorRT's log lines. Names and pitfalls: docs/design/tensorrt.md.
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
"""Seconds to wait for a thread whose start was interrupted; it starts in milliseconds or never."""


class Cancel:
    """Request to stop a build at its next step."""

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
        trt: module of the TensorRT variant.
        graph: ONNX file; its external weights are next to it.
        profile: input sizes to build for.
        inputs: number of inputs of the graph: the images, then others of fixed shape.
        targets: TensorRT-RTX: ``sm86``, ..., ``portable``, or ``current`` for the current GPU,
            which TensorRT always builds for.
        level: builder optimization level 0..5; None is TensorRT's default.
        user_allocation: TensorRT-RTX: the engine takes all its memory from its caller and allocates
            none during a run, which a CUDA graph could not capture.
        timing_cache: TensorRT: file of kernel timings of earlier builds, read and written.
        log: called with a line for each phase.
        cancel: checked between TensorRT's steps.

    Returns:
        The serialized engine.

    Raises:
        BuildError: TensorRT could not build the engine; the message contains its log lines.
        KeyboardInterrupt: ``cancel`` was requested.
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
    """Run a build in a thread, so that Ctrl-C is handled while TensorRT computes.

    Ctrl-C asks the build to stop and waits until it has: a process that exits while TensorRT
    computes crashes. A second one does not wait.
    """
    done: list[bytes] = []
    failed: list[BaseException] = []
    begun = threading.Event()
    ended = threading.Event()  # before Python 3.13, an interrupted join() never waits again

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
    except KeyboardInterrupt:  # during the start: the thread starts soon or never
        cancel.asked = True
        if not begun.wait(START_TIMEOUT):
            raise
    while True:
        try:
            while not ended.wait(0.1):
                pass
            break
        except KeyboardInterrupt:
            if cancel.asked:
                raise
            cancel.asked = True
            log("stopping: TensorRT can stop only between its steps")
    if cancel.asked:
        raise KeyboardInterrupt
    if failed:
        raise failed[0]
    return done[0]


def _builder(trt: Any, trt_log: Any) -> Any:
    try:
        return _made(trt.Builder(trt_log), trt_log, "start its builder")
    except TypeError as error:  # raised by the bindings for a null pointer
        raise BuildError(
            f"TensorRT could not start its builder ({trt_log.errors()}): it needs a working NVIDIA "
            "driver; see 'resharp doctor'"
        ) from error


def _parse(trt: Any, builder: Any, graph: Path, trt_log: Any, inputs: int) -> Any:
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = _made(builder.create_network(flag), trt_log, "create a network")
    parser = trt.OnnxParser(network, trt_log)
    parsed = parser.parse_from_file(str(graph))
    if not parsed:
        lines = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BuildError(f"TensorRT cannot read {graph}: {'; '.join(lines) or trt_log.errors()}")
    if not (network.num_layers and network.num_inputs == inputs and network.num_outputs == 1):
        # The parser accepts empty files and plain text without an error.
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
    except (RuntimeError, ValueError) as error:  # the bindings raise one but document the other
        raise BuildError(f"TensorRT rejects the sizes {profile}: {error}") from error
    if config.add_optimization_profile(shapes) < 0:
        raise BuildError(f"TensorRT rejects the sizes {profile}: {trt_log.errors()}")


def _monitor(trt: Any, log: Log, cancel: Cancel) -> Any:
    began = time.monotonic()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known only at run time
        """Logs phases, but no fractions of them, since one step may take nearly all of the time."""

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
        log("the timing cache was not saved: TensorRT returned none")
        return
    try:
        write_whole(path, bytes(data), parents=True)
    except OutputError as error:
        log(f"the timing cache was not saved: {error}")


def _made(thing: Any, trt_log: Any, what: str) -> Any:
    if thing is None:
        raise BuildError(f"TensorRT could not {what}: {trt_log.errors()}")
    return thing
