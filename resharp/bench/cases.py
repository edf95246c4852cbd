"""Benchmark cases (what is run, how, and on what image size) and the suites built from them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from resharp.checks import shown
from resharp.errors import OptionError
from resharp.reading import read_json
from resharp.types import Precision, Tile

BASELINES = ("upstream", "onnxruntime", "pytorch", "openvino", "ncnn")
"""Subjects outside resharp, to compare with.

``upstream`` is PyTorch as in Real-ESRGAN's own script. ``onnxruntime`` is a bare session and
``pytorch`` a bare network.
"""
BACKENDS = ("tensorrt", "tensorrt_rtx", "torch", "torch-eager", "onnx", "onnx-cuda")
"""Subjects of resharp. ``torch`` runs on CUDA with CUDA graphs, or on the CPU if there is no GPU;
``torch-eager`` runs without graphs. ``onnx`` runs on the CPU."""
SUBJECTS = (*BACKENDS, *BASELINES)
SUITES = resources.files("resharp.bench") / "suites"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration to measure.

    Raises:
        OptionError: a value is invalid.
    """

    model: str
    """Name of a model or of one of the suite's stand-ins."""
    subject: str
    """Implementation under test, one of :data:`SUBJECTS`."""
    height: int
    """Image height in pixels."""
    width: int
    """Image width in pixels."""
    precision: Precision = "auto"
    """``auto`` or ``fp32``."""
    tile: Tile = "auto"
    """Largest side of a tile in pixels, ``auto`` or ``whole``. Baselines run whole images."""
    batch: int | None = None
    """Tiles per run of the network; None: the backend's default."""
    lanes: int = 1
    """Images processed at once. With 1, single calls are timed; with more, a stream of images."""
    threads: int | None = None
    """CPU threads; None: the library's default."""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise OptionError(
                f"subject must be one of {', '.join(SUBJECTS)}, got {shown(self.subject)}"
            )
        if not isinstance(self.model, str):
            raise OptionError(f"model must be a name, got {shown(self.model)}")
        if self.precision not in ("auto", "fp32"):
            raise OptionError(f"precision must be auto or fp32, got {shown(self.precision)}")
        if self.tile not in ("auto", "whole") and not _is_count(self.tile):
            raise OptionError(
                f"tile must be a size in pixels, auto or whole, got {shown(self.tile)}"
            )
        _check_counts(self, "height", "width", "lanes")
        _check_counts(self, *(n for n in ("batch", "threads") if getattr(self, n) is not None))

    @property
    def is_baseline(self) -> bool:
        """Whether the subject is something other than resharp."""
        return self.subject in BASELINES

    @property
    def id(self) -> str:
        """Identifier of the case, the same in every run: ``resharp-x4/onnx/640x360/tile-auto``."""
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
    """Time and number of measurements for a case.

    Raises:
        OptionError: a value is invalid.
    """

    pairs: int
    """Minimum number of undisturbed pairs of a case and its baseline."""
    most_pairs: int
    """Maximum number of undisturbed pairs."""
    seconds: float
    """Target time for all pairs of a case, in seconds."""
    limit: float
    """Maximum time for all pairs of a case, in seconds, even on a busy machine."""
    sittings: int = 1
    """Number of processes a case is measured in, one after another, because the memory layout and
    threads of a process affect its speed. They share the rest of the budget."""

    def __post_init__(self) -> None:
        _check_counts(self, "pairs", "most_pairs", "sittings")
        for name in ("seconds", "limit"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise OptionError(f"{name} must be a non-negative number, got {shown(value)}")
        if self.most_pairs < self.pairs:
            raise OptionError(
                f"most_pairs must be at least pairs ({self.pairs}), got {self.most_pairs}"
            )

    def per_repeat(self) -> Budget:
        """Return the budget for one of the processes."""
        return Budget(
            pairs=-(-self.pairs // self.sittings),
            most_pairs=-(-self.most_pairs // self.sittings),
            seconds=self.seconds / self.sittings,
            limit=self.limit / self.sittings,
        )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A list of cases and the budget for each of them."""

    name: str
    cases: tuple[Case, ...]
    budget: Budget
    stand_ins: Mapping[str, Mapping[str, Any]]
    """Networks with random weights that replace official ones which are not available: the
    architecture and its parameters, by name."""


def names() -> tuple[str, ...]:
    """Return the names of the built-in suites."""
    return tuple(sorted(file.name.removesuffix(".json") for file in SUITES.iterdir()))


def load(name: str) -> Suite:
    """Load a built-in suite by name, or a suite from a ``.json`` file, named after its stem.

    Raises:
        OptionError: no built-in suite has that name, or the file cannot be read or is invalid.
    """
    if not name.endswith(".json"):
        if name not in names():
            raise OptionError(
                f"unknown suite {shown(name)}: choose one of {', '.join(names())}, or pass a file "
                "ending in .json"
            )
        return parse(name, json.loads((SUITES / f"{name}.json").read_text("utf-8")))
    path = Path(name)
    try:
        return parse(path.stem, read_json(path))
    except OSError as error:
        raise OptionError(f"cannot read suite {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise OptionError(f"{path} is not a valid suite: {error}") from error


def parse(name: str, data: Mapping[str, Any]) -> Suite:
    """Parse a suite from its JSON data.

    Each item of ``data["cases"]`` expands to the product of its values: each is a single value or a
    list of values; ``size`` is ``[height, width]`` or a list of such pairs.

    Raises:
        OptionError: the layout or a value is invalid.
    """
    if not isinstance(data, Mapping):
        raise OptionError("must be an object with cases, effort and stand_ins")
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
        raise OptionError("cases must not be empty")
    return Suite(name=name, cases=tuple(found), budget=budget, stand_ins=stand_ins)


def choose(
    suite: Suite, models: Sequence[str] = (), subjects: Sequence[str] = ()
) -> tuple[Case, ...]:
    """Select the cases of a suite by models and subjects; an empty sequence selects all.

    A model that is not in the suite gets the cases of the suite's first model. Baselines are kept.

    Raises:
        OptionError: a subject is not in the suite.
    """
    known = {case.subject for case in suite.cases}
    for subject in subjects:
        if subject not in known:
            raise OptionError(
                f"{subject!r} is not in suite {suite.name!r}; available: {', '.join(sorted(known))}"
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
        raise OptionError(
            f"size must be [height, width] or a list of these, got {shown(item['size'])}"
        )
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
            raise OptionError(f"{name} must be at least 1, got {shown(value)}")
