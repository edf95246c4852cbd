"""Restoration settings, the restorer that applies them, and a pool of restorers over devices.

A config can be sent to another machine; folders and video are restored from one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict, get_args

from resharp.checks import check_choice, check_int, check_number, check_text, check_tta, shown
from resharp.engines import Manifest
from resharp.errors import OptionError
from resharp.fsutil import sha256_of
from resharp.gpu.devices import gpus, usable_threads
from resharp.pipeline.ensemble import Ensemble
from resharp.pipeline.settings import Settings
from resharp.runtime.bundle_lookup import resolve, resolve_upscaler
from resharp.runtime.fallback import candidates
from resharp.runtime.tiling.bands import check_tile
from resharp.runtime.upscaler import Upscaler, check_scale
from resharp.types import BackendName, Image, Precision, Progress, Tile, Tta

if TYPE_CHECKING:
    from resharp.faces import BundleNetwork, FaceOptions, FaceRestorer


MOST_WORKERS = 256
"""Most images in flight on a device; each takes a thread and memory."""
FEW_CORES = 4
"""Up to this many cores, each core restores an image of its own: measured 1.1 times as fast as all
cores on one image (SRVGGNetCompact, two cores). Beyond that, memory would grow with every core."""


@dataclass(frozen=True, kw_only=True)
class RestoreConfig(Settings):
    """How to restore images: the settings of the upscaler, test-time augmentation and faces.

    Raises:
        OptionError: an option is invalid; nothing has been opened then.
    """

    tta: Tta = 1
    """Flips and rotations to average over: 1, 2, 4 or 8. N of them take N times as long."""
    face: str | None = None
    """Name of a face network; None leaves faces to the upscaler."""
    fidelity: float | None = None
    """CodeFormer only: 0 is the best-looking face, 1 the closest to the input; None is 0.5."""
    face_weight: float | None = None
    """Fraction of the restored face in the result, 0..1; None is 1."""
    only_center: bool = False
    """Restore only the face nearest to the center of the image."""
    aligned: bool = False
    """Images are aligned 512x512 faces: nothing is detected, upscaled or pasted."""
    weights_dir: str | None = None
    """Folder of checkpoints, for the face detector; None is the default."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_tile(self.tile)
        check_number("memory_fraction", self.memory_fraction, 0, 1, above=True)
        check_tta(self.tta)
        check_choice("precision", self.precision, get_args(Precision))
        if self.threads is not None:
            check_int("threads", self.threads)
        if self.denoise is not None:
            check_number("denoise", self.denoise, 0, 1)
        if self.face is not None:
            check_text("face", self.face)
        for device in ["cuda"] if self.device == "cuda:all" else _named(self.device):
            candidates(self.backend, device)  # refuses what does not exist
        if self.face is not None:
            _ = self.faces  # refuses invalid values
        else:
            for name in ("fidelity", "face_weight", "only_center", "aligned", "weights_dir"):
                if getattr(self, name) not in (None, False):
                    raise OptionError(f"`{name}` requires a face network, e.g. `face`=gfpgan-v1.4")
        if self.aligned and self.scale is not None:
            raise OptionError("`aligned` faces stay 512x512: leave out `scale`")
        if self.aligned and self.tta != 1:
            raise OptionError("`aligned` faces are not upscaled: leave out `tta`")

    @property
    def faces(self) -> FaceOptions:
        """The options of the face restorer."""
        from resharp.faces import FaceOptions

        return FaceOptions(
            fidelity=0.5 if self.fidelity is None else self.fidelity,
            weight=1.0 if self.face_weight is None else self.face_weight,
            only_center=self.only_center,
            aligned=self.aligned,
        )

    def on(self, **settings: Any) -> RestoreConfig:
        """Return a copy with other settings, e.g. another device."""
        return replace(self, **settings)

    def open(self) -> Restorer:
        """Open a restorer with this config; the caller closes it."""
        return Restorer(self)

    def key(self) -> str:
        """Return :attr:`RestorerInfo.key` from the manifests alone, without opening a model.

        Raises:
            ResharpError: a model cannot be found.
        """
        found = []
        if not self.aligned:
            found.append(
                resolve_upscaler(self.model, store=self.store, denoise=self.denoise).manifest
            )
        if self.face is not None:
            found.append(resolve(self.face, store=self.store).manifest)
        return self.key_of(found)

    def key_of(self, manifests: Sequence[Manifest]) -> str:
        """Hash everything that decides the pixels of a result made with these models."""
        own = 1.0 if self.aligned else float(manifests[0].scale)
        parts: dict[str, Any] = {
            "models": [
                {"name": m.name, "graph": m.graphs["uint8"].sha256, "weights": m.weights.sha256}
                for m in manifests
            ],
            "scale": float(self.scale or own),
            "denoise": self.denoise,
            "precision": self.precision,
            "views": int(self.tta),
            "faces": None if self.face is None else asdict(self.faces),
        }
        text = json.dumps(parts, sort_keys=True, default=float)  # numpy numbers
        return sha256_of(text.encode())


@dataclass(frozen=True, kw_only=True)
class ModelUse:
    """A model in use, with its backend and device."""

    model: str
    backend: str
    device: str
    """Several devices are joined by commas."""

    def __str__(self) -> str:
        return f"{self.model}, {self.backend} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class RestorerInfo:
    """Facts about an open restorer, on this machine or another."""

    scale: float
    """Output size over input size."""
    key: str
    """Hash of everything that decides the pixels of a result, except the device and the tile."""
    tile: int | None
    """Largest side of a tile that the next image would use; None if nothing is tiled."""
    upscaler: ModelUse | None
    face: ModelUse | None

    @property
    def device_label(self) -> str:
        """Where it runs, e.g. ``onnx on cpu``, which may change a pixel by a level."""
        used = self._used[0]
        return f"{used.backend} on {used.device.partition(':')[0]}"

    @property
    def description(self) -> str:
        """Models, backends and devices in words."""
        return ", ".join(f"{one.model} with {one.backend} on {one.device}" for one in self._used)

    @property
    def _used(self) -> list[ModelUse]:
        return [one for one in (self.upscaler, self.face) if one is not None]


class Restorer(AbstractContextManager["Restorer"]):
    """An opened config: an upscaler, a face restorer, or a face restorer over an upscaler.

    Safe to call from several threads at once. A context manager.

    Raises:
        ResharpError: as for :class:`~resharp.Upscaler` and :class:`~resharp.FaceRestorer`.
    """

    def __init__(self, config: RestoreConfig) -> None:
        self.config = config
        self.upscaler: Upscaler | None = None
        """None if images are aligned faces."""
        self.network: BundleNetwork | None = None
        """None if faces are not restored."""
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
            raise OptionError(f"{name} has no `fidelity`: leave it out, or use `face`=codeformer")
        return opened

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one image.

        Args:
            image: as for an :class:`~resharp.Upscaler`.
            progress: called with (tiles done, tiles in all) from this thread; raising cancels.

        Raises:
            ResharpError: as for an :class:`~resharp.Upscaler`.
        """
        return self.with_count(image, progress=progress)[0]

    def with_count(
        self, image: Image, *, progress: Progress | None = None
    ) -> tuple[Image, int | None]:
        """Restore one image and count its restored faces; the count is None without faces."""
        if self._faces is not None:
            restored = self._faces.detailed(image, progress=progress)
            return restored.image, restored.count
        assert self._background is not None
        return self._background(image, progress=progress), None

    def batch(self, images: Sequence[Image]) -> list[Image]:
        """Restore images of one shape and dtype, in one run of the network where that is faster."""
        if len(images) > 1 and self.upscaler is not None and self._plain:
            return self.upscaler.batch(images, len(images))
        return [self(image) for image in images]

    def batch_for(self, height: int, width: int) -> int:
        """Return how many images of that size :meth:`batch` needs to fill the device."""
        if self.upscaler is None or not self._plain:
            return 1
        return self.upscaler.batch_for(height, width)

    @property
    def _plain(self) -> bool:
        """Whether it is only an upscaler, without faces and test-time augmentation."""
        return self._faces is None and self._background is self.upscaler

    @property
    def threads(self) -> int:
        """Number of concurrent calls that keep the device busy."""
        return 1 if self.upscaler is None else self.upscaler.workers

    @property
    def info(self) -> RestorerInfo:
        """Current facts about the restorer."""
        used = (self.upscaler, self.network)
        return RestorerInfo(
            scale=1.0 if self.upscaler is None else self.upscaler.scale,
            key=self.config.key_of([one.manifest for one in used if one is not None]),
            tile=None if self.upscaler is None else self.upscaler.tile,
            upscaler=_use(self.upscaler),
            face=_use(self.network),
        )

    def pin_tile(self, tile: int | None) -> None:
        """Use tiles of that size from now on, as :meth:`Upscaler.pin_tile` does."""
        if self.upscaler is not None and tile is not None:
            self.upscaler.pin_tile(tile)

    def close(self) -> None:
        """Release every resource; closing twice does nothing."""
        self._stack.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def _use(one: Upscaler | BundleNetwork | None) -> ModelUse | None:
    if one is None:
        return None
    return ModelUse(model=one.manifest.name, backend=one.backend, device=one.device)


class RestorerPool(AbstractContextManager["RestorerPool"]):
    """Restorers of one config on one device or several. A context manager.

    Args:
        config: how to restore; ``device`` may name several GPUs: ``cuda:0,1`` or ``cuda:all``.
        workers: images in flight at once on each device; None: on a GPU as many as keep it busy,
            on the CPU one per core, up to 4.
        on_cpu: the default of ``workers`` on the CPU.
        most: upper bound on the images in flight; None for no limit.

    Raises:
        OptionError: a number or the device is invalid.
        ResharpError: as for :class:`Restorer`.
    """

    def __init__(
        self,
        config: RestoreConfig,
        *,
        workers: int | None = None,
        on_cpu: int | None = None,
        most: int | None = None,
    ) -> None:
        if workers is not None:
            workers = check_int("workers", workers, 1, MOST_WORKERS)
        self._most, self._each = most, workers
        devices = devices_of(config.device)
        with ExitStack() as stack:
            if len(devices) > 1:
                own = [config.on(device=device) for device in devices]
                self.workers = [stack.enter_context(one.open()) for one in own]
            else:
                self.workers = self._open(config, on_cpu, stack)
            self._stack = stack.pop_all()

    def _open(self, config: RestoreConfig, on_cpu: int | None, stack: ExitStack) -> list[Restorer]:
        """Open one restorer on the config's device, or several that share the cores of a CPU."""
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
        """One of them; all are alike except for the device."""
        return self.workers[0]

    @property
    def slots(self) -> list[Restorer]:
        """A restorer per image in flight; one may appear twice."""
        rounds = [
            [one] * (one.threads if self._each is None else self._each) for one in self.workers
        ]
        longest = max(map(len, rounds))
        return [one[i] for i in range(longest) for one in rounds if i < len(one)][: self._most]

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class RestoreOptions(TypedDict, total=False):
    """The fields of :class:`RestoreConfig`, as keyword arguments of functions."""

    model: str
    backend: BackendName
    device: str
    tile: Tile
    scale: float | None
    denoise: float | None
    memory_fraction: float
    threads: int | None
    store: str | os.PathLike[str] | None
    precision: Precision
    tta: Tta
    face: str | None
    fidelity: float | None
    face_weight: float | None
    only_center: bool
    aligned: bool
    weights_dir: str | os.PathLike[str] | None


def config_from(config: RestoreConfig | None, options: RestoreOptions) -> RestoreConfig:
    """Return the config that was passed, or the one that options describe.

    Raises:
        OptionError: both were passed, or an option is invalid.
    """
    unknown = sorted(set(options) - RestoreOptions.__annotations__.keys())
    if unknown:
        raise TypeError(
            f"there is no option {shown(unknown[0])}; see resharp.RestoreConfig for all"
        )
    if config is None:
        values: dict[str, Any] = dict(options)
        paths = {name: os.fspath(one) for name, one in values.items() if hasattr(one, "__fspath__")}
        return RestoreConfig(**{**values, **paths})
    if options:
        raise OptionError(f"pass either `config` or {', '.join(options)}, not both")
    return config


def devices_of(device: str) -> list[str]:
    """Return the devices that a choice names: ``cuda:0,1`` is ``cuda:0`` and ``cuda:1``.

    Raises:
        OptionError: a GPU is named twice, or ``cuda:all`` and there is none.
    """
    found = _named(device)
    if found == ["cuda:all"]:
        found = [f"cuda:{gpu.index}" for gpu in gpus()]
    if not found or len(set(found)) != len(found):
        raise OptionError(f"`device` must name GPUs, each once, e.g. cuda:0,1, got {shown(device)}")
    return found


def _named(device: str) -> list[str]:
    """Split ``cuda:0,1`` into its devices; every other choice stays as it is."""
    kind, _, numbers = str(device).partition(":")
    if kind != "cuda" or "," not in numbers:
        return [device]
    return [f"{kind}:{number.strip()}" for number in numbers.split(",")]
