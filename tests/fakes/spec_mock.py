"""TensorRT's module, with mocks that know the real names in place of what needs its libraries.

``spec_module(bindings)`` is the bindings' own module, enums and base classes included, but its
``Builder``, ``OnnxParser`` and ``Runtime`` make mocks. A mock has exactly the attributes of its
class. Its methods take exactly the arguments that the real ones take, by count, name and class, and
give a mock of the class that the real ones give: all read from the signatures that pybind11 writes
into the docstrings. So our code can be driven against the names of a TensorRT that is not here.

A test steers it through the mocks: ``trt.Builder.return_value.build_serialized_network`` is a mock
whose ``return_value`` may be set and whose calls are recorded. Left alone, numbers are 1, truths
True, texts and lists empty, and a serialised engine is the bytes ``engine``. Properties take what
the real ones take, which for many is nothing; a test sets them with :func:`steer`. Where an answer
depends on the arguments, it is given with :func:`answer`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, SupportsInt
from unittest.mock import DEFAULT, Mock, NonCallableMock

FACTORIES = ("Builder", "OnnxParser", "Runtime")
_GIVEN: dict[str, Any] = {"bool": True, "int": 1, "float": 1.0, "str": "", "bytes": b""}
_CONVERTED = ("Dims", "Weights", "Permutation")
"""Classes that pybind11 makes from tuples and arrays as well: their arguments are let through."""
_SIGNATURE = re.compile(r"^(?:\d+\. )?\w*\((.*)\) -> (.+)$", re.MULTILINE)
_COMMA = re.compile(r", (?=\*{0,2}\w+(?::|,|$))")  # before the next parameter


def spec_module(bindings: ModuleType, name: str = "tensorrt") -> Any:
    """A module that may be put in ``sys.modules`` under ``name``."""

    class Module(ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            return getattr(bindings, attribute)

    module: Any = Module(name)
    module.__spec__ = ModuleSpec(name, None, origin="here")  # so that find_spec finds it
    module.__version__ = vars(bindings)["__version__"]
    for factory in FACTORIES:
        cls = getattr(bindings, factory)
        check = _check(bindings, factory, cls.__init__.__doc__)
        made = Mock(spec=[], side_effect=check, return_value=instance(bindings, cls))
        setattr(module, factory, made)
    return module


def instance(bindings: ModuleType, cls: type) -> Any:
    """An object of one of the bindings' classes; its members are made when they are asked for."""
    if cls.__name__ == "IHostMemory":
        return HostMemory(b"engine")
    made = _Instance(spec_set=cls)
    made.__dict__["of"] = (bindings, cls)
    return made


def steer(made: Any, **values: Any) -> None:
    """Set what properties give, also those that code may not set."""
    for name, value in values.items():
        NonCallableMock.__setattr__(made, name, value)


def answer(method: Any, reply: Callable[..., Any]) -> None:
    """Let a method, or a factory, give ``reply(*arguments)`` once its arguments are checked."""
    before = method.side_effect
    method.side_effect = _Answer(before.check if isinstance(before, _Answer) else before, reply)


class _Answer:
    def __init__(self, check: Callable[..., Any], reply: Callable[..., Any]) -> None:
        self.check, self.reply = check, reply

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.check(*arguments, **keywords)
        return self.reply(*arguments, **keywords)


class _Instance(NonCallableMock):
    """A mock of one of the bindings' classes; see :func:`instance`."""

    def __setattr__(self, name: str, value: Any) -> None:
        bindings, cls = self.__dict__.get("of", (None, None))
        member = inspect.getattr_static(cls, name, None)
        if isinstance(member, property):
            if member.fset is None:
                raise AttributeError(f"{cls.__name__}.{name} cannot be set")
            _check(bindings, f"{cls.__name__}.{name}", member.fset.__doc__)(self, value)
        super().__setattr__(name, value)

    def _get_child_mock(self, /, **settings: Any) -> Any:
        bindings, cls = self.__dict__["of"]
        name = settings["name"]
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property):
            return _value(bindings, _returns(member.fget.__doc__))
        documentation = getattr(cls, name).__doc__
        check = _check(bindings, f"{cls.__name__}.{name}", documentation)
        value = _value(bindings, _returns(documentation))
        return Mock(spec=[], side_effect=check, return_value=value, **settings)


class HostMemory(bytes):
    """Stands for IHostMemory, which has the buffer protocol, as no mock has."""

    nbytes = property(len)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("nbytes", "dtype"):
            raise AttributeError(f"IHostMemory has no {name}")
        return super().__getattribute__(name)


def _returns(documentation: str | None) -> str:
    found = _SIGNATURE.search(documentation or "")
    return found[2] if found else "None"


def _value(bindings: ModuleType, annotation: str) -> Any:
    """The default value of a method or property of that type."""
    if annotation.startswith(("list", "tuple")):
        return []
    cls = _class(bindings, annotation)
    if cls is None:
        return _GIVEN.get(annotation)
    if cls.__name__ == "Dims":
        return ()
    members = getattr(cls, "__members__", None)
    return next(iter(members.values())) if members else instance(bindings, cls)


def _class(bindings: ModuleType, annotation: str) -> type | None:
    """The class of the bindings that a docstring names, in Python's or in C++'s way."""
    inner = f"{bindings.__name__}.{bindings.__name__.removesuffix('_bindings')}."
    thing: Any = bindings
    if annotation.startswith(inner):
        for part in annotation.removeprefix(inner).split("."):
            thing = getattr(thing, part, None)
    else:
        name = annotation.rpartition("::")[2] if "::" in annotation else ""
        thing = getattr(bindings, "ParserError" if name == "IParserError" else name, None)
    return thing if isinstance(thing, type) else None


def _check(bindings: ModuleType, name: str, documentation: str | None) -> Callable[..., Any]:
    """A side effect that refuses arguments that no overload in the docstring takes."""
    overloads = [_parameters(found[1]) for found in _SIGNATURE.finditer(documentation or "")]
    assert overloads, f"{name} has no signature"

    def check(*arguments: Any, **keywords: Any) -> Any:
        for parameters in overloads:
            try:
                bound = inspect.Signature(parameters).bind(*arguments, **keywords)
            except TypeError:
                continue
            kinds = {parameter.name: parameter.annotation for parameter in parameters}
            if all(_fits(bindings, kinds[key], value) for key, value in bound.arguments.items()):
                return DEFAULT
        raise TypeError(f"{name}: no overload takes {arguments} {keywords}:\n{documentation}")

    return check


def _parameters(text: str) -> list[inspect.Parameter]:
    """Parameters of a signature, without ``self``."""
    parameters = []
    for part in _COMMA.split(text):
        name, _, rest = part.partition(": ")
        annotation, equals, _ = rest.partition(" = ")
        if name == "self":
            continue
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None if equals else inspect.Parameter.empty,
                annotation=annotation,
            )
        )
    return parameters


def _fits(bindings: ModuleType, annotation: str, value: object) -> bool:
    """Whether pybind11 would take the value; types that are not known here are let through."""
    if annotation == "str":
        return isinstance(value, str)
    if annotation in ("int", "typing.SupportsInt"):
        return isinstance(value, SupportsInt) and not isinstance(value, float)
    if annotation == "typing_extensions.Buffer":
        return isinstance(value, bytes | bytearray | memoryview)
    cls = _class(bindings, annotation)
    if cls is None or cls.__name__.startswith(_CONVERTED) or value is None:
        return True
    if cls.__name__ == "IHostMemory":
        return isinstance(value, HostMemory)
    return isinstance(value, cls)
