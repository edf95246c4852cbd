"""Opens models at their first use and keeps the most recently used ones open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from resharp.checks import check_int, shown
from resharp.engines.model_info import ModelInfo
from resharp.errors import OptionError
from resharp.faces import FaceOptions, FaceRestorer
from resharp.pipeline.settings import Settings
from resharp.runtime.bundle_lookup import FACE_TASKS, model_info, resolve
from resharp.runtime.upscaler import Upscaler
from resharp.types import Image, Progress

KEPT = 2
_SETTINGS = frozenset(one.name for one in fields(Settings)) - {"model"}
_FACES = frozenset(one.name for one in fields(FaceOptions)) | {"background"}
_SHARED = ("backend", "device", "store", "threads", "precision")


@dataclass(eq=False)
class _Entry:
    """A restorer that is open or being opened, and the number of calls that use it."""

    key: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the restorer is being opened."""
    restorer: Upscaler | FaceRestorer | None = None
    """None until it is opened, and if that failed."""
    stack: ExitStack = field(default_factory=ExitStack)
    busy: int = 0


class Loader(AbstractContextManager["Loader"]):
    """Restores images with the model that each call names.

    A face network (e.g. ``codeformer``) restores the faces and leaves the rest to ``background``,
    the name of an upscaler, or as it is; every other model is an :class:`~resharp.Upscaler`.

    Args:
        settings: options of every model, and the model of calls that name none.
        keep: number of models that stay open, each with its memory; the least recently used one is
            closed first, and never during a call.

    Safe to call from several threads at once. A context manager.

    Raises:
        OptionError: ``keep`` is below 1.
    """

    def __init__(self, settings: Settings | None = None, *, keep: int = KEPT) -> None:
        check_int("keep", keep)
        self._settings, self._keep = settings or Settings(), keep
        self._open: OrderedDict[Any, _Entry] = OrderedDict()
        self._lock, self._closed = threading.Lock(), False

    def __call__(
        self,
        image: Image,
        model: str | None = None,
        *,
        progress: Progress | None = None,
        **options: Any,
    ) -> Image:
        """Restore one image.

        Args:
            image: as for an :class:`~resharp.Upscaler`.
            model: a name or the folder of a bundle; None is the model of the settings.
            progress: called with (tiles done, tiles in all) from this thread; raising cancels.
            options: options of this call, which override the settings: those of :class:`Settings`,
                and for a face network ``fidelity``, ``weight``, ``only_center``, ``aligned``,
                ``batch`` and ``background``.

        Raises:
            OptionError: the model has no such option, or its value is invalid.
            ResharpError: as for the model's own class.
        """
        with self._use(model, options) as restorer:
            return restorer(image, progress=progress)

    def batch(
        self,
        images: Iterable[Image],
        model: str | None = None,
        *,
        size: int = 4,
        progress: Progress | None = None,
        **options: Any,
    ) -> list[Image]:
        """Restore several images; an upscaler runs small ones of one size together.

        Args:
            images: as for a call.
            model: a name or the folder of a bundle; None is the model of the settings.
            size: most images per run of the network.
            progress: called with (images done, images in all) from this thread; raising cancels.
            options: as for a call.

        Raises:
            ResharpError: as for a call.
        """
        if isinstance(images, np.ndarray):
            raise OptionError("`images` must be a list of images, got one array")
        check_int("size", size)
        with self._use(model, options) as restorer:
            return restorer.batch(images, size, progress=progress)

    def stream(
        self, frames: Iterable[Image], model: str | None = None, *, ahead: int = 2, **options: Any
    ) -> Iterator[Image]:
        """Restore frames in order with one model, which stays open until the last one.

        Args:
            frames: images, read one by one, at most ``ahead`` before they are needed.
            model: a name or the folder of a bundle; None is the model of the settings.
            ahead: number of frames in flight or waiting.
            options: as for a call.

        Raises:
            ResharpError: as for a call.
        """
        check_int("ahead", ahead)
        return self._streamed(frames, model, ahead, options)

    def _streamed(
        self, frames: Iterable[Image], model: str | None, ahead: int, options: dict[str, Any]
    ) -> Iterator[Image]:
        with self._use(model, options) as restorer:
            yield from restorer.stream(frames, ahead=ahead)

    def info(self, model: str | None = None) -> ModelInfo:
        """Return facts about a model; see :func:`~resharp.model_info`."""
        return model_info(model or self._settings.model, store=self._settings.store)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the open models, the most recently used one last."""
        with self._lock:
            return tuple(key[0] for key in self._open)

    def close(self) -> None:
        """Close every model, busy ones after their call; closing twice does nothing."""
        with self._lock:
            self._closed, self._keep = True, 0
            gone = self._surplus()
        _close(gone)

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _use(self, model: str | None, options: dict[str, Any]) -> Iterator[Upscaler | FaceRestorer]:
        name = model or self._settings.model
        entry, gone = self._wanted(self._key(name, options))
        try:
            with entry.lock:  # other models stay usable meanwhile
                _close(gone)
                if entry.restorer is None:  # also if another thread failed to open it
                    with ExitStack() as stack:
                        entry.restorer = self._opened(name, options, stack)
                        entry.stack = stack.pop_all()
            yield entry.restorer
        finally:
            self._done(entry)

    def _wanted(self, key: Any) -> tuple[_Entry, list[_Entry]]:
        """Return the entry, counted as busy, and those to close in order to make room for it."""
        with self._lock:
            if self._closed:
                raise OptionError("this loader is closed: create another one")
            gone: list[_Entry] = []
            if key not in self._open:
                gone = self._surplus(1)
                self._open[key] = _Entry(key)
            self._open.move_to_end(key)
            self._open[key].busy += 1
            return self._open[key], gone

    def _done(self, entry: _Entry) -> None:
        with self._lock:
            entry.busy -= 1
            if entry.restorer is None and not entry.busy:
                self._open.pop(entry.key, None)
            gone = self._surplus()
        _close(gone)

    def _key(self, name: str, options: dict[str, Any]) -> Any:
        """Identify a restorer by its model and the options that differ from the settings."""
        own = {
            option: repr(value)
            for option, value in options.items()
            if option not in _SETTINGS or value != getattr(self._settings, option)
        }
        return (name, *sorted(own.items()))

    def _surplus(self, coming: int = 0) -> list[_Entry]:
        """Remove idle entries beyond the number to keep, counting ``coming`` new ones."""
        over = max(len(self._open) + coming - self._keep, 0)
        idle = [key for key, entry in self._open.items() if not entry.busy]
        return [self._open.pop(key) for key in idle[:over]]

    def _opened(
        self, name: str, options: dict[str, Any], stack: ExitStack
    ) -> Upscaler | FaceRestorer:
        own = {key: value for key, value in options.items() if key in _SETTINGS}
        settings = replace(self._settings, model=name, **own)
        bundle = resolve(name, store=settings.store, denoise=settings.denoise)
        faces = bundle.manifest.task in FACE_TASKS
        known = _SETTINGS | _FACES if faces else _SETTINGS
        unknown = sorted(set(options) - known)
        if unknown:
            raise OptionError(
                f"{bundle.manifest.name} has no option {shown(unknown[0])}; it has "
                f"{', '.join(sorted(known))}"
            )
        restorer = self._faces(settings, options, stack) if faces else settings.upscaler()
        stack.push(restorer)
        return restorer

    def _faces(self, settings: Settings, options: dict[str, Any], stack: ExitStack) -> FaceRestorer:
        chosen = {key: value for key, value in options.items() if key in _FACES}
        background, upscaler = chosen.pop("background", None), None
        if background is not None:
            upscaler = stack.enter_context(replace(settings, model=background).upscaler())
        return FaceRestorer(
            settings.model,
            upscaler=upscaler,
            scale=settings.scale if upscaler is None else None,
            **chosen,
            **{key: getattr(settings, key) for key in _SHARED},
        )


def _close(entries: Iterable[_Entry]) -> None:
    with ExitStack() as last:
        for entry in entries:
            last.callback(entry.stack.close)
