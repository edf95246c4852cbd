"""Cases as data: what is run, how, and on what size of picture; and the suites made of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from resharp.errors import OptionError

BASELINES = ("upstream", "onnxruntime", "pytorch", "openvino", "ncnn")
"""Subjects that are not resharp's: what a user knows, to compare with.

``upstream``: PyTorch in the way of Real-ESRGAN's own script. ``onnxruntime`` and ``pytorch``: a
bare session, and a bare network.
"""
BACKENDS = ("tensorrt", "tensorrt_rtx", "torch", "torch-eager", "onnx", "onnx-cuda")
"""Subjects of resharp. ``torch`` is on CUDA with CUDA graphs, or on the CPU where there is no GPU;
``torch-eager`` is without graphs. ``onnx`` is on the CPU."""
SUBJECTS = (*BACKENDS, *BASELINES)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure."""

    model: str
    """A model's name, or that of a stand-in (:data:`STAND_INS`)."""
    subject: str
    """One of :data:`SUBJECTS`."""
    height: int
    """Of the picture, in pixels."""
    width: int
    precision: str = "auto"
    """``auto`` or ``fp32``."""
    tile: int | str = "auto"
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
class Effort:
    """How long to measure."""

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
    a process happen to be makes a difference of its own. They share the rest of the effort."""

    def of_a_sitting(self) -> Effort:
        """The effort for one of the processes."""
        return Effort(
            pairs=-(-self.pairs // self.sittings),
            most_pairs=-(-self.most_pairs // self.sittings),
            seconds=self.seconds / self.sittings,
            limit=self.limit / self.sittings,
        )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A list of cases and the effort for each."""

    name: str
    cases: tuple[Case, ...]
    effort: Effort
    stand_ins: Mapping[str, Mapping[str, Any]]
    """Networks with random weights, for where the official ones cannot be had: by name, the
    architecture and its parameters."""


def names() -> tuple[str, ...]:
    """Names of the suites that come with resharp."""
    folder = resources.files("resharp.bench") / "suites"
    return tuple(
        sorted(p.name.removesuffix(".json") for p in folder.iterdir() if ".json" in p.name)
    )


def load(name: str) -> Suite:
    """Read one of the suites.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in names():
        raise OptionError(f"no suite {name!r}: there are {', '.join(names())}")
    text = (resources.files("resharp.bench") / "suites" / f"{name}.json").read_text("utf-8")
    return parse(name, json.loads(text))


def parse(name: str, data: Mapping[str, Any]) -> Suite:
    """A suite from its data.

    Each item of ``data["cases"]`` is a product: a value is one value or a list of them; ``size`` is
    ``[height, width]`` or a list of such.
    """
    found: dict[Case, None] = {}
    for item in data["cases"]:
        found.update(dict.fromkeys(_product(item)))
    return Suite(
        name=name,
        cases=tuple(found),
        effort=Effort(**data["effort"]),
        stand_ins=data.get("stand_ins", {}),
    )


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
            cases += [_renamed(case, model) for case in suite.cases if case.model == source]
    if subjects:
        cases = [case for case in cases if case.subject in subjects or case.is_baseline]
    return tuple(cases)


def _renamed(case: Case, model: str) -> Case:
    return replace(case, model=model)


def _product(item: Mapping[str, Any]) -> list[Case]:
    axes = {key: value if isinstance(value, list) else [value] for key, value in item.items()}
    size = axes.pop("size")
    sizes = size if isinstance(size[0], list) else [size]
    return [
        Case(height=height, width=width, **dict(zip(axes, values, strict=True)))
        for height, width in sizes
        for values in itertools.product(*axes.values())
    ]
