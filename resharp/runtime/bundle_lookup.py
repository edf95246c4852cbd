"""Finds the bundle of a model by its name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from resharp.checks import shown
from resharp.engines import ENGINES, Bundle, Store, variant_name
from resharp.engines.blend import blended
from resharp.engines.bundle import MANIFEST, load_tuning
from resharp.engines.model_info import ModelInfo, info_of
from resharp.errors import (
    BundleError,
    MissingExtraError,
    NotExportedError,
    OptionError,
    ResharpError,
    UnknownModelError,
)
from resharp.paths import as_path, check_length, store_folder

DEFAULT_MODEL = "resharp-x4"
"""The built-in model: it comes with the package and needs no download."""
FACE_TASKS = ("face", "face-restoration")
"""``task`` of the manifests and catalogue entries of networks for aligned faces."""
WEIGHTS = (".pth", ".pt", ".safetensors")
_CURE = "Reinstall it: run 'pip uninstall resharp', then 'pip install resharp'."


def builtin_folder() -> Path:
    """Return the read-only folder of the bundles inside the package."""
    return Path(__file__).parents[1] / "weights" / "builtin"


def builtin_store() -> Store:
    """Return the bundles inside the package as a store."""
    return Store(builtin_folder(), _CURE)


def resolve(
    model: str | os.PathLike[str] | Bundle,
    *,
    store: str | os.PathLike[str] | None = None,
    denoise: float | None = None,
) -> Bundle:
    """Find the bundle of a model.

    Args:
        model: a name, a bundle or its folder.
        store: folder of the bundles; None is the default.
        denoise: strength 0..1, for a model that has one; its weights are made at the first use.

    Raises:
        UnknownModelError: no model has that name; the message lists similar ones.
        NotExportedError: the model is known, but its graph is not in the store.
        BundleError: the bundle is damaged.
        OptionError: the model has no denoise strength, or the strength is not in 0..1.
        OutputError: the weights of a new strength cannot be written to the store.
    """
    if isinstance(model, Bundle):
        return _at(model, denoise)
    if not isinstance(model, str | os.PathLike):
        raise OptionError(f"`model` must be a name, a folder or a Bundle, got {shown(model)}")
    if store not in (None, ""):
        as_path(store, "`store`")
    text = os.fspath(model)
    if not isinstance(text, str) or "\0" in text:
        raise OptionError(f"`model` must be a name, a folder or a Bundle, got {shown(model)}")
    check_length(text, "`model`")
    if text.lower().endswith(WEIGHTS) and os.path.isfile(text):
        raise NotExportedError(f"{text} is a checkpoint: run 'resharp export {text}' first")
    if os.sep in text or os.path.isfile(Path(text, MANIFEST)):
        return _at(_from_folder(Path(text)), denoise)
    shipped = None if denoise is not None else _shipped(text, store)
    if shipped is not None:
        return shipped
    from resharp.weights import kebab
    from resharp.weights import resolve as checkpoint

    try:
        canonical = checkpoint(text).name
    except UnknownModelError:
        canonical = text.lower()
    bundles = Store(store_folder(store))
    if canonical not in bundles and kebab(canonical):
        canonical = kebab(canonical)  # my_model.pth was exported as my-model
    name = variant_name(canonical, denoise)
    if denoise is not None and canonical in bundles:
        bundle = bundles.find(canonical)
        if bundle.manifest.twin is not None:
            return blended(bundle, denoise, bundles)
    if name in bundles:
        return bundles.find(name)
    shipped = _shipped(name, store)
    if shipped is not None:
        return shipped
    raise _missing(text, canonical, denoise, store)


def model_info(
    model: str | os.PathLike[str] | Bundle = DEFAULT_MODEL,
    *,
    store: str | os.PathLike[str] | None = None,
    denoise: float | None = None,
) -> ModelInfo:
    """Return what is known of a model, without running it.

    Args:
        model: as for :class:`~resharp.Upscaler`.
        store: folder of the bundles; None is the default.
        denoise: strength 0..1, for a model that has one.

    Raises:
        ResharpError: the bundle cannot be found or used, as for :class:`~resharp.Upscaler`.
    """
    return info_of(resolve(model, store=store, denoise=denoise))


def _at(bundle: Bundle, denoise: float | None) -> Bundle:
    """Return a strength of a bundle that was passed itself; it is made next to it."""
    name = bundle.manifest.name
    if denoise is None or variant_name(name, denoise) == name:
        return bundle
    if bundle.manifest.twin is None:
        raise OptionError(f"{bundle.folder} has no denoise strength: leave out `denoise`")
    return blended(bundle, denoise, Store(bundle.folder.parent))


def _shipped(name: str, store: str | os.PathLike[str] | None) -> Bundle | None:
    """Return a bundle of the package, with its engines in the user's store, or None."""
    inside = builtin_folder() / name
    if not os.path.isfile(inside / MANIFEST):
        return None
    bundle = Bundle.open(inside, _CURE)
    try:
        folder = store_folder(store)
    except MissingExtraError:  # platformdirs: without it there is no store and so no engine
        return bundle
    return load_tuning(replace(bundle, engine_store_folder=folder / name / ENGINES))


def _from_folder(folder: Path) -> Bundle:
    try:
        return Bundle.open(folder)
    except BundleError:
        raise
    except OSError as error:
        raise NotExportedError(
            f"{folder} is not a bundle (it has no manifest.json): pass a folder that "
            "'resharp export' wrote, or a model's name"
        ) from error


def resolve_upscaler(
    model: str | os.PathLike[str] | Bundle,
    *,
    store: str | os.PathLike[str] | None = None,
    denoise: float | None = None,
) -> Bundle:
    """Find the bundle of a model that upscales.

    Raises:
        OptionError: the model restores or detects faces, exported or not.
        ResharpError: as for :func:`resolve`.
    """
    try:
        bundle = resolve(model, store=store, denoise=denoise)
    except ResharpError:
        check_upscales(model)  # exporting a face model would not help
        raise
    check_upscales(bundle)
    return bundle


def check_upscales(model: str | os.PathLike[str] | Bundle) -> None:
    """Refuse models that restore or detect faces instead of upscaling, exported or not.

    Raises:
        OptionError: it is such a model; the message says what it is for.
    """
    if isinstance(model, Bundle):
        name, task = model.manifest.name, model.manifest.task
    else:
        from resharp.weights import lookup

        entry = lookup(model) if isinstance(model, str) else None
        if entry is None:
            return
        name, task = entry.name, entry.task
    if task in FACE_TASKS:
        raise OptionError(f"{name} restores faces and does not upscale: use `face`={name}")
    if task.startswith("face-"):
        raise OptionError(f"{name} is for {task.replace('-', ' ')} and does not upscale")


def _missing(
    asked: str, canonical: str, denoise: float | None, store: str | os.PathLike[str] | None
) -> Exception:
    from resharp.weights import catalogue, local_entries, nearest

    option = "" if denoise in (None, 1) else f" with `denoise`={denoise:g}"
    own, stored = local_entries(), Store(store_folder(store)).names()
    entry = catalogue().get(canonical)
    if option and (entry is None or entry.blend is None):
        able = ", ".join(sorted(name for name, item in catalogue().items() if item.blend))
        return OptionError(f"{canonical} has no denoise strength; models that have one: {able}")
    if option and canonical in stored:
        return NotExportedError(
            f"{canonical} was exported without the checkpoint that it is blended with, so each "
            f"strength needs an export: run 'resharp export {canonical}'{option}"
        )
    known = {*catalogue(), *own, *stored, *builtin_store().names()}
    if canonical in known:
        same = canonical in (asked, asked.lower())
        label = canonical if same else f"{asked} means {canonical}, which"
        return NotExportedError(
            f"{label} has not been exported yet: run 'resharp export {canonical}'"
        )
    near = nearest(asked, sorted(known))
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return UnknownModelError(
        f"no model is called {shown(asked)}{hint} 'resharp models list' shows all of them"
    )
