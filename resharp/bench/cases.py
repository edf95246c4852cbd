"""Cases as data: what is run, how, and on what size of picture; and the suites made of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from resharp.errors import OptionError
from resharp.types import Precision, Tile

BASELINES = ("upstream", "onnxruntime", "pytorch", "openvino", "ncnn")
"""Subjects that are not resharp's: what a user knows, to compare with.

``upstream``: PyTorch in the way of Real-ESRGAN's own script. ``onnxruntime`` and ``pytorch``: a
bare session, and a bare network.
"""
BACKENDS = ("tensorrt", "tensorrt_rtx", "torch", "torch-eager", "onnx", "onnx-cuda")
"""Subjects of resharp. ``torch`` is on CUDA with CUDA graphs, or on the CPU where there is no GPU;
``torch-eager`` is without graphs. ``onnx`` is on the CPU."""
SUBJECTS = (*BACKENDS, *BASELINES)
SUITES = resources.files("resharp.bench") / "suites"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Raises:
        OptionError: a value makes no sense.
    """

    model: str
    """A model's name, or that of one of the suite's stand-ins."""
    subject: str
    """One of :data:`SUBJECTS`."""
    height: int
    """Of the picture, in pixels."""
    width: int
    precision: Precision = "auto"
    """``auto`` or ``fp32``."""
    tile: Tile = "auto"
    """Largest side of a tile in pixels, ``auto`` or ``whole``. Baselines take whole pictures."""
    batch: int | None = None
    """Tiles of one run of the network; None: the backend's own choice."""
    lanes: int = 1
    """Pictures in work at once. One: the time of a call. More: of a picture in a stream."""
    threads: int | None = None
    """CPU threads; None: the library's own choice."""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise OptionError(f"{self.subject!r} is not one of {', '.join(SUBJECTS)}")
        if not isinstance(self.model, str):
            raise OptionError(f"model must be a name, got {self.model!r}")
        if self.precision not in ("auto", "fp32"):
            raise OptionError(f"precision must be auto or fp32, got {self.precision!r}")
        if self.tile not in ("auto", "whole") and not _is_count(self.tile):
            raise OptionError(f"tile must be a number of pixels, auto or whole, got {self.tile!r}")
        _check_counts(self, "height", "width", "lanes")
        _check_counts(self, *(n for n in ("batch", "threads") if getattr(self, n) is not None))

    @property
    def is_baseline(self) -> bool:
        """Whether it is something else than resharp."""
        return self.subject in BASELINES

    @property
    def id(self) -> str:
        """The case as one word, the same in every run."""
        parts = [self.model, self.subject, f"{self.width}x{self.height}"]
        if not self.is_baseline:
            parts.append(f"tile-{self.tile}")
        if self.precision != "auto":
            parts.append(self.precision)
        for name in ("batch", "threads"):
            if getattr(self, name) is not None:
                parts.append(f"{name}-{getattr(self, name)}")
        if self.lanes != 1:
            parts.append(f"lanes-{self.lanes}")
        return "/".join(parts)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to measure.

    Raises:
        OptionError: a value makes no sense.
    """

    pairs: int
    """Pairs of a case and its baseline that nobody disturbed, at least."""
    most_pairs: int
    """And at most."""
    seconds: float
    """That the pairs of a case should take."""
    limit: float
    """That they take at most, also where the machine is busy."""
    sittings: int = 1
    """Processes that a case is measured in, one after another: what the memory and the threads of
    a process happen to be makes a difference of its own. They share the rest of the budget."""

    def __post_init__(self) -> None:
        _check_counts(self, "pairs", "most_pairs", "sittings")
        for name in ("seconds", "limit"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise OptionError(f"{name} must be a number, not negative, got {value!r}")
        if self.most_pairs < self.pairs:
            raise OptionError(f"most_pairs ({self.most_pairs}) is less than pairs ({self.pairs})")

    def per_repeat(self) -> Budget:
        """The budget for one of the processes."""
        return Budget(
            pairs=-(-self.pairs // self.sittings),
            most_pairs=-(-self.most_pairs // self.sittings),
            seconds=self.seconds / self.sittings,
            limit=self.limit / self.sittings,
        )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A list of cases and the budget for each."""

    name: str
    cases: tuple[Case, ...]
    budget: Budget
    stand_ins: Mapping[str, Mapping[str, Any]]
    """Networks with random weights, for where the official ones cannot be had: by name, the
    architecture and its parameters."""


def names() -> tuple[str, ...]:
    """Names of the suites that come with resharp."""
    return tuple(sorted(file.name.removesuffix(".json") for file in SUITES.iterdir()))


def load(name: str) -> Suite:
    """Read a suite: one that comes with resharp, or a file ending in ``.json``, named by its stem.

    Raises:
        OptionError: there is none of that name, or the file cannot be read or holds no suite.
    """
    if not name.endswith(".json"):
        if name not in names():
            raise OptionError(
                f"no suite {name!r}: there are {', '.join(names())}, or give a file that ends in "
                ".json"
            )
        return parse(name, json.loads((SUITES / f"{name}.json").read_text("utf-8")))
    path = Path(name)
    try:
        return parse(path.stem, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OptionError(f"suite {path} cannot be read: {error.strerror or error}") from error
    except (OptionError, UnicodeError, json.JSONDecodeError) as error:
        raise OptionError(f"{path} is not a suite: {error}") from error


def parse(name: str, data: Mapping[str, Any]) -> Suite:
    """A suite from its data.

    Each item of ``data["cases"]`` is a product: a value is one value or a list of them; ``size`` is
    ``[height, width]`` or a list of such.

    Raises:
        OptionError: it is not laid out like that, or a value makes no sense.
    """
    if not isinstance(data, Mapping):
        raise OptionError("it is not an object of cases, effort and stand_ins")
    found: dict[Case, None] = {}
    try:
        for item in data["cases"]:
            found.update(dict.fromkeys(_product(item)))
        budget = Budget(**data["effort"])
        stand_ins = {key: {**one} for key, one in data.get("stand_ins", {}).items()}
    except KeyError as error:
        raise OptionError(f"{error} is missing") from error
    except OptionError:
        raise
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise OptionError(str(error)) from error
    if not found:
        raise OptionError("it has no cases")
    return Suite(name=name, cases=tuple(found), budget=budget, stand_ins=stand_ins)


def choose(
    suite: Suite, models: Sequence[str] = (), subjects: Sequence[str] = ()
) -> tuple[Case, ...]:
    """The cases of a suite for some models and subjects; none given: all.

    A model that the suite does not have takes the cases of the suite's first one. Baselines stay.

    Raises:
        OptionError: there is no such subject in it.
    """
    known = {case.subject for case in suite.cases}
    for subject in subjects:
        if subject not in known:
            raise OptionError(
                f"{subject!r} is not in the suite {suite.name}: {', '.join(sorted(known))}"
            )
    cases = list(suite.cases)
    if models:
        first = suite.cases[0].model
        had = {case.model for case in suite.cases}
        cases = []
        for model in dict.fromkeys(models):
            source = model if model in had else first
            cases += [replace(case, model=model) for case in suite.cases if case.model == source]
    if subjects:
        cases = [case for case in cases if case.subject in subjects or case.is_baseline]
    return tuple(cases)


def _product(item: Mapping[str, Any]) -> list[Case]:
    axes = {key: value if isinstance(value, list) else [value] for key, value in item.items()}
    size = axes.pop("size")
    sizes = size if size and isinstance(size[0], list) else [size]
    if any(not isinstance(one, list) or len(one) != 2 for one in sizes):
        raise OptionError(f"size must be [height, width] or a list of such, got {item['size']!r}")
    return [
        Case(height=height, width=width, **dict(zip(axes, values, strict=True)))
        for height, width in sizes
        for values in itertools.product(*axes.values())
    ]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_counts(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not _is_count(value):
            raise OptionError(f"{name} must be at least 1, got {value!r}")
