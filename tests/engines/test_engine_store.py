"""Engines on disk: damaged, stale and foreign ones are named and never read as good."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resharp.engines import (
    Bundle,
    Engine,
    EngineSpec,
    EngineStore,
    Environment,
    File,
    ParityResult,
    Profile,
    mismatch,
)
from resharp.errors import BundleError, OutputError
from resharp.fsutil import sha256_of
from tests.held import start
from tests.waiting import LIMIT, joined

HERE = Environment(
    variant="tensorrt", version="11.4.0", gpu="NVIDIA L4", capability="8.9", driver="13.1"
)
DATA = bytes(random.Random(0).randbytes(4000))
REFERENCE = b"a picture"


def spec(bundle: Bundle, **changes: Any) -> EngineSpec:
    manifest = bundle.manifest
    values: dict[str, Any] = {
        "graph": manifest.graphs["uint8"].sha256,
        "weights": manifest.weights.sha256,
        "dtype": "uint8",
        "precision": "fp16",
        "variant": HERE.variant,
        "version": HERE.version,
        "gpu": HERE.gpu,
        "capability": HERE.capability,
        "driver": HERE.driver,
        "profile": Profile(smallest=16, tile=256, batch=4),
        "options": {"level": None},
    }
    return EngineSpec(**(values | changes))


def engine_of(one: EngineSpec, data: bytes = DATA) -> Engine:
    def file(name: str, content: bytes) -> File:
        return File(name=name, sha256=sha256_of(content), size=len(content))

    return Engine(
        model="tiny",
        spec=one,
        file=file(f"{one.key()}.engine", data),
        reference=file("reference-1.npz", REFERENCE),
        graph=ParityResult(psnr=70.0, levels=1, passed=True),
        seconds=1.5,
    )


def put(place: EngineStore, one: EngineSpec, data: bytes = DATA) -> Engine:
    engine = engine_of(one, data)
    with place.lock_for_build(engine.key) as draft:
        return draft.commit(engine, data, REFERENCE)


@pytest.fixture
def place(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


def test_what_is_put_is_found_and_read(place: EngineStore, compact: Bundle) -> None:
    engine = put(place, spec(compact))
    assert place.find(engine.key) == engine
    assert place.read(engine) == DATA
    assert place.lookup(compact.manifest, HERE, "uint8").engines == (engine,)
    assert place.lookup(compact.manifest, HERE, "float32").engines == ()


def test_the_fastest_precision_comes_first(place: EngineStore, compact: Bundle) -> None:
    for precision in ("fp32", "bf16", "fp16", "mixed"):
        put(place, spec(compact, precision=precision))
    found = place.lookup(compact.manifest, HERE, "uint8").engines
    assert [e.spec.precision for e in found] == ["fp16", "mixed", "fp32", "bf16"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "NVIDIA A10", "capability": "8.6"}, "built for NVIDIA A10"),
        ({"driver": "12.8"}, "driver for CUDA 12.8, this driver is for CUDA 13.1"),
        ({"version": "10.16.1"}, "built with tensorrt 10.16.1, this machine has tensorrt 11.4.0"),
        ({"variant": "tensorrt_rtx", "targets": ("sm89",)}, "built with tensorrt_rtx"),
        ({"graph": "0" * 64}, "older export"),
        ({"weights": "0" * 64}, "older export"),
    ],
)
def test_a_foreign_engine_says_why(
    place: EngineStore, compact: Bundle, change: dict[str, Any], reason: str
) -> None:
    put(place, spec(compact, **change))
    found = place.lookup(compact.manifest, HERE, "uint8")
    assert found.engines == ()
    assert len(found.reasons) == 1
    assert reason in found.reasons[0]


@pytest.mark.parametrize(
    ("targets", "capability", "fits"),
    [
        (("sm86", "sm89"), "8.9", True),
        (("sm86", "sm89"), "9.0", False),
        (("sm120",), "12.0", True),
        (("portable",), "7.5", False),
        *((("portable",), one, True) for one in ("8.0", "8.6", "8.9", "12.0", "12.1", "12.2")),
        (("portable",), "13.0", True),
        *((("portable",), one, False) for one in ("8.7", "9.0", "10.0", "10.3", "11.0")),
    ],
)
def test_targets_of_an_engine_built_ahead(
    compact: Bundle, targets: tuple[str, ...], capability: str, fits: bool
) -> None:
    rtx = spec(
        compact, variant="tensorrt_rtx", version="1.7.1.116", targets=targets, gpu="", driver=""
    )
    here = replace(HERE, variant="tensorrt_rtx", version="1.7.1.116", capability=capability)
    assert (mismatch(rtx, compact.manifest, here) is None) is fits


@pytest.mark.parametrize("capability", ["7.0", "8.7", "9.0", "10.0", "10.3", "11.0"])
@pytest.mark.parametrize("target", ["portable", "current"])
def test_no_engine_of_rtx_is_for_a_gpu_that_it_refuses(
    compact: Bundle, target: str, capability: str
) -> None:
    here = replace(HERE, variant="tensorrt_rtx", version="1.7.1.116", capability=capability)
    built = {"gpu": here.gpu, "capability": capability} if target == "current" else {"gpu": ""}
    made = spec(compact, variant="tensorrt_rtx", version=here.version, targets=(target,), **built)
    reason = mismatch(made, compact.manifest, here)
    assert reason is not None
    assert f"TensorRT-RTX does not support {here.gpu} (compute capability {capability})" in reason


def test_an_engine_built_by_rtx_on_its_gpu_is_for_no_other(compact: Bundle) -> None:
    here = replace(HERE, variant="tensorrt_rtx", version="1.7.1.116")
    own = spec(compact, variant="tensorrt_rtx", version="1.7.1.116", targets=("current",))
    assert mismatch(own, compact.manifest, here) is None
    for change in ({"gpu": "NVIDIA L40"}, {"capability": "9.0"}, {"driver": "12.8"}):
        assert mismatch(own, compact.manifest, replace(here, **change)) is not None


def test_every_field_is_in_the_key(compact: Bundle) -> None:
    base = spec(compact)
    changed = [
        replace(base, graph="1"),
        replace(base, weights="1"),
        replace(base, dtype="float32"),
        replace(base, precision="fp32"),
        replace(base, variant="tensorrt_rtx"),
        replace(base, version="1"),
        replace(base, targets=("sm86",)),
        replace(base, gpu="x"),
        replace(base, capability="1"),
        replace(base, driver="1"),
        replace(base, profile=Profile(smallest=16, tile=256, batch=5)),
        replace(base, options={"level": 5}),
    ]
    assert len({base.key(), *(one.key() for one in changed)}) == len(changed) + 1


@pytest.mark.parametrize("length", [0, 1, 63, 64, 100, 1000, 2000, 3000, 3998, 3999])
def test_a_truncated_engine_is_refused(place: EngineStore, compact: Bundle, length: int) -> None:
    engine = put(place, spec(compact))
    place.path(engine.file).write_bytes(DATA[:length])
    with pytest.raises(BundleError, match=r"is damaged: .* bytes, .* 'export-engines tiny'"):
        place.read(engine)
    assert place.find(engine.key) is None


def test_a_flipped_bit_anywhere_is_seen(place: EngineStore, compact: Bundle) -> None:
    engine = put(place, spec(compact))
    chance = random.Random(7)
    for _ in range(50):
        spoiled = bytearray(DATA)
        spoiled[chance.randrange(len(DATA))] ^= 1 << chance.randrange(8)
        place.path(engine.file).write_bytes(spoiled)
        with pytest.raises(BundleError, match="SHA-256"):
            place.read(engine)


def test_a_damaged_reference_is_seen(place: EngineStore, compact: Bundle) -> None:
    engine = put(place, spec(compact))
    place.path(engine.reference).write_bytes(b"b picture")
    with pytest.raises(BundleError, match=r"reference-1\.npz is damaged"):
        place.read(engine)
    put(place, spec(compact))
    assert place.read(engine) == DATA


def test_a_missing_sidecar_and_that_of_another_engine(place: EngineStore, compact: Bundle) -> None:
    one, other = put(place, spec(compact)), put(place, spec(compact, precision="mixed"))
    (place.folder / f"{one.key}.json").unlink()
    found = place.lookup(compact.manifest, HERE, "uint8")
    assert found.engines == (other,)
    assert "has no sidecar" in found.reasons[0]
    (place.folder / f"{one.key}.json").write_text(other.to_json())
    assert "belongs to another engine" in place.lookup(compact.manifest, HERE, "uint8").reasons[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"NVIDIA L4"', '"NVIDIA A10"'), ('"13.1"', '"12.0"'), ('"schema": 2', '"schema": 1')],
)
def test_a_sidecar_that_was_edited(place: EngineStore, compact: Bundle, old: str, new: str) -> None:
    engine = put(place, spec(compact))
    path = place.folder / f"{engine.key}.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert place.lookup(compact.manifest, HERE, "uint8").engines == ()
    for junk in ("", "{}", "[]", "null", '{"schema": 1}', text[:100], "\0"):
        path.write_text(junk)
        _, bad = place.engines()
        assert len(bad) == 1
        assert str(path) in bad[0]
    path.write_bytes(b"\xff\xfe")
    assert "is damaged" in place.engines()[1][0]


def test_parity_is_recorded_by_gpu_and_driver(place: EngineStore, compact: Bundle) -> None:
    engine = put(place, spec(compact))
    assert place.parity(engine, HERE) is None
    good, bad = (
        ParityResult(psnr=66.0, levels=1, passed=True),
        ParityResult(psnr=9, levels=9, passed=False),
    )
    assert place.record(engine, HERE, good)
    assert place.record(engine, replace(HERE, driver="13.2"), bad)
    assert place.parity(engine, HERE) == good
    assert place.parity(engine, replace(HERE, driver="13.2")) == bad
    assert place.parity(engine, replace(HERE, gpu="NVIDIA A10")) is None
    put(place, spec(compact))  # new bytes: what was measured of the old ones is void
    assert place.parity(engine, HERE) is None
    other = put(place, spec(compact), DATA[::-1])
    place.record(engine, HERE, good)  # by a process that had loaded the old bytes
    assert place.parity(other, HERE) is None


def test_a_damaged_parity_record_is_measured_again(place: EngineStore, compact: Bundle) -> None:
    engine = put(place, spec(compact))
    place.record(engine, HERE, ParityResult(psnr=66.0, levels=1, passed=True))
    path = place.folder / f"{engine.key}.parity.json"
    place_of = next(iter(json.loads(path.read_text())))
    sha = engine.file.sha256
    bad = {"psnr": None, "levels": 0, "passed": False, "engine": sha}
    odd = {"psnr": 66.0, "levels": 0, "passed": "yes", "engine": sha}
    for junk in ("", "[]", *(json.dumps({place_of: one}) for one in ({"a": 1}, bad, odd, 5))):
        path.write_text(junk)
        assert place.parity(engine, HERE) is None


def test_removing_keeps_a_reference_that_another_needs(place: EngineStore, compact: Bundle) -> None:
    one, other = put(place, spec(compact)), put(place, spec(compact, precision="mixed"))
    place.remove(one)
    assert place.read(other) == DATA
    place.remove(other)
    assert [p.name for p in place.folder.iterdir()] == [".locks"]


def test_references_go_with_the_last_engine_that_names_them(
    place: EngineStore, compact: Bundle
) -> None:
    old = put(place, spec(compact))
    left = place.folder / "reference-0123456789ab.npz"
    left.write_bytes(b"of an engine that was built again with another picture")
    put(place, spec(compact, precision="mixed"))
    assert not left.exists()
    (place.folder / f"{old.key}.json").unlink()
    assert place.clear() == 2
    assert [path.name for path in place.folder.iterdir()] == [".locks"]
    assert place.clear() == 0


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_full_disk_leaves_nothing_and_keeps_the_rest(
    place: EngineStore, compact: Bundle, monkeypatch: pytest.MonkeyPatch, which: int, again: bool
) -> None:
    kept = put(place, spec(compact))
    place.record(kept, HERE, ParityResult(psnr=66.0, levels=1, passed=True))
    before = sorted(p.name for p in place.folder.iterdir())
    real = os.fsync
    calls = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == which:  # engine, sidecar, reference
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    other = spec(compact) if again else spec(compact, precision="mixed")
    with pytest.raises(OutputError, match="No space left"):
        put(place, other, DATA[::-1])
    assert len(calls) == which
    assert sorted(p.name for p in place.folder.iterdir()) == before
    assert place.read(kept) == DATA
    assert place.parity(kept, HERE) is not None


def test_pruning_takes_only_what_is_proven_useless(
    place: EngineStore, compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = put(place, spec(compact))
    newer = put(place, spec(compact, precision="mixed"))
    sidecar = place.folder / f"{newer.key}.json"
    sidecar.write_text(sidecar.read_text().replace('"schema": 2', '"schema": 99'))
    forgotten, fresh = place.folder / ".draft-a.part", place.folder / ".draft-b.part"
    for path in (forgotten, fresh):
        path.write_bytes(b"")
    os.utime(forgotten, (0, 0))
    with monkeypatch.context() as patch:

        def broken(path: Path) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(Path, "read_bytes", broken)
        assert place.prune(compact.manifest) == ()
    assert place.read(good) == DATA
    assert fresh.exists()
    assert not forgotten.exists()
    old = put(place, spec(compact, graph="0" * 64))
    sidecar.unlink()
    lines = place.prune(compact.manifest)
    assert len(lines) == 2
    assert any("no sidecar" in line for line in lines)
    assert any(old.key[:12] in line and "older export" in line for line in lines)
    assert place.engines()[0] == (good,)


KILLED = """
import sys
from pathlib import Path
from resharp.engines import EngineStore
with EngineStore(Path(sys.argv[1])).lock_for_build("k" * 64) as draft:
    (Path(sys.argv[1]) / f"{draft._stem}.part").write_bytes(b"half an engine")
    (draft.scratch() / "graph.onnx").write_bytes(b"a graph")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.processes
def test_a_killed_build_leaves_no_engine_and_no_lock(place: EngineStore, compact: Bundle) -> None:
    with start("-c", KILLED, str(place.folder)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        os.kill(child.pid, signal.SIGKILL)
    assert place.engines() == ((), ())
    with place.lock_for_build("k" * 64, on_wait=lambda: pytest.fail("its lock was left")):
        assert not list(place.folder.glob(".draft-*"))


@pytest.mark.processes
def test_two_builders_of_one_key_take_turns(place: EngineStore, compact: Bundle) -> None:
    wanted, waits = spec(compact), threading.Event()
    built = []

    def work() -> None:
        with EngineStore(place.folder).lock_for_build(wanted.key(), waits.set) as draft:
            if place.find(wanted.key()) is None:
                assert waits.wait(LIMIT)
                built.append(draft.commit(engine_of(wanted), DATA, REFERENCE))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    joined(*threads)
    assert len(built) == 1
    assert place.read(built[0]) == DATA
