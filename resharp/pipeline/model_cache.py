"""Many models, one call each: opened at their first use and kept open while they are used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from resharp.engines.model_info import ModelInfo
from resharp.errors import OptionError
from resharp.faces import FaceOptions, FaceRestorer
from resharp.pipeline.settings import Settings
from resharp.runtime.bundle_lookup import FACE_TASKS, model_info, resolve
from resharp.runtime.upscaler import Upscaler
from resharp.types import Image

KEPT = 2
_SETTINGS = frozenset(one.name for one in fields(Settings)) - {"model"}
_FACES = frozenset(one.name for one in fields(FaceOptions)) | {"background"}
_SHARED = ("backend", "device", "store", "threads", "precision")


@dataclass(eq=False)
class _Entry:
    """A restorer that is open or being opened, and how many calls want it."""

    key: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is opened."""
    restorer: Upscaler | FaceRestorer | None = None
    """None until it is opened, and where that failed."""
    stack: ExitStack = field(default_factory=ExitStack)
    busy: int = 0


class Loader(AbstractContextManager["Loader"]):
    """Restores pictures by whichever model a call names.

    A face network (``codeformer``) restores the faces and leaves the rest to ``background``, an
    upscaler's name, or as it is; every other model is an :class:`~resharp.Upscaler`.

    Args:
        settings: options of every model, and the model of calls that name none.
        keep: models that stay open, each with its memory; the one whose last use is longest ago
            goes first, and never in the middle of a call.

    Safe to call from several threads at once. A context manager.

    Raises:
        OptionError: ``keep`` is below 1.
    """

    def __init__(self, settings: Settings | None = None, *, keep: int = KEPT) -> None:
        if type(keep) is not int or keep < 1:
            raise OptionError(f"keep is {keep!r}; it must be at least 1")
        self._settings, self._keep = settings or Settings(), keep
        self._open: OrderedDict[Any, _Entry] = OrderedDict()
        self._lock, self._closed = threading.Lock(), False

    def process_image(self, image: Image, model: str | None = None, **options: Any) -> Image:
        """Restore one picture.

        Args:
            image: as an :class:`~resharp.Upscaler` takes.
            model: a name, or the folder of a bundle; None is that of the settings.
            options: of this call, over the settings: those of :class:`Settings`, and for a face
                network ``fidelity``, ``weight``, ``only_center``, ``aligned``, ``batch``,
                ``background``.

        Raises:
            OptionError: there is no such option for this model, or it makes no sense.
            ResharpError: as the model's own class.
        """
        with self._use(model, options) as restorer:
            return restorer(image)

    def process_images(
        self,
        images: Iterable[Image],
        model: str | None = None,
        *,
        batch_size: int = 4,
        **options: Any,
    ) -> list[Image]:
        """Restore several; an upscaler runs small ones of one size together.

        Args:
            images: as for :meth:`process_image`.
            model: so too.
            batch_size: largest number of pictures of one run.
            options: as for :meth:`process_image`.

        Raises:
            ResharpError: as :meth:`process_image`.
        """
        if isinstance(images, np.ndarray):
            raise OptionError("images are a list of pictures, not one array")
        if type(batch_size) is not int or batch_size < 1:
            raise OptionError(f"batch_size is {batch_size!r}; it must be at least 1")
        with self._use(model, options) as restorer:
            if isinstance(restorer, Upscaler):
                return restorer.restore_many(images, batch_size=batch_size)
            return [restorer(image) for image in images]

    def info(self, model: str | None = None) -> ModelInfo:
        """What a model is and takes; see :func:`~resharp.model_info`."""
        return model_info(model or self._settings.model, store=self._settings.store)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the models that are open, the last used one last."""
        with self._lock:
            return tuple(key[0] for key in self._open)

    def close(self) -> None:
        """Close every model, those in the middle of a call after it; twice does nothing."""
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
            with entry.lock:  # others' models are used meanwhile
                _close(gone)
                if entry.restorer is None:  # also where another thread has failed to open it
                    with ExitStack() as stack:
                        entry.restorer = self._opened(name, options, stack)
                        entry.stack = stack.pop_all()
            yield entry.restorer
        finally:
            self._done(entry)

    def _wanted(self, key: Any) -> tuple[_Entry, list[_Entry]]:
        """The entry, counted as busy, and those that have to be closed in its favour."""
        with self._lock:
            if self._closed:
                raise OptionError("this loader is closed: make another")
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
        """Options that say what the settings say make no other restorer."""
        told = {
            option: repr(value)
            for option, value in options.items()
            if option not in _SETTINGS or value != getattr(self._settings, option)
        }
        return (name, *sorted(told.items()))

    def _surplus(self, coming: int = 0) -> list[_Entry]:
        """Take out what is idle and over the number that is kept, ``coming`` ones included."""
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
                f"{bundle.manifest.name} has no option {unknown[0]!r}; it has "
                f"{', '.join(sorted(known))}"
            )
        restorer = self._faces(settings, options, stack) if faces else Upscaler(**vars(settings))
        stack.push(restorer)
        return restorer

    def _faces(self, settings: Settings, options: dict[str, Any], stack: ExitStack) -> FaceRestorer:
        chosen = {key: value for key, value in options.items() if key in _FACES}
        background, upscaler = chosen.pop("background", None), None
        if background is not None:
            upscaler = stack.enter_context(Upscaler(**{**vars(settings), "model": background}))
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
