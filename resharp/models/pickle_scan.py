"""A check of the pickle of a checkpoint before torch builds anything from it.

torch's restricted unpickler runs no code, but it trusts every size: a few bytes can make it create
a ``bytearray`` of 100 GB, a tensor that repeats one number 10^12 times, text that doubles with each
``encode``, copies of copies of a dict, or a storage larger than the file. So the opcodes are
executed here first, on stand-ins without content.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

PICKLE_BYTES = 16 << 20
"""Largest pickle of a checkpoint in bytes; it holds only names and shapes."""
FACTOR, SPARE = 4, 64 << 20
"""Tensors may take this many times the bytes of their file, plus a constant: float8 becomes
float32, and a small file may repeat a value."""
_COPIES = 1_000_000
"""Most items that are copied from one container to another."""
_AXES = 64
"""Most axes of a tensor; tuples up to this length may be shapes."""
_DEEPEST = 64
"""Most levels of tuples within tuples; Python hashes keys recursively."""
_BYTES = (
    dict.fromkeys(("Byte", "Char", "Bool", "Untyped", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1)
    | dict.fromkeys(("Half", "BFloat16", "Short"), 2)
    | dict.fromkeys(("Float", "Int", "QInt32"), 4)
    | dict.fromkeys(("Double", "Long", "ComplexFloat"), 8)
    | {"ComplexDouble": 16}
)
"""Bytes per item of each storage class."""
_STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
_CONTAINERS = {"collections.OrderedDict", "collections.Counter", "builtins.set"}
_PARAMETER = "torch.nn.parameter.Parameter"
_TENSOR = re.compile(r"torch(\.cuda)?\.(\w*)Tensor")
_REBUILD = {
    f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor")
}
"""Functions that make a tensor of (storage, offset, size, stride, ...)."""
_HARMLESS = {
    *("torch.Size", "torch.device", "torch.serialization._get_layout", "builtins.complex"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    *("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_meta_tensor_no_storage"),
    *("_codecs.encode", "torch._tensor._rebuild_from_type_v2", _PARAMETER),
}


class TooMuchError(Exception):
    """A pickle that needs more than its file can hold; the message completes "it ..."."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Tuple:
    items: tuple[Any, ...]
    depth: int


@dataclass
class _Made:
    """A stand-in for a container or a tensor, with only its number of items."""

    items: int = 0


@dataclass(frozen=True)
class _Stored:
    item_bytes: int


def scan(stream: BinaryIO, file_bytes: int, sizes: Mapping[str, int] | None = None) -> None:
    """Execute one pickle, from the position of a stream, on stand-ins.

    Args:
        stream: a binary stream.
        file_bytes: size of the whole file, which limits what its tensors may take.
        sizes: bytes of each storage by its key; None if they are not known yet.

    Raises:
        TooMuchError: it needs far more memory than the size of the file.
        pickle.UnpicklingError: it refers to something that no checkpoint needs.
        Exception: it is damaged; anything may be raised.
    """
    machine = _Machine(file_bytes, sizes)
    start = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if stream.tell() - start > PICKLE_BYTES:
            raise TooMuchError(f"has a pickle of more than {PICKLE_BYTES} bytes")
        machine.step(opcode.name, argument)


def most_bytes(file_bytes: int) -> int:
    """Return how many bytes the tensors of a file may take in memory."""
    return FACTOR * file_bytes + SPARE


class _Machine:
    """The part of the pickle machine that torch's restricted unpickler supports."""

    def __init__(self, file_bytes: int, sizes: Mapping[str, int] | None) -> None:
        self._file_bytes, self._sizes = file_bytes, sizes
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied, self._stored, self._total = 0, dict[Any, int](), 0

    def step(self, name: str, argument: Any) -> None:
        """Execute one opcode."""
        if name in _ATOMS:
            self._stack.append(_ATOMS[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name not in ("PROTO", "STOP"):
            action: Callable[[], None] | None = getattr(self, f"_on_{name.lower()}", None)
            if action is None:
                raise pickle.UnpicklingError(f"unsupported opcode {name}")
            action()

    def _on_mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _on_tuple(self) -> None:
        self._push_tuple(self._since_mark())

    def _on_tuple1(self) -> None:
        self._push_tuple([self._stack.pop() for _ in range(1)])

    def _on_tuple2(self) -> None:
        self._push_tuple([self._stack.pop() for _ in range(2)][::-1])

    def _on_tuple3(self) -> None:
        self._push_tuple([self._stack.pop() for _ in range(3)][::-1])

    def _push_tuple(self, items: list[Any]) -> None:
        depth = 1 + max((one.depth for one in items if isinstance(one, _Tuple)), default=0)
        if depth > _DEEPEST:
            raise TooMuchError(f"nests tuples more than {_DEEPEST} levels deep")
        self._stack.append(_Tuple(tuple(items), depth))

    def _on_append(self) -> None:
        self._stack.pop()
        self._stack[-1].items += 1

    def _on_appends(self) -> None:
        added = len(self._since_mark())
        self._stack[-1].items += added

    def _on_setitem(self) -> None:
        del self._stack[-2:]
        self._stack[-1].items += 1

    def _on_setitems(self) -> None:
        added = len(self._since_mark()) // 2
        self._stack[-1].items += added

    def _on_binpersid(self) -> None:
        """Check a storage: (``storage``, class, key, place, number of items, ...)."""
        asked = self._stack.pop()
        kind, key, _, count = asked.items[1:5]
        found = _STORAGE.fullmatch(kind.name)
        if found is None or found[1] not in _BYTES or type(count) is not int:
            raise pickle.UnpicklingError(f"GLOBAL {kind.name} is no storage")
        item = _BYTES[found[1]]
        if key not in self._stored:
            left = self._file_bytes - self._total
            if not 0 <= count * item <= (left if self._sizes is None else self._sizes.get(key, 0)):
                raise TooMuchError(f"needs {count * item} bytes of a storage that has fewer")
            self._stored[key] = count * item
            self._total += count * item
        self._stack.append(_Stored(item))

    def _on_newobj(self) -> None:
        given, kind = self._stack.pop(), self._stack.pop()
        self._call(kind, given)

    def _on_reduce(self) -> None:
        given, kind = self._stack.pop(), self._stack.pop()
        self._call(kind, given)

    def _call(self, kind: Any, given: Any) -> None:
        """Push the stand-in for the result of a call."""
        name, items = kind.name, given.items
        self._count_copies(*items)
        made: Any = _Made(sum(one.items for one in items if isinstance(one, _Made)))
        if name in _REBUILD:
            self._check_tensor(items)
            made = _Made()
        elif name == "torch._tensor._rebuild_from_type_v2":
            if not isinstance(items[0], _Global) or items[0].name not in _REBUILD:
                raise pickle.UnpicklingError(f"GLOBAL {name} calls something else")
            self._check_tensor(items[2].items)
        elif name == "_codecs.encode":
            if not isinstance(items[0], str) or items[1:] not in ((), ("latin1",)):
                raise pickle.UnpicklingError(f"GLOBAL {name} is used for more than bytes")
        elif name == "torch.Size":
            made = items[0]
        elif _STORAGE.fullmatch(name) or (_TENSOR.fullmatch(name) and items):
            raise pickle.UnpicklingError(f"GLOBAL {name} is called, which may take any memory")
        self._stack.append(made)

    def _on_build(self) -> None:
        state = self._stack.pop()
        if isinstance(state, _Tuple) and any(isinstance(one, _Stored) for one in state.items):
            self._check_tensor(state.items)  # a tensor of an old version
        self._count_copies(*(state.items if isinstance(state, _Tuple) else (state,)))

    def _count_copies(self, *items: Any) -> None:
        """Count the items that a call may copy."""
        self._copied += sum(one.items for one in items if isinstance(one, _Made))
        lengths = (len(one.items) for one in items if isinstance(one, _Tuple))
        self._copied += sum(length for length in lengths if length > _AXES)
        if self._copied > _COPIES:
            raise TooMuchError(f"copies more than {_COPIES} items of its containers")

    def _check_tensor(self, items: tuple[Any, ...]) -> None:
        """Check (storage, offset, size, stride, ...): the items must not exceed the file."""
        storage, _, size = items[:3]
        count = math.prod(size.items)
        if max(storage.item_bytes, 4) * count > most_bytes(self._file_bytes):
            shape = "x".join(map(str, size.items))
            raise TooMuchError(f"has a tensor of {shape} items, far more than the file can hold")


def _global(argument: str) -> _Global:
    """Return the stand-in for a global by module and name, if checkpoints need it."""
    name = argument.replace(" ", ".").replace("__builtin__.", "builtins.")
    known = name in _CONTAINERS or name in _REBUILD or name in _HARMLESS
    if not known and not _STORAGE.fullmatch(name) and not _TENSOR.fullmatch(name):
        module, _, own = name.rpartition(".")
        if module != "torch" or not isinstance(getattr(torch, own, None), torch.dtype):
            raise pickle.UnpicklingError(f"unsupported GLOBAL {name}")
    return _Global(name)


_ATOMS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
        lambda argument: argument,
    ),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: _Tuple((), 1),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda _: _Made()),
    "GLOBAL": _global,
}
"""Opcodes that push something new."""
