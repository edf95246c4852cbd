"""The catalogue's data, and names."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from resharp.errors import UnknownModelError
from resharp.weights import ModelEntry, catalogue, find, inspect, kebab, lookup, nearest
from resharp.weights.catalogue import Catalogue
from resharp.weights.entry import BUILTIN
from tests.shared import ANIMEVIDEO, needs_animevideo

PARAMETERS = {
    "RRDBNet": {"num_in_ch", "num_out_ch", "num_feat", "num_block", "num_grow_ch", "scale"},
    "SRVGGNetCompact": {
        "num_in_ch",
        "num_out_ch",
        "num_feat",
        "num_conv",
        "upscale",
        "act_type",
    },
    "SwinIR": {
        "upscale",
        "in_chans",
        "img_size",
        "window_size",
        "img_range",
        "depths",
        "embed_dim",
        "num_heads",
        "mlp_ratio",
        "upsampler",
        "resi_connection",
    },
}
ENTRIES = list(catalogue().values())


def raw() -> dict[str, Any]:
    text = files("resharp.weights").joinpath("catalogue.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def test_hashes_are_unique_and_have_a_source() -> None:
    hashes = [entry.sha256 for entry in ENTRIES if entry.sha256]
    assert len(hashes) == 28
    assert len(set(hashes)) == len(hashes)
    for entry in ENTRIES:
        assert (entry.sha256 is None) == (entry.hash_sources == 0), entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_complete(entry: ModelEntry) -> None:
    assert entry.urls
    assert all(url.startswith("https://") for url in entry.urls)
    assert entry.license != "unknown"
    assert set(entry.parameters) == PARAMETERS.get(entry.architecture, set(entry.parameters))
    stated = entry.parameters.get("scale", entry.parameters.get("upscale", entry.scale))
    assert stated == entry.scale
    if entry.architecture == "SwinIR":
        assert len(tuple_of(entry, "depths")) == len(tuple_of(entry, "num_heads"))


def tuple_of(entry: ModelEntry, name: str) -> tuple[int, ...]:
    value = entry.parameters[name]
    assert isinstance(value, tuple)
    return value


def test_limited_licenses_have_terms() -> None:
    for entry in ENTRIES:
        if "LicenseRef" in entry.license:
            assert entry.terms is not None, entry.name
            assert "non-commercial" in entry.terms
    assert find("codeformer").terms
    assert all(find(f"gfpgan-{v}").terms for v in ("v1.3", "v1.4", "clean-v1"))


def test_blend_is_between_twins() -> None:
    general = find("realesr-general-x4v3")
    assert general.blend is not None
    assert find(general.blend).parameters == general.parameters


@needs_animevideo
def test_official_file_matches_its_entry() -> None:
    entry = find("realesr-animevideov3")
    assert inspect(entry, ANIMEVIDEO.parent).state == "ok"


def test_shared_yunet_matches_its_entry() -> None:
    entry = find("yunet")
    if not (ANIMEVIDEO.parent / entry.file).is_file():
        pytest.skip(f"no {entry.file}")
    assert inspect(entry, ANIMEVIDEO.parent).state == "ok"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("realesrgan-x4plus", "realesrgan-x4plus"),
        ("RealESRGAN_x4plus", "realesrgan-x4plus"),
        ("RealESRGAN_x4plus.pth", "realesrgan-x4plus"),
        ("REALESRGAN_X4PLUS.PTH", "realesrgan-x4plus"),
        ("Real-ESRGAN x4plus", "realesrgan-x4plus"),
        ("RealESRGAN_x4plus_anime_6B", "realesrgan-x4plus-anime-6b"),
        ("RealESRGAN_x4", "realesrgan-x4-aiforever"),
        ("GFPGANv1.4", "gfpgan-v1.4"),
        ("CodeFormer", "codeformer"),
        ("face_detection_yunet_2023mar.onnx", "yunet"),
    ],
)
def test_find_knows_common_spellings(spelling: str, name: str) -> None:
    assert find(spelling).name == name


def test_every_name_file_and_stem_is_found() -> None:
    for entry in ENTRIES:
        for spelling in (entry.name, entry.file, entry.stem, *entry.aliases):
            assert find(spelling) is entry


def test_unknown_name_has_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="did you mean realesrgan-x4plus or"):
        find("realesrgan-x4plu")
    with pytest.raises(UnknownModelError, match=r"called 'zzz' \('resharp models list'"):
        find("zzz")
    assert nearest("Lama_Big", ["lama-big", "other"]) == ["lama-big"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("4x_Ultra Sharp.pth", "4x-ultra-sharp"),
        ("My..Model -.v1.3 (final).safetensors", "my-model-v1.3-final"),
        ("../evil", "evil"),
        ("__.pth", ""),
    ],
)
def test_kebab(text: str, name: str) -> None:
    assert kebab(text) == name
    assert kebab(name) == name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_survives_json(entry: ModelEntry) -> None:
    again = ModelEntry.from_json(json.loads(json.dumps(entry.to_json())))
    assert again == entry
    assert hash(again) == hash(entry)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Not Kebab"),
        ("title", ""),
        ("task", "magic"),
        ("architecture", "no class"),
        ("scale", 0),
        ("file", "../outside.pth"),
        ("file", "/outside.pth"),
        ("urls", ["https://example.org/other.pth"]),
        ("urls", ["ftp://example.org/RealESRGAN_x4plus.pth"]),
        ("bytes", 0),
        ("sha256", "4fa0"),
        ("sha256", "G" * 64),
        ("hash_sources", -1),
        ("state_key", "ema"),
        ("license", ""),
        ("color", "green"),
    ],
)
def test_bad_entry_is_refused(field: str, value: object) -> None:
    row = raw()["entries"][0] | {field: value}
    with pytest.raises(ValueError, match=field):
        ModelEntry.from_json(row)


def test_bad_catalogue_is_refused() -> None:
    data = raw()
    with pytest.raises(ValueError, match="schema must be 1, got 2"):
        Catalogue(data | {"schema": 2})
    with pytest.raises(ValueError, match="twice"):
        Catalogue(data | {"entries": [data["entries"][0]] * 2})
    clash = data["entries"][1] | {"aliases": ["realesrganx4plus"]}
    with pytest.raises(ValueError, match="or another"):
        Catalogue(data | {"entries": [data["entries"][0], clash]}).spelled("anything")
    alone = data["entries"][0] | {"blend": {"with": "nobody"}}
    with pytest.raises(ValueError, match="unknown nobody"):
        Catalogue(data | {"entries": [alone]})


def test_only_what_is_asked_for_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def from_json(row: dict[str, Any]) -> ModelEntry:
        read.append(row["name"])
        return real(row)

    real = ModelEntry.from_json
    monkeypatch.setattr(ModelEntry, "from_json", from_json)
    found = Catalogue(raw())
    assert (len(found), "codeformer" in list(found)) == (39, True)
    assert found.spelled("nobody") is None
    assert read == []
    for spelling in ("codeformer", "CodeFormer", "codeformer.pth"):
        assert found.spelled(spelling) is found["codeformer"]
    assert read == ["codeformer"]


def test_the_built_in_model_needs_no_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalogue, "spelled", lambda *_: pytest.fail("was read"))
    assert lookup(BUILTIN) is None


def test_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        catalogue()["new"] = ENTRIES[0]  # type: ignore[index]
