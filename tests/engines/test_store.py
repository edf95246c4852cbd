from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from resharp.engines import Bundle, Store, describe_file, variant_name
from resharp.errors import (
    BundleError,
    NotExportedError,
    OptionError,
    OutputError,
    StoreBusyError,
)
from tests.engines.test_manifest import MANIFEST
from tests.waiting import LIMIT, joined


def put(store: Store, name: str = "m", content: bytes = b"one") -> Bundle:
    with store.writing(name) as draft:
        files = {}
        for key in ("uint8", "float32", "weights"):
            ending = "safetensors" if key == "weights" else "onnx"
            path = draft.folder / f"{key}-{content.hex()}.{ending}"
            path.write_bytes(content + key.encode())
            files[key] = describe_file(path)
        weights = files.pop("weights")
        return draft.commit(replace(MANIFEST, name=name, graphs=files, weights=weights))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_put_is_found_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "not" / "yet")
    assert store.names() == ()
    bundle = put(store)
    assert store.find("m") == bundle
    store.find("m").verify()
    assert store.names() == ("m",)
    assert "m" in store


def test_a_new_bundle_replaces_the_old_and_sweeps_its_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = put(store)
    engine = old.folder / "engines"
    engine.mkdir()
    put(store, content=b"two")
    old.verify()  # a runtime may still have it open
    new = put(store, content=b"three")
    new.verify()
    with pytest.raises(BundleError):
        old.verify()
    two = {f"{key}-{b'two'.hex()}" for key in ("uint8", "float32", "weights")}
    assert {Path(name).stem for name in names_in(new.folder)} >= two
    assert names_in(new.folder) - {n for n in names_in(new.folder) if Path(n).stem in two} == {
        "manifest.json",
        "engines",
        *(file.name for file in new.manifest.files()),
    }


def test_leaving_without_commit_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = put(store)

    def fail() -> None:
        with store.writing("m") as draft:
            (draft.folder / "half").write_bytes(b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.find("m") == old
    assert names_in(tmp_path) == {"m", ".locks"}


def _hold(folder: Path, ready: Connection) -> None:
    with Store(folder).writing("m") as draft:
        (draft.folder / "half.onnx").write_bytes(b"x" * 1000)
        ready.send("writing")
        ready.recv()  # blocks until it is killed or the test has ended


def _holder(folder: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """A process that is in the middle of writing, and the pipe to it, which is to be kept."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(folder, there), daemon=True)
    process.start()
    assert here.poll(LIMIT)
    assert here.recv() == "writing"
    return process, here


@pytest.mark.processes
def test_a_killed_writer_leaves_nothing_under_the_name_and_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    process, _pipe = _holder(store.folder)
    assert process.pid is not None
    waited = []
    with (
        pytest.raises(StoreBusyError, match="another process is writing 'm'"),
        store.writing("m", timeout=0.1, on_wait=lambda: waited.append(1)),
    ):
        pass
    assert waited == [1]
    os.kill(process.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    process.join(LIMIT)
    assert store.names() == ()
    assert [n for n in names_in(store.folder) if n.startswith(".draft-m~")]
    put(store)
    assert names_in(store.folder) == {"m", ".locks"}


@pytest.mark.processes
def test_two_writers_take_turns(tmp_path: Path) -> None:
    store, order, waits = Store(tmp_path), list[bytes](), threading.Event()

    def write(content: bytes) -> None:
        with store.writing("m", on_wait=waits.set):
            order.append(content)
            assert waits.wait(LIMIT)  # for the other one to stand before the door
            order.append(content)

    threads = [threading.Thread(target=write, args=(c,)) for c in (b"a", b"b")]
    for thread in threads:
        thread.start()
    joined(*threads)
    assert order[0] == order[1]
    assert order[2] == order[3]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    bundle = put(Store(tmp_path))
    path = bundle.path(bundle.manifest.graphs["uint8"])
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[0] ^= 1
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(BundleError, match=rf"{path.name} is .*resharp export m' with `force`"):
        bundle.verify()


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(NotExportedError, match="resharp export m"):
        Store(tmp_path).find("m")
    assert Store(tmp_path).names() == ()


def test_listing_sets_the_damaged_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "good")
    (put(store, "bad").folder / "manifest.json").write_text("{}")
    whole, damaged = store.bundles()
    assert [bundle.manifest.name for bundle in whole] == ["good"]
    assert len(damaged) == 1
    assert "bad" in damaged[0]


def test_removal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    store.remove("m")
    assert store.names() == ()
    assert not (tmp_path / "m").exists()
    with pytest.raises(NotExportedError, match="nothing to remove"):
        store.remove("m")


@pytest.mark.parametrize("name", ["../m", "", "M", "a b", ".hidden", "a/b"])
def test_names_that_could_leave_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="invalid model name"):
        Store(tmp_path).find(name)


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot create the store"),
        Store(tmp_path / "file" / "store").writing("m"),
    ):
        pass


@pytest.mark.parametrize(
    ("denoise", "name"),
    [(None, "m"), (1.0, "m"), (0.5, "m-dn0.5"), (0.0, "m-dn0"), (0.07, "m-dn0.07")],
)
def test_variant_names(denoise: float | None, name: str) -> None:
    assert variant_name("m", denoise) == name


@pytest.mark.parametrize("denoise", [-0.1, 1.1, float("nan")])
def test_strengths_out_of_range(denoise: float) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        variant_name("m", denoise)


def test_a_draft_of_a_longer_name_is_not_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("m-x") as other:
        put(store, "m")
        assert other.folder.is_dir()
