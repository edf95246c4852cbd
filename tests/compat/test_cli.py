"""``resharp realesrgan``, as Real-ESRGAN's own script is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.cli import realesrgan
from resharp.compat import RealESRGANer
from resharp.engines import Bundle
from resharp.weights import find
from tests.cli.commands import call
from tests.compat.reference import Image, farthest, picture
from tests.conftest import random_network, save_checkpoint


@pytest.fixture
def asked(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """Models asked for by name; each is the compact x2."""
    names: list[tuple[str, float | None]] = []

    def named(name: str, denoise: float | None = None) -> Bundle:
        names.append((name, denoise))
        return compact

    monkeypatch.setattr(realesrgan, "named", named)
    return names


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with a gray, a color and a transparent image, a text and a folder."""
    folder = tmp_path / "inputs"
    (folder / "below").mkdir(parents=True)
    for kind, name in {"gray": "a.png", "bgr": "b.jpg", "bgra": "c.webp"}.items():
        cv2.imwrite(str(folder / name), picture(kind))
    cv2.imwrite(str(folder / "below" / "d.png"), picture("bgr"))
    (folder / "notes.txt").write_text("no picture")
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def load(path: Path) -> Image:
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return found


@pytest.mark.usefixtures("asked")
def test_a_folder(inputs: Path, tmp_path: Path, compact: Bundle) -> None:
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(tmp_path / "out"), "-s", "2")
    assert code == 0, text
    assert "Testing 2 c" in text
    assert listed(tmp_path / "out") == ["a_out.png", "b_out.jpg", "c_out.png"]
    ours = RealESRGANer(2, compact, pre_pad=0)
    assert np.array_equal(load(tmp_path / "out" / "a_out.png"), ours.enhance(picture("gray"))[0])
    assert load(tmp_path / "out" / "c_out.png").shape == (106, 140, 4)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--suffix", ""], ["a.png", "b.jpg", "c.png"]),
        (["--suffix", "x4", "--ext", "png"], ["a_x4.png", "b_x4.png", "c_x4.png"]),
        (["--ext", "jpg"], ["a_out.jpg", "b_out.jpg", "c_out.png"]),
    ],
)
def test_names_of_results(
    options: list[str], names: list[str], inputs: Path, tmp_path: Path
) -> None:
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(tmp_path / "out"), *options)
    assert code == 0, text
    assert listed(tmp_path / "out") == names


@pytest.mark.usefixtures("asked")
def test_every_option_is_passed_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Spy(RealESRGANer):
        def __init__(self, scale: int, model_path: Any, **options: Any) -> None:
            seen.append(options)
            super().__init__(scale, model_path, device="cpu", **options)

        def enhance(self, *args: Any, **options: Any) -> tuple[Image, str]:
            seen.append((args[1:], options))
            return super().enhance(*args, **options)

    monkeypatch.setattr(realesrgan, "RealESRGANer", Spy)
    arguments = "-t 24 --tile_pad 4 --pre_pad 6 --fp32 -g 0 -s 3.5 --alpha_upsampler bicubic"
    code, text = call(
        "realesrgan", "-i", str(inputs / "a.png"), "-o", str(tmp_path), *arguments.split()
    )
    assert code == 0, text
    assert seen == [
        {"tile": 24, "tile_pad": 4, "pre_pad": 6, "half": False, "gpu_id": 0},
        ((), {"outscale": 3.5, "alpha_upsampler": "bicubic"}),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("RealESRGAN_x4plus", None)),
        (["-n", "realesr-general-x4v3"], ("realesr-general-x4v3", 0.5)),
        (["-n", "realesr-general-x4v3", "-dn", "1"], ("realesr-general-x4v3", None)),
        (["-n", "realesr-general-x4v3.pth", "-dn", "0"], ("realesr-general-x4v3", 0.0)),
        (["--model_name", "RealESRGAN_x2plus", "-dn", "0.2"], ("RealESRGAN_x2plus", None)),
    ],
)
def test_models(
    options: list[str],
    expected: tuple[str, float | None],
    asked: list[tuple[str, float | None]],
    inputs: Path,
    tmp_path: Path,
) -> None:
    code, text = call(
        "realesrgan", "-i", str(inputs / "a.png"), "-o", str(tmp_path / "out"), *options
    )
    assert code == 0, text
    assert asked == [expected]


def test_upstreams_names_are_in_the_catalogue() -> None:
    assert [find(name).stem for name in realesrgan.NAMES] == list(realesrgan.NAMES)
    assert find(realesrgan.GENERAL).blend == find(realesrgan.TWIN).name


def test_weights_of_ones_own(inputs: Path, tmp_path: Path) -> None:
    general, twin = (f"realesr-general-{kind}x4v3.pth" for kind in ("", "wdn-"))
    network = random_network("compact")
    file = save_checkpoint(network, tmp_path / "mine.pth")
    arguments = ["realesrgan", "-i", str(inputs / "a.png"), "-o", str(tmp_path / "out")]
    code, text = call(*arguments, "--model_path", str(file))
    assert code == 0, text
    assert load(tmp_path / "out" / "a_out.png").shape == (212, 280)  # -s is 4
    save_checkpoint(network, tmp_path / general)
    code, text = call(
        *arguments, "-n", "realesr-general-x4v3", "--model_path", str(tmp_path / general)
    )
    assert code == 1
    assert f"no such file: {tmp_path / twin}" in text  # both are needed to mix


@pytest.mark.usefixtures("asked")
def test_a_picture_that_fails_does_not_stop_the_rest(inputs: Path, tmp_path: Path) -> None:
    (inputs / "a.png").write_bytes(b"no picture at all")
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(tmp_path / "out"))
    assert code == 1
    assert f"failed: {inputs / 'a.png'}" in text
    assert listed(tmp_path / "out") == ["b_out.jpg", "c_out.png"]


@pytest.mark.usefixtures("asked")
def test_only_results_of_this_command_are_overwritten(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b_out.jpg").write_bytes(b"mine")
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(out))
    assert code == 1
    assert "b_out.jpg already exists, and the journal does not say that resharp made it" in text
    assert (out / "b_out.jpg").read_bytes() == b"mine"
    assert listed(out) == ["a_out.png", "b_out.jpg", "c_out.png"]
    (out / "b_out.jpg").unlink()
    for _ in range(2):
        assert call("realesrgan", "-i", str(inputs), "-o", str(out))[0] == 0


@pytest.mark.usefixtures("asked")
def test_two_results_of_one_name_are_not_one(inputs: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(inputs / "a.jpg"), picture("bgr"))
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(tmp_path / "out"), "--ext", "png")
    assert code == 1
    assert "made from another input: use --ext auto" in text
    assert listed(tmp_path / "out") == ["a_out.png", "b_out.png", "c_out.png"]


@pytest.mark.usefixtures("asked")
def test_a_link_to_another_input_is_not_overwritten(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_out.png").symlink_to(inputs / "b.jpg")
    before = (inputs / "b.jpg").read_bytes()
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(out))
    assert code == 1
    assert "would overwrite the input" in text
    assert (inputs / "b.jpg").read_bytes() == before


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("empty", ["-i", "-o"])
def test_an_empty_path_is_not_the_current_folder(
    inputs: Path, tmp_path: Path, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    paths = {"-i": str(inputs), "-o": str(tmp_path / "out")} | {empty: ""}
    code, text = call("realesrgan", *(word for pair in paths.items() for word in pair))
    assert code == 1
    assert f"{empty} is empty" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("asked")
def test_an_input_is_not_overwritten(inputs: Path) -> None:
    before = (inputs / "a.png").read_bytes()
    code, text = call("realesrgan", "-i", str(inputs / "a.png"), "-o", str(inputs), "--suffix", "")
    assert code == 1
    assert "overwrite" in text
    assert (inputs / "a.png").read_bytes() == before


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-n", "RealESRGAN_x3"], "only RealESRGAN_x4plus"),
        (["-i", "nowhere.png"], "no file or folder nowhere.png"),
        (["--ext", "doc"], "must be one of auto, avif"),
        (["-dn", "2"], "0<=x<=1"),
        (["-t", "-4"], "must be a non-negative number of pixels, got -4"),
        (["--model_path", "nowhere.pth"], "no such file: nowhere.pth"),
        (["--alpha_upsampler", "none"], "bicubic"),
    ],
)
def test_bad_options(options: list[str], says: str, inputs: Path, tmp_path: Path) -> None:
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(tmp_path / "out"), *options)
    assert code in (1, 2)
    assert says in text


@pytest.mark.usefixtures("asked")
def test_faces_are_off_for_anime_and_on_for_photographs(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Enhancer:
        def __init__(self, *args: Any, bg_upsampler: Any, **options: Any) -> None:
            made.append((args, options))
            self._background = bg_upsampler

        def enhance(self, img: Image) -> tuple[list[Image], list[Image], Image]:
            return [], [], self._background.enhance(img, outscale=2)[0]

    monkeypatch.setattr(realesrgan, "GFPGANer", Enhancer)
    arguments = ["realesrgan", "-i", str(inputs / "a.png"), "-s", "2", "--face_enhance", "-o"]
    code, text = call(*arguments, str(tmp_path / "x"), "-n", "realesr-animevideov3")
    assert (code, made) == (0, [])
    assert "ignored with an anime model" in text
    code, text = call(*arguments, str(tmp_path / "y"))
    assert code == 0, text
    assert made == [(("gfpgan-v1.3", 2.0), {"device": None})]
    one, other = (load(tmp_path / folder / "a_out.png") for folder in "xy")
    assert farthest(one, other) == 0


@pytest.mark.usefixtures("asked")
def test_sizes_are_checked_before_the_work(inputs: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(inputs / "long.jpg"), np.zeros((1, 9000, 3), np.uint8))
    out = tmp_path / "out"
    code, text = call("realesrgan", "-i", str(inputs), "-o", str(out), "--max-pixels", "8999")
    assert code == 1
    assert "long.jpg has 9000 x 1 pixels, over the limit of 8999." in text
    code, text = call(
        *("realesrgan", "-i", str(inputs / "long.jpg"), "-o", str(out), "--ext", "webp")
    )
    assert code == 1
    assert "WebP holds at most 16383 pixels per side, but the image is 36000 x 4" in text
    assert not (out / "long_out.webp").exists()
