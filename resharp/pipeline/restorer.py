"""What is to become of images, as data; what does it; and several of these on several devices.

Folders and video are restored by them, here or on another machine: a config can be sent there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from resharp.engines import Manifest
from resharp.errors import OptionError
from resharp.fsutil import sha256_of
from resharp.gpu.devices import usable_threads
from resharp.pipeline.ensemble import Ensemble
from resharp.pipeline.settings import Settings
from resharp.runtime.bundle_lookup import resolve
from resharp.runtime.upscaler import Upscaler
from resharp.types import Image, Progress

if TYPE_CHECKING:
    from resharp.faces import BundleNetwork, FaceOptions, FaceRestorer


FEW_CORES = 4
"""Up to so many, each core restores a picture of its own: measured 1.1 times as fast as all cores
on one picture (SRVGGNetCompact, two cores); beyond, memory would grow with every core."""


@dataclass(frozen=True, kw_only=True)
class RestoreConfig(Settings):
    """What is to become of images: the settings of the upscaler, and those of views and faces.

    Raises:
        OptionError: it makes no sense, seen before anything is opened.
    """

    tta: int = 1
    """Flips and turns of each picture to take the mean over: 1, 2, 4 or 8."""
    face: str | None = None
    """Face network, by name; None leaves faces to the upscaler."""
    fidelity: float | None = None
    """See :class:`FaceOptions`; so too the next three. None is its default."""
    face_weight: float | None = None
    only_center: bool = False
    aligned: bool = False
    weights_dir: str | None = None
    """Folder of weights, where the face detector is; None takes the default."""

    def __post_init__(self) -> None:
        if self.face is not None:
            _ = self.faces  # refuses values that make no sense
        else:
            for name in ("fidelity", "face_weight", "only_center", "aligned", "weights_dir"):
                if getattr(self, name) not in (None, False):
                    option = name.replace("_", "-")
                    raise OptionError(f"--{option} is about faces: give --face gfpgan-1.4, say")
        if self.aligned and self.scale is not None:
            raise OptionError("--aligned gives 512x512 faces: leave --scale out")
        if self.aligned and self.tta != 1:
            raise OptionError("--aligned upscales nothing: leave --tta out")

    @property
    def faces(self) -> FaceOptions:
        """As the restorer of faces takes them."""
        from resharp.faces import FaceOptions

        return FaceOptions(
            fidelity=0.5 if self.fidelity is None else self.fidelity,
            weight=1.0 if self.face_weight is None else self.face_weight,
            only_center=self.only_center,
            aligned=self.aligned,
        )

    def on(self, **settings: Any) -> RestoreConfig:
        """The same with other settings: another device or fewer threads, say."""
        return replace(self, **settings)

    def open(self) -> Restorer:
        """What does it, ready to run; the caller closes it."""
        return Restorer(self)

    def key(self) -> str:
        """As :attr:`RestorerInfo.key`, from the manifests alone: nothing is opened.

        Raises:
            ResharpError: a model cannot be found.
        """
        found = []
        if not self.aligned:
            found.append(resolve(self.model, store=self.store, denoise=self.denoise).manifest)
        if self.face is not None:
            found.append(resolve(self.face, store=self.store).manifest)
        return self.key_of(found)

    def key_of(self, manifests: Sequence[Manifest]) -> str:
        """Hash of all that decides the pixels of a result, with the models of these manifests."""
        own = 1.0 if self.aligned else float(manifests[0].scale)
        parts: dict[str, Any] = {
            "models": [
                {"name": m.name, "graph": m.graphs["uint8"].sha256, "weights": m.weights.sha256}
                for m in manifests
            ],
            "scale": float(self.scale or own),
            "denoise": self.denoise,
            "precision": self.precision,
            "views": self.tta,
            "faces": None if self.face is None else asdict(self.faces),
        }
        text = json.dumps(parts, sort_keys=True)
        return sha256_of(text.encode())


@dataclass(frozen=True, kw_only=True)
class ModelUse:
    """A network at work."""

    model: str
    backend: str
    device: str
    """Several are joined by commas."""

    def __str__(self) -> str:
        return f"{self.model}, {self.backend} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class RestorerInfo:
    """What is known of a restorer, here or elsewhere."""

    scale: float
    """Output size over input size."""
    key: str
    """Hash of all that decides the pixels of a result, the device and the tile aside."""
    tile: int | None
    """Largest side of a tile that it would use now; None where nothing is tiled."""
    upscaler: ModelUse | None
    face: ModelUse | None

    @property
    def device_label(self) -> str:
        """Where it runs, as in ``onnx on cpu``: what may change a pixel by a level."""
        used = self._used[0]
        return f"{used.backend} on {used.device.partition(':')[0]}"

    @property
    def description(self) -> str:
        """Models, backends and devices, for people."""
        return ", ".join(f"{one.model} with {one.backend} on {one.device}" for one in self._used)

    @property
    def _used(self) -> list[ModelUse]:
        return [one for one in (self.upscaler, self.face) if one is not None]


class Restorer(AbstractContextManager["Restorer"]):
    """A config, opened: an upscaler, a restorer of faces, or one over the other.

    Safe to call from several threads at once. A context manager.

    Raises:
        ResharpError: as :class:`~resharp.Upscaler` and :class:`~resharp.FaceRestorer`.
    """

    def __init__(self, config: RestoreConfig) -> None:
        self.config = config
        self.upscaler: Upscaler | None = None
        """None where pictures are aligned faces."""
        self.network: BundleNetwork | None = None
        """None where no faces are restored."""
        self._background: Upscaler | Ensemble | None = None
        self._faces: FaceRestorer | None = None
        with ExitStack() as stack:
            if not config.aligned:
                own = {one.name: getattr(config, one.name) for one in fields(Settings)}
                upscaler = stack.enter_context(Upscaler(**own))
                self.upscaler = self._background = upscaler
                if config.tta > 1:
                    self._background = Ensemble([upscaler], tta=config.tta)
            if config.face is not None:
                self._faces = stack.enter_context(self._open_faces(config.face))
            self._stack = stack.pop_all()

    def _open_faces(self, face: str) -> FaceRestorer:
        from resharp.faces import BundleNetwork, FaceRestorer

        config = self.config
        shared = ("weights_dir", "backend", "device", "store", "threads", "precision")
        opened = FaceRestorer(
            face,
            upscaler=self._background,
            **{name: getattr(config, name) for name in shared},
            **asdict(config.faces),
        )
        assert isinstance(opened.network, BundleNetwork)
        self.network = opened.network
        if config.fidelity is not None and not self.network.has_fidelity:
            opened.close()
            name = self.network.manifest.name
            raise OptionError(f"{name} has no --fidelity: leave it out, or take --face codeformer")
        return opened

    def __call__(self, image: Image, progress: Progress | None = None) -> tuple[Image, int | None]:
        """The restored picture, and how many faces of it were restored; None without faces.

        Args:
            image: as an :class:`~resharp.Upscaler` takes.
            progress: called as (tiles done, tiles in all) from this thread; raising cancels.

        Raises:
            ResharpError: see :class:`~resharp.Upscaler`.
        """
        if self._faces is not None:
            restored = self._faces.restore(image, progress=progress)
            return restored.image, restored.count
        assert self._background is not None
        return self._background(image, progress=progress), None

    def many(self, images: Sequence[Image]) -> list[Image]:
        """Restore pictures of one shape and dtype, in one run of the network where that pays."""
        if len(images) > 1 and self.upscaler is not None and self._plain:
            return self.upscaler.restore_many(images, len(images))
        return [self(image)[0] for image in images]

    def batch(self, height: int, width: int) -> int:
        """Pictures of that size that :meth:`many` should be given to fill the device."""
        if self.upscaler is None or not self._plain:
            return 1
        return self.upscaler.batch_for(height, width)

    @property
    def _plain(self) -> bool:
        """Whether an upscaler is all there is."""
        return self._faces is None and self._background is self.upscaler

    @property
    def threads(self) -> int:
        """Threads that may call it at once with profit."""
        return 1 if self.upscaler is None else self.upscaler.workers

    @property
    def info(self) -> RestorerInfo:
        """What it is, as things are now."""
        used = (self.upscaler, self.network)
        return RestorerInfo(
            scale=1.0 if self.upscaler is None else self.upscaler.scale,
            key=self.config.key_of([one.manifest for one in used if one is not None]),
            tile=None if self.upscaler is None else self.upscaler.tile,
            upscaler=_use(self.upscaler),
            face=_use(self.network),
        )

    def pin_tile(self, tile: int | None) -> None:
        """See :meth:`Upscaler.pin_tile`."""
        if self.upscaler is not None and tile is not None:
            self.upscaler.pin_tile(tile)

    def close(self) -> None:
        """Give every resource back; closing twice does nothing."""
        self._stack.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def _use(one: Upscaler | BundleNetwork | None) -> ModelUse | None:
    if one is None:
        return None
    return ModelUse(model=one.manifest.name, backend=one.backend, device=one.device)


class RestorerPool(AbstractContextManager["RestorerPool"]):
    """The restorers of one config on several devices. A context manager.

    Args:
        config: what they do.
        gpus: numbers of GPUs, one restorer each; empty leaves the device to the config.
        workers: pictures in work at once on each device; None: on a GPU what its backend keeps
            busy with, on the CPU a picture for each core, up to 4.
        on_cpu: the same for the CPU alone, where ``workers`` is None.
        most: pictures in work at once that make sense, if so few; None: any.

    Raises:
        OptionError: a number makes no sense.
        ResharpError: see :class:`Restorer`.
    """

    def __init__(
        self,
        config: RestoreConfig,
        *,
        gpus: Sequence[int] = (),
        workers: int | None = None,
        on_cpu: int | None = None,
        most: int | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise OptionError(f"workers is {workers!r}; it must be at least 1")
        if len(set(gpus)) != len(gpus) or any(gpu < 0 for gpu in gpus):
            raise OptionError(f"gpus are numbers, each once, not {list(gpus)}")
        if gpus and config.device != "auto":
            raise OptionError("give either the device or the GPUs")
        self._most, self._each = most, workers
        with ExitStack() as stack:
            if gpus:
                own = [config.on(device=f"cuda:{gpu}") for gpu in gpus]
                self.workers = [stack.enter_context(one.open()) for one in own]
            else:
                self.workers = self._open(config, on_cpu, stack)
            self._stack = stack.pop_all()

    def _open(self, config: RestoreConfig, on_cpu: int | None, stack: ExitStack) -> list[Restorer]:
        """One restorer where the config says, or several that share the cores of a CPU."""
        first = stack.enter_context(config.open())
        if not first.info.device_label.endswith("on cpu"):
            return [first]
        here, count = usable_threads(), on_cpu if self._each is None else self._each
        if count is None:
            count = max(here // config.threads, 1) if config.threads else min(here, FEW_CORES)
        count = min(count, self._most or count)
        self._each = 1
        if count == 1:
            return [first]
        threads = config.threads or max(here // count, 1)
        own = config.on(
            threads=threads, memory_fraction=config.memory_fraction / count, device="cpu"
        )
        first.close()
        if threads == 1:  # one copy of the weights serves all
            self._each, count = count, 1
        return [stack.enter_context(own.open()) for _ in range(count)]

    @property
    def first(self) -> Restorer:
        """One of them, to ask: all are alike but for the device."""
        return self.workers[0]

    @property
    def slots(self) -> list[Restorer]:
        """A restorer for each picture that is to be in work at once; one may be there twice."""
        rounds = [
            [one] * (one.threads if self._each is None else self._each) for one in self.workers
        ]
        longest = max(map(len, rounds))
        return [one[i] for i in range(longest) for one in rounds if i < len(one)][: self._most]

    def __exit__(self, *error: object) -> None:
        self._stack.close()
