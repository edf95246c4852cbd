"""Small files that ask for far more than they have, each refused before anything is allocated."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resharp.errors import CheckpointError
from resharp.models import checkpoint_files, pickle_scan, read_checkpoint
from tests.models.nets import srvgg
from tests.models.test_checkpoint_files import saved

STATE = srvgg().state_dict()
START = b"\x80\x02"
GETS = 300_000
"""Repetitions that a scan counts in less than a second."""


def zipped(pickled: bytes, *storages: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    """A file as of ``torch.save``, with any pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as target:
        target.writestr("net/data.pkl", pickled)
        for number, data in enumerate(storages):
            target.writestr(f"net/data/{number}", data)
        target.writestr("net/version", b"3\n")
    return stream.getvalue()


def name(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def called(module: str, function: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{function}\n(".encode() + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def storage(key: str, count: int) -> bytes:
    what = name("storage") + b"ctorch\nFloatStorage\n" + name(key) + name("cpu") + number(count)
    return b"(" + what + b"tQ"


def tensor(key: str, count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    axes = [b"(" + b"".join(map(number, one)) + b"t" for one in (size, stride)]
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = (storage(key, count), number(0), *axes, b"\x89", hooks)
    return called("torch._utils", "_rebuild_tensor_v2", *arguments)


def one_of(value: bytes) -> bytes:
    """A pickle of a dict with one value."""
    return START + b"}" + name("a.weight") + value + b"s."


def doubled(count: int) -> bytes:
    """Bytes whose length doubles with each call of ``encode``."""
    value = called("_codecs", "encode", name("x" * 50), name("latin1"))
    for _ in range(count):
        value = b"c_codecs\nencode\n(" + value + name("hex_codec") + b"tR"
    return value


def copies_of_copies() -> bytes:
    items = b"".join(number(key) + b"N" for key in range(2000))
    start = b"ccollections\nOrderedDict\nq\x01}q\x02(" + items + b"u0"
    return START + start + b"](" + b"h\x01h\x02\x85R" * 5000 + b"e."


def deep_key() -> bytes:
    return START + b"}(" + b"K\x01" + b"\x85" * 100_000 + b"K\x01u."


PICKLES: dict[str, bytes] = {
    "a tensor of 4 TB": zipped(one_of(tensor("0", 1, (10**6, 10**6), (0, 0))), b"1234"),
    "a size that overflows": zipped(one_of(tensor("0", 1, (2**62, 2**62), (0, 0))), b"1234"),
    "a storage beyond its member": zipped(one_of(tensor("0", 999, (999,), (1,))), b"1234"),
    "a storage that is missing": zipped(one_of(tensor("7", 1, (1,), (1,))), b"1234"),
    "a negative storage": zipped(one_of(tensor("0", -1, (1,), (1,))), b"1234"),
    "a bytearray": zipped(one_of(called("__builtin__", "bytearray", number(10**11)))),
    "a tensor without values": zipped(one_of(called("torch", "FloatTensor", number(10**11)))),
    "a storage without values": zipped(
        one_of(called("torch.storage", "UntypedStorage", number(10**11)))
    ),
    "text that doubles": zipped(one_of(doubled(60))),
    "copies of copies": zipped(copies_of_copies()),
    "a key of tuples": zipped(deep_key()),
    "no end": zipped(START + b"}"),
    "unknown opcodes": zipped(START + b"\x95" + bytes(8) + b"."),
    "a bomb as the pickle": zipped(START + bytes(20 << 20), how=zipfile.ZIP_DEFLATED),
    "a bomb as a storage": zipped(one_of(b"N"), bytes(80 << 20), how=zipfile.ZIP_DEFLATED),
    "an old file that promises": saved({"a": torch.zeros(77)}, zipped=False).replace(
        b"K\x4d", b"J\xff\xff\xff\x7f", 1
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_file_that_asks_for_too_much(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.pth").write_bytes(PICKLES[kind])
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch opens it"))
    with pytest.raises(CheckpointError, match=r"truncated or damaged|more than tensors"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_member(tmp_path: Path, how: int) -> None:
    data = bytearray(zipped(one_of(b"N") + bytes(500), how=how))
    data[45:60] = b"\xff" * 15
    (tmp_path / "net.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "net.pth")


def edited(change: Callable[[bytearray, int], None]) -> bytes:
    """A saved network whose directory entry of the pickle has been changed."""
    data = bytearray(saved(dict(STATE)))
    change(data, data.rindex(b"PK\x01\x02", 0, data.rindex(b"data.pkl")))
    return bytes(data)


def sized(size: int) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, entry: int) -> None:
        data[entry + 20 : entry + 28] = struct.pack("<II", size, size)

    return change


def encrypted(data: bytearray, entry: int) -> None:
    data[entry + 8] |= 1


@pytest.mark.parametrize("change", [sized(2**31), sized(0xFFFFFFFF), sized(5), encrypted])
def test_an_edited_directory(tmp_path: Path, change: Callable[[bytearray, int], None]) -> None:
    (tmp_path / "net.pth").write_bytes(edited(change))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "net.pth")


def test_members_over_one_another(tmp_path: Path) -> None:
    """A hundred names of one member of a megabyte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("net/data.pkl", one_of(b"N"))
        target.writestr("net/data/0", bytes(1 << 20))
        first = target.infolist()[1]
        for key in range(1, 100):
            twin = zipfile.ZipInfo(f"net/data/{key}")
            twin.file_size = twin.compress_size = first.file_size
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            target.filelist.append(twin)
    (tmp_path / "net.pth").write_bytes(stream.getvalue())
    with pytest.raises(CheckpointError, match="unpacks to far more bytes than it has"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_directory_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "_DIRECTORY_BYTES", 100)
    (tmp_path / "net.pth").write_bytes(saved(dict(STATE)))
    with pytest.raises(CheckpointError, match="too many members"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_is_too_long(
    tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_scan, "PICKLE_BYTES", 100)
    monkeypatch.setattr(checkpoint_files, "PICKLE_BYTES", 100)
    (tmp_path / "net.pth").write_bytes(saved(dict(STATE), zipped=not old))
    with pytest.raises(CheckpointError, match="a pickle of more than 100 bytes"):
        read_checkpoint(tmp_path / "net.pth")


def test_one_tensor_under_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "SPARE", 1 << 20)
    shared = torch.zeros(1000, 1000)
    torch.save({f"body.{index}.weight": shared for index in range(100)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="repeats its tensors"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_tensor_without_values(tmp_path: Path) -> None:
    state = dict(STATE) | {"body.0.weight": STATE["body.0.weight"].to("meta")}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"body.0.weight has a shape but no values"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("noted", ["[" * 100_000, '{"a":' * 100_000])
def test_metadata_that_are_nested(tmp_path: Path, noted: str) -> None:
    from safetensors.torch import save_file

    save_file(dict(STATE), tmp_path / "net.safetensors", metadata={"resharp": noted})
    with pytest.raises(CheckpointError, match=r"metadata .* damaged: it is nested too deeply"):
        read_checkpoint(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("SRVGGNetCompact", {"num_conv": 10**9}),
        ("SwinIR", {"depths": "1000000000"}),
        ("SwinIR", {"depths": ",".join("6" * 5000)}),
    ],
)
def test_metadata_of_a_network_without_end(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    from safetensors.torch import save_file

    noted = json.dumps({"architecture": kind, "parameters": changes})
    save_file(dict(STATE), tmp_path / "net.safetensors", metadata={"resharp": noted})
    with pytest.raises(CheckpointError, match="must not exceed"):
        read_checkpoint(tmp_path / "net.safetensors")


def header(*tensors: Any) -> bytes:
    text = json.dumps({f"body.{i}.weight": one for i, one in enumerate(tensors)}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        header({"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}),
        header({"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}),
        header({"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]}),
        header(*[{"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}] * 2),
        header({"dtype": "F32", "shape": [16], "data_offsets": [64, 0]}),
        header([[[]]]),
        struct.pack("<Q", 100_000) + b'{"a":' * 20_000,
    ],
)
def test_damaged_headers_of_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "net.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="it is a pipe, not a file"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("old", [False, True])
def test_what_checkpoints_hold_is_still_read(tmp_path: Path, old: bool) -> None:
    content = {
        "params": STATE,
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "set": {1, 2},
        "bytes": b"abc\xff",
        "view": torch.arange(10)[2:5],
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "repeated": torch.zeros(1).expand(1000),
    }
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not old)
    found = read_checkpoint(tmp_path / "net.pth")
    assert all(torch.equal(found.state[name], one) for name, one in STATE.items())


def test_names_of_any_length_are_shortened(tmp_path: Path) -> None:
    torch.save({"a." + "x" * 1_000_000: torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "net.pth", architecture="SRVGGNetCompact")
    assert len(str(caught.value)) < 4000
