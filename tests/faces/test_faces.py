"""Faces: alignment, paste and the restorer with stand-in networks, and YuNet on real photos."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from resharp import Upscaler
from resharp.cli import main
from resharp.drawing import draw
from resharp.engines import Bundle, Manifest
from resharp.engines.manifest import ExtraInput, File
from resharp.errors import (
    CheckpointError,
    ChecksumError,
    ImageError,
    NotExportedError,
    OptionError,
    OutOfMemoryError,
)
from resharp.faces import (
    BundleNetwork,
    Detector,
    Face,
    FaceRestorer,
    YuNet,
    detector_file,
)
from resharp.faces.alignment import (
    SIDE,
    TEMPLATE,
    apply,
    chain,
    cut,
    inverse,
    magnification,
    scaling,
    similarity,
    to_crop,
)
from resharp.faces.paste import PastePlace, mask, paste
from resharp.fsutil import sha256_of
from tests.shared import PHOTOS, SHARED

Array = NDArray[Any]

WEIGHTS = SHARED / "weights"
YUNET = WEIGHTS / "face_detection_yunet_2023mar.onnx"
needs_faces = pytest.mark.skipif(
    not (YUNET.is_file() and PHOTOS.is_dir()), reason="no photos, or no detector, in shared"
)


def turned(degrees: float, size: float, x: float, y: float) -> Array:
    """The similarity that puts the crop's middle at (x, y), ``size`` pixels wide."""
    angle, scale = np.deg2rad(degrees), size / SIDE
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, (SIDE - 1) / 2)
    return np.column_stack([turn, np.array([x, y]) - turn @ middle])


def face_at(x: float, y: float, size: float = 60, degrees: float = 0, score: float = 0.9) -> Face:
    return Face(landmarks=apply(turned(degrees, size, x, y), TEMPLATE), score=score)


def finds(*faces: Face) -> Detector:
    return lambda image: faces


def same(faces: Array, fidelity: float) -> Array:
    return faces


def brighter(faces: Array, fidelity: float) -> Array:
    return np.clip(faces.astype(np.int16) + 60, 0, 255).astype(np.uint8)


def white(faces: Array, fidelity: float) -> Array:
    return np.full_like(faces, 255)


def as_dtype(picture: Array, dtype: str) -> Array:
    if dtype == "uint16":
        return picture.astype(np.uint16) * 257
    return picture if dtype == "uint8" else picture.astype(np.float32) / np.float32(255)


# Alignment


poses = st.tuples(
    st.floats(-180, 180), st.floats(20, 4000), st.floats(-500, 3000), st.floats(-500, 3000)
)


@given(poses)
def test_a_similarity_is_found_exactly_and_has_its_inverse(
    pose: tuple[float, float, float, float],
) -> None:
    there = turned(*pose)
    landmarks = apply(there, TEMPLATE)
    back = to_crop(landmarks)
    np.testing.assert_allclose(apply(back, landmarks), TEMPLATE, atol=1e-6)
    np.testing.assert_allclose(apply(inverse(back), TEMPLATE), landmarks, atol=1e-6)
    np.testing.assert_allclose(chain(back, inverse(back)), np.eye(2, 3), atol=1e-7)
    assert magnification(back) == pytest.approx(SIDE / pose[1])


@settings(max_examples=50)
@given(poses, st.integers(0, 10_000))
def test_no_other_similarity_is_nearer(pose: tuple[float, float, float, float], seed: int) -> None:
    random = np.random.default_rng(seed)
    landmarks = apply(turned(*pose), TEMPLATE) + random.normal(0, pose[1] / 20, (5, 2))
    best = to_crop(landmarks)

    def error(matrix: Array) -> float:
        return float(((apply(matrix, landmarks) - TEMPLATE) ** 2).sum())

    for _ in range(20):
        nearby = turned(random.normal(0, 2), SIDE * (1 + random.normal(0, 0.02)), 256, 256)
        nearby[:, 2] += random.normal(0, 2, 2)
        assert error(best) <= error(chain(best, nearby)) + 1e-6
    turn = best[:, :2] / magnification(best)
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-9)
    assert np.linalg.det(turn) > 0


def test_points_that_are_one_point_have_no_similarity() -> None:
    with pytest.raises(ValueError, match="points coincide"):
        similarity(np.zeros((5, 2)), TEMPLATE)


@pytest.mark.parametrize("size", [40, 200, 512, 900, 3000])
def test_a_crop_shows_what_the_map_says(size: int) -> None:
    """An image whose colors are its coordinates."""
    side = 1200
    y, x = np.mgrid[:side, :side]
    picture = np.stack([x, y, x * 0], 2).astype(np.float32) / (side - 1)
    there = turned(25, size, 600, 580)
    crop = cut(picture, inverse(there)).astype(np.float64) / 255 * (side - 1)
    inner = apply(there, np.argwhere(np.ones((SIDE, SIDE)))[:, ::-1].astype(np.float64))
    inside = ((inner > 1) & (inner < side - 2)).all(axis=1)
    gap = np.abs(crop[:, :, :2].reshape(-1, 2) - inner)[inside]
    assert gap.max() < 3.0 + size / SIDE  # a level of 255 is 4.7 pixels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_crops_of_any_picture_are_bytes(dtype: str, channels: int | None) -> None:
    picture = as_dtype(draw(90, 120, seed=2), dtype)
    picture = picture[:, :, 0] if channels is None else picture[:, :, :channels]
    crop = cut(picture, inverse(turned(10, 70, 60, 45)))
    assert crop.shape == (SIDE, SIDE, 3)
    assert crop.dtype == np.uint8
    expected = cut(as_dtype(draw(90, 120, seed=2), "uint8"), inverse(turned(10, 70, 60, 45)))
    if channels == 3:
        assert np.abs(crop.astype(int) - expected).max() <= 1
    else:
        assert np.abs(crop[:, :, 0].astype(int) - expected[:, :, 0]).max() <= 1


@pytest.mark.parametrize(("x", "y"), [(0, 0), (119, 0), (60, 89), (-20, 45), (150, 45)])
def test_a_crop_partly_outside_reflects_the_picture(x: float, y: float) -> None:
    picture = draw(90, 120, seed=4)
    pad = 200
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), "reflect")
    there = turned(20, 80, x, y)
    crop = cut(picture, inverse(there)).astype(int)
    expected = cut(padded, inverse(turned(20, 80, x + pad, y + pad)))
    pixels = apply(there, np.argwhere(np.ones((SIDE, SIDE)))[:, ::-1].astype(np.float64))
    beyond = np.maximum(-pixels, pixels - [119, 89]).max(axis=1).reshape(SIDE, SIDE) * SIDE / 80
    assert np.abs(crop - expected)[beyond <= 0].max(initial=0) <= 1
    assert np.abs(crop - expected)[(beyond > 0) & (beyond < 2)].max(initial=0) <= 60
    far = crop[beyond > SIDE / 8 + 1]  # one color, so no second face
    assert len(far)
    assert (far == far[0]).all()


def test_a_strip_longer_than_opencv_warps_is_cut() -> None:
    strip = np.zeros((40, 40_000, 3), np.uint8)
    strip[:, 39_000:] = 200
    assert (cut(strip, inverse(turned(0, 30, 39_500, 20))) == 200).all()


def test_a_large_face_is_averaged_and_not_thinned_out() -> None:
    lines = np.zeros((2048, 2048), np.uint8)
    lines[::4] = 255  # a quarter of white
    crop = cut(lines, inverse(turned(0, 2048, 1023.5, 1023.5)))
    assert np.abs(crop.astype(int) - 64).max() <= 2


# Paste


def test_the_mask_is_one_inside_zero_outside_and_smooth() -> None:
    place = PastePlace(matrix=np.eye(2, 3))
    soft = mask(place.radius((-20, -20, SIDE + 20, SIDE + 20)))
    assert soft[276, 276] == 1
    core = soft[20:-20, 20:-20]
    assert (core[100:-100, 100:-100] == 1).all()  # the landmarks, and brows and lips, lie in here
    assert max(core[0].max(), core[-1].max(), core[:, 0].max(), core[:, -1].max()) < 1e-3
    assert not soft[:19].any()
    assert not soft[:, -19:].any()
    steps = np.abs(np.diff(soft.astype(np.float64), axis=1))
    bends = np.abs(np.diff(soft.astype(np.float64), n=2, axis=1))
    assert steps.max() < 0.03  # 56 pixels of feather: no pixel moves by 3 %
    assert bends.max() < 0.003


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(3, 300),
    st.floats(-40, 180),
    st.floats(-40, 140),
    st.sampled_from(["uint8", "uint16", "float32"]),
    st.sampled_from([None, 1, 3, 4]),
    st.floats(0, 1),
)
def test_paste_changes_nothing_outside_its_mask(
    degrees: float,
    size: float,
    x: float,
    y: float,
    dtype: str,
    channels: int | None,
    weight: float,
) -> None:
    picture = as_dtype(draw(100, 140, seed=1), dtype)
    if channels is None:
        picture = picture[:, :, 0]
    elif channels == 4:
        picture = np.dstack([picture, picture[:, :, 1]])
    else:
        picture = picture[:, :, :channels]
    out = picture.copy()
    place = PastePlace(matrix=turned(degrees, size, x, y))
    paste(out, np.full((SIDE, SIDE, 3), 255, np.uint8), [place], weight=weight)
    assert (out.dtype, out.shape) == (picture.dtype, picture.shape)
    changed = np.abs(out.astype(np.float64) - picture).reshape(100, 140, -1)
    outside = mask(place.radius((0, 0, 100, 140))) == 0
    assert not changed[outside].any()
    if channels == 4:
        assert not changed[:, :, 3].any()
    if weight == 0:
        assert not changed.any()
    assert float(out.max()) <= {"uint8": 255, "uint16": 65_535, "float32": 1}[dtype]


def test_a_brighter_face_leaves_no_step_at_the_edge() -> None:
    """On flat gray, from pixel to pixel, in levels of 255: across the whole mask."""
    for size, degrees in [(60, 0), (150, 33), (400, 90), (900, 12)]:
        out = np.full((1000, 1000, 3), 100, np.float32) / 255
        paste(
            out,
            np.full((SIDE, SIDE, 3), 160, np.uint8),
            [PastePlace(matrix=turned(degrees, size, 500, 500))],
        )
        levels = out[:, :, 0].astype(np.float64) * 255
        step = max(np.abs(np.diff(levels, axis=0)).max(), np.abs(np.diff(levels, axis=1)).max())
        # A straight ramp of 60 levels over the feather of 11 % of the crop has 1; a smooth one 1.5.
        assert step < 1.6 * 60 / (0.11 * size) + 0.05
        assert levels.max() == pytest.approx(160, abs=0.01)


def test_each_depth_keeps_its_levels() -> None:
    wanted = np.full((SIDE, SIDE, 3), 200, np.uint8)
    for dtype, value in [("uint8", 200), ("uint16", 51_400), ("float32", 200 / 255)]:
        out = as_dtype(np.zeros((80, 80, 3), np.uint8), dtype)
        paste(out, wanted, [PastePlace(matrix=turned(0, 70, 40, 40))])
        assert out[40, 40, 0] == pytest.approx(value, rel=1e-6)


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    face = np.asarray(cv2.resize(draw(128, 128, seed=5), (SIDE, SIDE)), np.uint8)
    places = [
        PastePlace(matrix=turned(15, 150, 90, 80)),
        PastePlace(matrix=turned(-20, 90, 150, 90)),
    ]
    whole, banded = draw(170, 200), draw(170, 200)
    for index in range(2):
        paste(whole, face, places, index)
    monkeypatch.setattr("resharp.faces.paste._BAND", 1)
    for index in range(2):
        paste(banded, face, places, index)
    assert np.abs(whole.astype(int) - banded).max() <= 1


def test_overlapping_faces_each_keep_their_middle_and_hide_the_background() -> None:
    """In any order, and without a gap between them where the background shows."""
    places = [
        PastePlace(matrix=turned(0, 200, 120, 150)),
        PastePlace(matrix=turned(0, 200, 230, 150)),
    ]
    levels = (80, 240)
    results = []
    for order in [(0, 1), (1, 0)]:
        out = np.zeros((300, 350, 3), np.float32)
        there = [places[one] for one in order]
        for at, one in enumerate(order):
            paste(out, np.full((SIDE, SIDE, 3), levels[one], np.uint8), there, at)
        results.append(out * 255)
    np.testing.assert_allclose(results[0], results[1], atol=0.01)
    row = results[0][150, :, 0]
    assert row[120] == pytest.approx(80, abs=6)
    assert row[230] == pytest.approx(240, abs=6)
    between = row[120:230]
    assert between.min() > 74
    assert (np.diff(between) > -0.2).all()  # from one to the other, without a dip


# The restorer


def test_without_a_face_the_result_is_the_background(compact: Bundle) -> None:
    picture = draw(40, 50)
    calls: list[tuple[int, int]] = []
    with Upscaler(compact, backend="onnx") as upscaler:
        restorer = FaceRestorer(white, upscaler=upscaler, detector=finds())
        restored = restorer.detailed(picture, progress=lambda *at: calls.append(at))
        np.testing.assert_array_equal(restored.image, upscaler(picture))
        assert (restorer.scale, restored.count, restored.faces) == (2, 0, ())
    assert calls == [(1, 1)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_any_layout_and_depth(compact: Bundle, dtype: str, channels: int | None) -> None:
    picture = as_dtype(draw(60, 80, seed=7), dtype)
    if channels is None:
        picture = picture[:, :, 0]
    elif channels == 4:
        picture = np.dstack([picture, picture[:, :, 1]])
    else:
        picture = picture[:, :, :channels]
    before = picture.copy()
    face = face_at(40, 30, 40, 12)
    with Upscaler(compact, backend="onnx") as upscaler:
        background = upscaler(picture)
        out = FaceRestorer(white, upscaler=upscaler, detector=finds(face))(picture)
    assert (out.dtype, out.shape) == (picture.dtype, background.shape)
    np.testing.assert_array_equal(picture, before)
    top = {"uint8": 255, "uint16": 65_535, "float32": 1}[dtype]
    colors = out if out.ndim == 2 else out[:, :, :3]
    assert (colors[58:62, 78:82] == top).all()
    np.testing.assert_array_equal(out[:10], background[:10])
    if channels == 4:
        np.testing.assert_array_equal(out[:, :, 3], background[:, :, 3])


@pytest.mark.parametrize("scale", [1, 1.5, 2, 4])
@pytest.mark.parametrize("size", [30, 90, 700])
def test_a_network_that_changes_nothing_changes_little(scale: float, size: float) -> None:
    """The face lands where it was cut, at any scale: half a pixel off would show here."""
    picture = np.asarray(
        cv2.resize(draw(60, 60, seed=3), (300, 300), interpolation=cv2.INTER_CUBIC)
    )
    face = face_at(140, 150, size, 17)
    out = FaceRestorer(same, detector=finds(face), scale=scale)(picture)
    plain = FaceRestorer(same, detector=finds(), scale=scale)(picture)
    gap = out.astype(np.float64) - plain
    half = max(round(scale / 2), 1)  # of a pixel of the input, or a little more
    moved = np.roll(plain, half, axis=1).astype(np.float64) - plain
    assert np.sqrt((gap**2).mean()) < 0.25 * np.sqrt((moved**2).mean())


def test_weight_blends_and_zero_runs_no_network() -> None:
    picture, face = np.full((80, 80, 3), 55, np.uint8), face_at(40, 40)

    def middle(weight: float) -> int:
        return int(FaceRestorer(white, detector=finds(face), weight=weight)(picture)[40, 40, 0])

    assert [middle(weight) for weight in (0, 0.5, 1)] == [55, 155, 255]

    def never(faces: Array, fidelity: float) -> Array:
        raise AssertionError

    restored = FaceRestorer(never, detector=finds(face), weight=0).detailed(picture)
    np.testing.assert_array_equal(restored.image, picture)


def test_only_the_face_nearest_to_the_middle() -> None:
    faces = (face_at(20, 20, 30), face_at(52, 47, 30), face_at(80, 80, 30))
    restorer = FaceRestorer(white, detector=finds(*faces), only_center=True)
    restored = restorer.detailed(np.zeros((100, 100, 3), np.uint8))
    assert restored.faces == (faces[1],)
    assert restored.image[47, 52, 0] == 255
    assert restored.image[20, 20, 0] == 0


@pytest.mark.parametrize(("x", "y"), [(0, 0), (99, 40), (50, 79), (-10, 40), (400, 400)])
def test_faces_partly_or_wholly_outside(x: float, y: float) -> None:
    picture = draw(80, 100)
    out = FaceRestorer(white, detector=finds(face_at(x, y, 60)), scale=2)(picture)
    assert out.shape == (160, 200, 3)
    if x == 99:
        assert (out[80, 195:] == 255).all()  # up to the border itself


@pytest.mark.slow
def test_a_hundred_faces_go_in_batches_and_report_progress() -> None:
    sizes: list[int] = []
    calls: list[tuple[int, int]] = []

    def network(faces: Array, fidelity: float) -> Array:
        sizes.append(len(faces))
        return brighter(faces, fidelity)

    faces = [face_at(x, y, 30) for y in range(20, 400, 40) for x in range(20, 400, 40)]
    restorer = FaceRestorer(network, detector=finds(*faces), batch=8)
    picture = np.full((400, 400, 3), 100, np.uint8)
    restored = restorer.detailed(picture, progress=lambda *at: calls.append(at))
    assert restored.count == 100
    assert sizes == [8] * 12 + [4]
    assert calls == [(at, 100) for at in range(1, 101)]
    for face in faces:
        x, y = np.rint(face.middle).astype(int)
        assert (restored.image[y, x] == 160).all()


def test_memory_is_bounded_by_the_batch() -> None:
    alive: list[int] = []

    def network(faces: Array, fidelity: float) -> Array:
        alive.append(faces.nbytes)
        return faces

    restorer = FaceRestorer(network, detector=finds(*[face_at(50, 50)] * 9), batch=3)
    for _ in restorer.crops(draw(100, 100)):
        pass
    assert alive == [3 * SIDE * SIDE * 3] * 3


def test_out_of_memory_halves_the_batch_and_one_face_says_what_to_do() -> None:
    sizes: list[int] = []

    def cramped(faces: Array, fidelity: float) -> Array:
        sizes.append(len(faces))
        if len(faces) > 2:
            raise OutOfMemoryError("cramped")
        return brighter(faces, fidelity)

    picture = np.full((200, 200, 3), 100, np.uint8)
    faces = [face_at(30 + 35 * i, 100, 30) for i in range(5)]
    out = FaceRestorer(cramped, detector=finds(*faces), batch=5)(picture)
    assert all(out[100, 30 + 35 * i, 0] == 160 for i in range(5))
    assert sizes == [5, 2, 3, 1, 2]

    def starved(faces: Array, fidelity: float) -> Array:
        raise OutOfMemoryError("starved")

    with pytest.raises(OutOfMemoryError, match="not even one face fits"):
        FaceRestorer(starved, detector=finds(*faces))(picture)


def test_crops_hands_out_each_face_with_its_restoration() -> None:
    picture = draw(100, 100)
    faces = (face_at(30, 40, 40), face_at(70, 60, 40))
    crops = list(FaceRestorer(brighter, detector=finds(*faces)).crops(picture))
    assert [crop.face for crop in crops] == list(faces)
    for crop in crops:
        np.testing.assert_array_equal(crop.after, brighter(crop.before[None], 0.5)[0])
        np.testing.assert_array_equal(crop.before, cut(picture, crop.matrix))


def test_fidelity_reaches_the_network() -> None:
    heard: list[float] = []

    def network(faces: Array, fidelity: float) -> Array:
        heard.append(fidelity)
        return faces

    FaceRestorer(network, detector=finds(face_at(40, 40)), fidelity=0.7)(draw(80, 80))
    assert heard == [0.7]


@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("side", [512, 300, 1024])
def test_aligned_crops_are_taken_as_they_are(side: int, channels: int | None) -> None:
    picture = np.full((side, side, channels or 1), 100, np.uint8)
    picture = picture[:, :, 0] if channels is None else picture
    restored = FaceRestorer(brighter, aligned=True, weight=0.5).detailed(picture)
    assert restored.image.shape == (SIDE, SIDE, *picture.shape[2:])
    assert restored.count == 1
    colors = restored.image if channels is None else restored.image[:, :, :3]
    assert (colors == 130).all()
    if channels == 4:
        assert (restored.image[:, :, 3] == 100).all()


def test_aligned_crops_are_square() -> None:
    with pytest.raises(ImageError, match="got 50x40"):
        FaceRestorer(same, aligned=True)(draw(40, 50))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fidelity": 1.2}, "`fidelity` must be between 0 and 1, got 1.2"),
        ({"fidelity": float("nan")}, "got nan"),
        ({"weight": -0.1}, "weight of faces must be between 0 and 1, got -0.1"),
        ({"weight": "much"}, "weight of faces .* got 'much'"),
        ({"batch": 0}, "`batch` must be a positive integer, got 0"),
        ({"aligned": True, "only_center": True}, "one face"),
        ({"scale": 0}, "`scale` must be in .* got 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        FaceRestorer(same, detector=finds(), **options)


def test_scale_belongs_to_the_upscaler(compact: Bundle) -> None:
    with (
        Upscaler(compact, backend="onnx") as upscaler,
        pytest.raises(OptionError, match="`scale` cannot be combined"),
    ):
        FaceRestorer(same, detector=finds(), upscaler=upscaler, scale=2)


def test_a_network_that_gives_something_else_is_named() -> None:
    def shrunk(faces: Array, fidelity: float) -> Array:
        return faces[:, ::2]

    with pytest.raises(ValueError, match=r"got uint8 \(1, 256, 512, 3\)"):
        FaceRestorer(shrunk, detector=finds(face_at(40, 40)))(draw(80, 80))


# Bundles and the command line


def add_fidelity(
    folder: Path, name: str = "lighter", task: str = "face", side: int = 512
) -> Bundle:
    """A bundle that adds 100 times the fidelity to every level."""
    folder.mkdir(parents=True)
    shape: list[str | int | None] = ["n", side, side, 3]
    nodes = [
        helper.make_node("Cast", ["in"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["fidelity", "hundred"], ["more"]),
        helper.make_node("Add", ["f", "more"], ["g"]),
        helper.make_node("Clip", ["g", "low", "high"], ["h"]),
        helper.make_node("Cast", ["h"], ["out"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "lighter",
        [
            helper.make_tensor_value_info("in", TensorProto.UINT8, shape),
            helper.make_tensor_value_info("fidelity", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, shape)],
        [
            helper.make_tensor("hundred", TensorProto.FLOAT, [], [100.0]),
            helper.make_tensor("low", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("high", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "uint8.onnx")
    (folder / "weights.safetensors").write_bytes(b"none")
    files = {
        path.name: File(name=path.name, sha256=sha256_of(path), size=path.stat().st_size)
        for path in folder.iterdir()
    }
    manifest = Manifest(
        name=name,
        title="adds the fidelity",
        task=task,
        scale=1,
        graphs={"uint8": files["uint8.onnx"]},
        weights=files["weights.safetensors"],
        overlap=0,
        fixed_size=side,
        extra=(ExtraInput(name="fidelity", default=0.5),),
    )
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(folder)


def test_a_bundle_is_a_face_network(tmp_path: Path) -> None:
    bundle = add_fidelity(tmp_path / "lighter")
    with BundleNetwork(bundle, backend="onnx") as network:
        assert network.has_fidelity
        assert (network.backend, network.device) == ("onnx", "cpu")
        faces = np.full((3, SIDE, SIDE, 3), 50, np.uint8)
        assert (network(faces, 0.2) == 70).all()
    face = face_at(40, 40)
    with FaceRestorer(bundle, detector=finds(face), fidelity=1, backend="onnx") as restorer:
        assert restorer(np.full((80, 80, 3), 50, np.uint8))[40, 40, 0] == 150


def test_what_is_no_face_network_is_refused(tmp_path: Path, compact: Bundle) -> None:
    with pytest.raises(OptionError, match=r"compact is not a face network .*gfpgan-v1.4"):
        FaceRestorer(compact, detector=finds())
    with pytest.raises(OptionError, match="realesrgan-x4plus is not a face network"):
        FaceRestorer("RealESRGAN_x4plus", detector=finds())
    with pytest.raises(OptionError, match="faces of 256 pixels"):
        FaceRestorer(add_fidelity(tmp_path / "small", side=256), detector=finds())
    with pytest.raises(OptionError, match="`model` must be a name"):
        FaceRestorer(7, detector=finds())  # type: ignore[arg-type]
    with pytest.raises(NotExportedError, match=r"resharp export|not yet"):
        FaceRestorer("gfpgan-1.4", detector=finds(), store=tmp_path / "none")


def test_anime_models_refuse_faces(compact: Bundle, tmp_path: Path) -> None:
    text = json.loads((compact.folder / "manifest.json").read_text(encoding="utf-8"))
    shutil.copytree(compact.folder, tmp_path / "anime")
    text["name"], text["title"] = "toons", "small model for Anime videos"
    (tmp_path / "anime" / "manifest.json").write_text(json.dumps(text), encoding="utf-8")
    with (
        Upscaler(tmp_path / "anime", backend="onnx") as upscaler,
        pytest.raises(OptionError, match="toons is for anime"),
    ):
        FaceRestorer(same, upscaler=upscaler, detector=finds())


def test_a_detector_that_is_not_there_or_damaged_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"run 'resharp models fetch yunet'$"):
        FaceRestorer(same)
    with pytest.raises(CheckpointError, match=f"fetch yunet' with `weights_dir`={tmp_path}$"):
        detector_file(tmp_path)
    FaceRestorer(same, aligned=True)  # needs none
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / YUNET.name).write_bytes(b"<html>not found</html>")
    with pytest.raises(ChecksumError, match="resharp models fetch yunet"):
        FaceRestorer(same)


@pytest.fixture
def run(compact: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``resharp upscale`` in an empty folder with the tiny x2 model."""
    add_fidelity(tmp_path / "lighter")
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str]:
        common = ["--backend", "onnx", "-m", str(compact.folder)]
        done = CliRunner().invoke(main, ["upscale", *args, *common])
        return done.exit_code, done.output

    return call


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--fidelity", "0.5"), "--fidelity requires a face network"),
        (("--face-weight", "0.5"), "--face-weight requires a face network"),
        (("--only-center",), "--only-center requires a face network"),
        (("--aligned",), "--aligned requires a face network"),
        (("--face", "lighter", "--fidelity", "1.5"), "--fidelity must be between 0 and 1, got 1.5"),
        (("--face", "lighter", "--face-weight", "2"), "weight of faces must be between 0 and 1"),
        (("--face", "lighter", "--aligned", "--only-center"), "one face"),
        (("--face", "lighter", "--aligned", "--scale", "2"), "leave out --scale"),
        (("--face", "realesrgan-x4plus"), "realesrgan-x4plus is not a face network"),
        (("--face", "gfpgan-9.9"), "no model is called 'gfpgan-9.9'"),
        (("--face", "./lighter"), "resharp models fetch yunet"),
    ],
)
def test_the_command_refuses(
    run: Any, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], words: str
) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(Path.cwd() / "home"))
    if "lighter" not in str(args):
        monkeypatch.setattr("resharp.faces.face_restorer.YuNet", lambda folder: finds())
    assert cv2.imwrite("a.png", draw(20, 30))
    code, text = run("a.png", "-o", "out", *args)
    assert code == 1
    assert words in text
    assert not Path("out").exists()


def test_the_command_restores_aligned_faces(run: Any) -> None:
    assert cv2.imwrite("a.png", np.full((SIDE, SIDE, 3), 50, np.uint8))
    code, text = run(
        "a.png", "-o", "b.png", "--face", "./lighter", "--aligned", "--fidelity", "0.3"
    )
    assert code == 0, text
    assert "1 restored, 1 face with lighter, onnx on cpu: b.png (512x512)" in text
    result = cv2.imread("b.png")
    assert result is not None
    assert (result == 80).all()


def test_the_command_counts_faces(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = (face_at(20, 20, 25), face_at(60, 20, 25))
    monkeypatch.setattr("resharp.faces.face_restorer.YuNet", lambda folder: finds(*faces))
    assert cv2.imwrite("a.png", draw(40, 80))
    code, text = run("a.png", "-o", "b.png", "--face", "./lighter", "--json")
    assert code == 0, text
    report = json.loads(text)
    assert report["face"] == {"model": "lighter", "backend": "onnx", "device": "cpu"}
    assert [result["faces"] for result in report["results"]] == [2]
    code, text = run("a.png", "-o", "c.png", "--face", "./lighter", "--only-center")
    assert "with compact, onnx on cpu, 1 face with lighter, onnx on cpu: c.png (160x80)" in text


def test_a_face_network_is_no_upscaler(run: Any) -> None:
    assert cv2.imwrite("a.png", draw(40, 80))
    done = CliRunner().invoke(main, ["upscale", "a.png", "-o", "o", "-m", "./lighter"])
    assert done.exit_code == 1
    assert "--face=lighter" in done.output


# The real detector on real photos

PEOPLE = {
    "valid/gb82_girl.png": 1,
    "train/skimage_astronaut.jpg": 1,
    "train/gb82_baby.jpg": 2,
    "train/maxhp_Pilots.jpg": 3,
    "train/maxod_dog-human.jpg": 1,
}
"""Photos, and how many faces of people they have; the last one has a dog's too."""


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet(WEIGHTS)


def photo(name: str) -> Array:
    picture = cv2.imread(str(PHOTOS.parent / name))
    assert picture is not None
    return picture


def nearest(face: Face, faces: tuple[Face, ...]) -> float:
    """Mean distance of the landmarks to those of the nearest face, in distances of the eyes."""
    gaps = [
        float(np.linalg.norm(face.landmarks - other.landmarks, axis=1).mean()) / face.eyes
        for other in faces
    ]
    return min(gaps, default=float("inf"))


def spun(picture: Array, degrees: float) -> tuple[Array, Array]:
    """The image rotated in a frame that holds all of it, and the map to it."""
    height, width = picture.shape[:2]
    side = int(np.hypot(height, width)) + 2
    turn = turned(degrees, SIDE, (side - 1) / 2, (side - 1) / 2)[:, :2]
    shift = np.full(2, (side - 1) / 2) - turn @ np.array([(width - 1) / 2, (height - 1) / 2])
    there = np.column_stack([turn, shift])
    return np.asarray(cv2.warpAffine(picture, there, (side, side), borderValue=(128,) * 3)), there


@pytest.mark.shared
@needs_faces
@pytest.mark.parametrize("name", PEOPLE)
def test_the_faces_of_photos_are_found(yunet: YuNet, name: str) -> None:
    faces = yunet(photo(name))
    assert len(faces) == PEOPLE[name]
    for face in faces:
        there = to_crop(face.landmarks)
        off = np.linalg.norm(apply(there, face.landmarks) - TEMPLATE, axis=1)
        assert off.mean() < 30  # pixels of 512: it is a face, and not on its head
        assert abs(np.rad2deg(np.arctan2(there[1, 0], there[0, 0]))) < 35


@pytest.mark.slow
@pytest.mark.shared
@needs_faces
@pytest.mark.parametrize("degrees", [30, 45, 90, 135, 180, 270, 330])
def test_turned_faces_are_found_with_their_landmarks(yunet: YuNet, degrees: int) -> None:
    for name in ("valid/gb82_girl.png", "train/skimage_astronaut.jpg", "train/maxhp_Pilots.jpg"):
        upright = yunet(photo(name))
        picture, there = spun(photo(name), degrees)
        found = yunet(picture)
        assert len(found) == len(upright)
        for face in upright:
            moved = Face(landmarks=apply(there, face.landmarks), score=1)
            assert nearest(moved, found) < 0.15


@pytest.mark.slow
@pytest.mark.shared
@needs_faces
@pytest.mark.parametrize("scale", [0.2, 0.5, 3, 5])
def test_small_and_large_faces_are_found(yunet: YuNet, scale: float) -> None:
    for name in ("valid/gb82_girl.png", "train/skimage_astronaut.jpg"):
        picture = photo(name)
        upright = yunet(picture)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how))
        found = yunet(resized)
        assert len(found) == len(upright)
        moved = Face(landmarks=apply(scaling(scale, scale), upright[0].landmarks), score=1)
        assert nearest(moved, found) < 0.15


@pytest.mark.shared
@needs_faces
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (31, 33), (700, 5)])
def test_tiny_and_narrow_pictures_have_no_face(yunet: YuNet, shape: tuple[int, int]) -> None:
    assert yunet(np.zeros(shape, np.uint8)) == ()


@pytest.mark.shared
@needs_faces
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_depths_and_gray_find_the_same(yunet: YuNet, dtype: str) -> None:
    picture = photo("train/skimage_astronaut.jpg")
    face = yunet(picture)[0]
    assert nearest(face, yunet(as_dtype(picture, dtype))) < 0.02
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
    assert nearest(face, yunet(as_dtype(gray, dtype))) < 0.1


@pytest.mark.slow
@pytest.mark.shared
@needs_faces
def test_a_crowd_of_a_hundred(yunet: YuNet) -> None:
    picture = photo("train/skimage_astronaut.jpg")[0:230, 110:340]
    small = np.asarray(cv2.resize(picture, (90, 90), interpolation=cv2.INTER_AREA))
    crowd = np.tile(small, (10, 10, 1))
    restored = FaceRestorer(brighter, detector=yunet).detailed(crowd)
    assert restored.count == 100


@pytest.mark.slow
@pytest.mark.shared
@needs_faces
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("name", PEOPLE)
def test_a_photo_pasted_into_itself_stays_itself(yunet: YuNet, name: str, scale: int) -> None:
    picture = photo(name)
    restorer = FaceRestorer(same, detector=yunet, scale=scale)
    plain = FaceRestorer(same, detector=finds(), scale=scale)(picture)
    out = restorer(picture)
    changed = (out != plain).any(axis=2)
    error = np.mean((out[changed].astype(np.float64) - plain[changed]) ** 2)
    assert 10 * np.log10(255**2 / error) > 35


@pytest.mark.shared
@needs_faces
def test_threads_share_a_detector(yunet: YuNet) -> None:
    pictures = [photo(name) for name in ("valid/gb82_girl.png", "train/skimage_astronaut.jpg")] * 2
    expected = [yunet(picture)[0].landmarks for picture in pictures]
    found: dict[int, Array] = {}

    def work(index: int) -> None:
        found[index] = yunet(pictures[index])[0].landmarks

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, landmarks in enumerate(expected):
        np.testing.assert_array_equal(found[index], landmarks)
