"""What ``resharp upscale`` runs: an upscaler, a restorer of faces, or one over the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resharp.errors import OptionError
from resharp.runtime import Upscaler
from resharp.runtime.ensemble import Ensemble
from resharp.runtime.faces import BundleNetwork, FaceOptions, FaceRestorer


@dataclass(frozen=True, kw_only=True)
class Faces:
    """What was typed about faces.

    Raises:
        OptionError: it makes no sense, seen before any picture is read.
    """

    model: str | None
    fidelity: float | None
    weight: float | None
    only_center: bool
    aligned: bool
    weights: Path | None

    def __post_init__(self) -> None:
        if self.model is not None:
            _ = self.options  # refuses values that make no sense
            return
        for name in ("fidelity", "weight", "only_center", "aligned", "weights"):
            if getattr(self, name) not in (None, False):
                option = {"weight": "face-weight"}.get(name, name.replace("_", "-"))
                raise OptionError(f"--{option} is about faces: give --face gfpgan-1.4, say")

    @property
    def options(self) -> FaceOptions:
        """As the runtime takes them."""
        return FaceOptions(
            fidelity=0.5 if self.fidelity is None else self.fidelity,
            weight=1.0 if self.weight is None else self.weight,
            only_center=self.only_center,
            aligned=self.aligned,
        )


class Opened:
    """The upscaler and the restorer of faces, made for the first picture that needs them."""

    def __init__(
        self, stack: ExitStack, options: dict[str, Any], faces: Faces, views: int = 1
    ) -> None:
        self._stack, self._options, self._faces = stack, options, faces
        self._views = views
        self.upscaler: Upscaler | None = None
        self._background: Upscaler | Ensemble | None = None
        self.network: BundleNetwork | None = None
        self._restorer: FaceRestorer | None = None

    def open(self) -> None:
        """Make what is not there yet."""
        if self._restorer is not None or self.upscaler is not None:
            return
        if not self._faces.aligned:
            self.upscaler = self._open_upscaler()
            self._background = self.upscaler
            if self._views > 1:
                self._background = Ensemble([self.upscaler], views=self._views)
        if self._faces.model is not None:
            self._restorer = self._open_restorer(self._faces.model)

    def __call__(
        self, image: NDArray[Any], progress: Callable[[int, int], None]
    ) -> tuple[NDArray[Any], int | None]:
        """The restored picture, and how many faces of it were restored."""
        self.open()
        if self._restorer is not None:
            restored = self._restorer.restore(image, progress=progress)
            return restored.image, restored.count
        assert self._background is not None
        return self._background(image, progress=progress), None

    def _open_upscaler(self) -> Upscaler:
        return self._stack.enter_context(Upscaler(**self._options))

    def _open_restorer(self, model: str) -> FaceRestorer:
        restorer = self._stack.enter_context(
            FaceRestorer(
                model,
                upscaler=self._background,
                weights=self._faces.weights,
                **asdict(self._faces.options),
                **{key: self._options[key] for key in ("backend", "device", "engines", "threads")},
            )
        )
        assert isinstance(restorer.network, BundleNetwork)
        self.network = restorer.network
        if self._faces.fidelity is not None and not self.network.has_fidelity:
            name = self.network.manifest.name
            raise OptionError(f"{name} has no --fidelity: leave it out, or take --face codeformer")
        return restorer
