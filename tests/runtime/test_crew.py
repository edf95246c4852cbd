"""Recipes and the crews that share the devices."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from resharp.engines import Bundle
from resharp.errors import OptionError, UnknownModelError
from resharp.runtime import Upscaler
from resharp.runtime.crew import Crew
from resharp.runtime.recipe import Recipe
from resharp.runtime.settings import Settings


def _recipe(bundle: Bundle, **settings: object) -> Recipe:
    return Recipe(settings=Settings(model=str(bundle.folder), device="cpu", **settings))  # type: ignore[arg-type]


def test_a_restorer_does_what_an_upscaler_does(compact: Bundle) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (20, 24, 3), np.uint8) for n in range(3)]
    with _recipe(compact).open() as restorer, Upscaler(compact, device="cpu") as upscaler:
        wanted = [upscaler(image) for image in images]
        assert all(np.array_equal(restorer(i)[0], w) for i, w in zip(images, wanted, strict=True))
        together = restorer.many(images)
        assert all(np.array_equal(a, w) for a, w in zip(together, wanted, strict=True))
        assert restorer.batch(20, 24) == 1  # a CPU gains nothing by more
        assert restorer.scale == 2


def test_the_key_is_of_what_decides_the_pixels(compact: Bundle, tiny: dict[str, Bundle]) -> None:
    def key(recipe: Recipe) -> str:
        with recipe.open() as restorer:
            return restorer.key

    base = _recipe(compact)
    assert key(base) == key(base.on(threads=1, tile=64, memory=0.25))
    others = [base.on(scale=3), _recipe(tiny["rrdb2"]), Recipe(settings=base.settings, views=2)]
    assert len({key(one) for one in [base, *others]}) == 4


@pytest.mark.parametrize(
    ("cores", "options", "restorers", "calls", "threads"),
    [
        (2, {}, 1, 2, 1),
        (4, {}, 1, 4, 1),
        (16, {}, 4, 4, 4),
        (16, {"workers": 2}, 2, 2, 8),
        (16, {"most": 1}, 1, 1, None),
        (1, {}, 1, 1, None),
        (2, {"workers": 1}, 1, 1, None),
    ],
)
def test_cores_are_shared(
    compact: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    options: dict[str, int],
    restorers: int,
    calls: int,
    threads: int | None,
) -> None:
    monkeypatch.setattr("resharp.runtime.crew.usable_threads", lambda: cores)
    with Crew(_recipe(compact), **options) as crew:  # type: ignore[arg-type]
        assert len(crew.members) == restorers
        assert len(crew.calls) == calls
        assert crew.first.recipe.settings.threads == threads
        assert crew.first.recipe.settings.memory == pytest.approx(0.5 / calls)


def test_the_users_threads_are_kept(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resharp.runtime.crew.usable_threads", lambda: 8)
    with Crew(_recipe(compact, threads=4)) as crew:
        assert [one.recipe.settings.threads for one in crew.members] == [4, 4]


class _OnGpu:
    """Stands for a restorer on a GPU, which likes two pictures at once."""

    threads = 2

    def __init__(self, recipe: Recipe) -> None:
        self.device, self.closed = recipe.settings.device, False
        self.place = "tensorrt on cuda"

    def __enter__(self) -> _OnGpu:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


def test_gpus_take_pictures_in_turn(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "open", lambda self: _OnGpu(self))
    recipe = Recipe(settings=Settings(model=str(compact.folder)))
    with Crew(recipe, gpus=[0, 2]) as crew:
        assert [one.device for one in crew.calls] == ["cuda:0", "cuda:2"] * 2  # type: ignore[attr-defined]
    assert all(one.closed for one in crew.members)  # type: ignore[attr-defined]
    with Crew(recipe, gpus=[0, 2], workers=1) as crew:
        assert [one.device for one in crew.calls] == ["cuda:0", "cuda:2"]  # type: ignore[attr-defined]
    with Crew(recipe, workers=3) as crew:
        assert len(crew.members) == 1
        assert len(crew.calls) == 3


def test_what_makes_no_sense_is_refused(compact: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="workers is 0"):
        Crew(_recipe(compact), workers=0)
    with pytest.raises(OptionError, match="each once"):
        Crew(_recipe(compact), gpus=[0, 0])
    with pytest.raises(OptionError, match="either the device or the GPUs"):
        Crew(_recipe(compact), gpus=[0])
    with pytest.raises(OptionError, match="--face"):
        Recipe(fidelity=0.5)
    with pytest.raises(OptionError, match="leave --views out"):
        Recipe(face="codeformer", aligned=True, views=2)
    with pytest.raises(UnknownModelError):
        Recipe(settings=Settings(model="nobody", engines=str(tmp_path))).open()


def test_a_recipe_can_be_sent(compact: Bundle) -> None:
    recipe = _recipe(compact, scale=3.0)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
