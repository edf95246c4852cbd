"""XMP packets after restoring: read with ElementTree, and compared byte for byte elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp.images import xmp
from resharp.images.ifd import MalformedError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = {
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "mwg": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "note": "http://ns.adobe.com/xmp/note/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
SIZE = {"height": 1600, "width": 1800}
REMOVALS: tuple[Callable[[bytes], bytes], ...] = (
    xmp.without_gain_map,
    xmp.without_motion,
    xmp.without_extension,
    lambda packet: xmp.with_gain_map_length(packet, 9),
)


def packet(attributes: str = "", elements: str = "", quote: str = '"') -> bytes:
    """A packet as cameras write it, with a title that must survive."""
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in SPACES.items())
    text = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="{RDF}">\n'
        f'  <rdf:Description rdf:about="" {declared} {attributes}>\n'
        '   <dc:title>Über &amp; über &#x1F388; <!-- tiff:Orientation="6" --></dc:title>\n'
        f"{elements}\n"
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n" + " " * 20 + '<?xpacket end="w"?>'
    )
    return (text if quote == '"' else re.sub('="([^"<]*)"', r"='\1'", text)).encode()


def values(data: bytes) -> dict[str, list[str]]:
    """Values by prefix:name, whether attributes or elements."""
    prefixes = {uri: prefix for prefix, uri in SPACES.items()}
    found: dict[str, list[str]] = {}
    for element in ET.fromstring(data.decode().rstrip("\0")).iter():
        for name, value in ((element.tag, element.text or ""), *element.attrib.items()):
            uri, _, local = name.removeprefix("{").rpartition("}")
            if uri in prefixes:
                found.setdefault(f"{prefixes[uri]}:{local}", []).append(value)
    return found


def in_both_forms(**stated: Any) -> list[bytes]:
    """Properties as attributes with either quote, as elements, and with other prefixes."""
    names = {name.replace("_", ":"): value for name, value in stated.items()}
    attributes = packet(" ".join(f'{name}="{value}"' for name, value in names.items()))
    spaced = packet("\n\t".join(f'{name} = "{value}"' for name, value in names.items()))
    elements = packet(elements="\n".join(f"<{n}>{v}</{n}>" for n, v in names.items()))
    quoted = re.sub(rb'([\w:]+)="([^"<]*)"', rb"\1='\2'", attributes)
    renamed = elements
    for prefix in SPACES:
        renamed = re.sub(
            rb"([</ :])" + prefix.encode() + rb"([:=])", rb"\1ns_%b\2" % prefix.encode(), renamed
        )
    return [attributes, spaced, elements, quoted, renamed]


FORMS = range(5)
FORM_NAMES = ["attributes", "spaced", "elements", "quoted", "renamed"]


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_orientation_and_sizes_are_set(form: int) -> None:
    before = in_both_forms(
        tiff_Orientation=6, tiff_ImageWidth=400, tiff_ImageLength=600,
        exif_PixelXDimension=400, exif_PixelYDimension=600, xmp_Rating=5,
    )[form]  # fmt: skip
    after = xmp.corrected(before, **SIZE)
    found = values(after)
    assert found["tiff:Orientation"] == ["1"]
    assert found["tiff:ImageWidth"] == found["exif:PixelXDimension"] == ["1800"]
    assert found["tiff:ImageLength"] == found["exif:PixelYDimension"] == ["1600"]
    assert found["xmp:Rating"] == ["5"]
    # Six values of three characters became four, the orientation kept its length: nothing else.
    assert len(after) == len(before) + 4
    assert re.sub(rb"\d+", b"", after) == re.sub(rb"\d+", b"", before)


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_a_panorama_is_scaled(form: int) -> None:
    before = in_both_forms(
        GPano_FullPanoWidthPixels=1200, GPano_FullPanoHeightPixels=600,
        GPano_CroppedAreaImageWidthPixels=600, GPano_CroppedAreaImageHeightPixels=400,
        GPano_CroppedAreaLeftPixels=300, GPano_CroppedAreaTopPixels=100,
        GPano_PoseHeadingDegrees="90.5", GPano_ProjectionType="equirectangular",
    )[form]  # fmt: skip
    after = xmp.corrected(before, **SIZE)
    found = values(after)
    assert found["GPano:FullPanoWidthPixels"] == ["3600"]
    assert found["GPano:FullPanoHeightPixels"] == ["2400"]
    assert found["GPano:CroppedAreaImageWidthPixels"] == ["1800"]
    assert found["GPano:CroppedAreaImageHeightPixels"] == ["1600"]
    assert found["GPano:CroppedAreaLeftPixels"] == ["900"]
    assert found["GPano:CroppedAreaTopPixels"] == ["400"]
    assert found["GPano:PoseHeadingDegrees"] == ["90.5"]
    assert xmp.corrected(after, **SIZE) == after


def test_a_whole_panorama_states_the_size_itself() -> None:
    before = packet('GPano:FullPanoWidthPixels="600" GPano:FullPanoHeightPixels="400"')
    found = values(xmp.corrected(before, **SIZE))
    assert found["GPano:FullPanoWidthPixels"] == ["1800"]
    assert found["GPano:FullPanoHeightPixels"] == ["1600"]


DIMENSIONS = {
    "attributes": '<mwg:AppliedToDimensions stDim:w="{w}" stDim:h="{h}" stDim:unit="{unit}"/>',
    "resource": '<mwg:AppliedToDimensions rdf:parseType="Resource"><stDim:w>{w}</stDim:w>'
    "<stDim:h>{h}</stDim:h><stDim:unit>{unit}</stDim:unit></mwg:AppliedToDimensions>",
    "description": "<mwg:AppliedToDimensions><rdf:Description stDim:w='{w}' stDim:h='{h}' "
    "stDim:unit='{unit}'/></mwg:AppliedToDimensions>",
}


@pytest.mark.parametrize("form", DIMENSIONS)
def test_regions_apply_to_the_new_dimensions(form: str) -> None:
    text = '<mwg:Regions rdf:parseType="Resource">{}</mwg:Regions><dc:x stDim:w="7"/>'
    before = packet(elements=text.format(DIMENSIONS[form].format(w=600, h=400, unit="pixel")))
    after = xmp.corrected(before, **SIZE)
    assert values(after)["stDim:w"] == ["1800", "7"]
    assert values(after)["stDim:h"] == ["1600"]
    other = packet(elements=text.format(DIMENSIONS[form].format(w=600, h=400, unit="inch")))
    assert xmp.corrected(other, **SIZE) == other


def test_image_regions_in_pixels_are_scaled() -> None:
    boundary = (
        '<ext:RegionBoundary ext:rbUnit="{}" ext:rbX="10" ext:rbY="20.5" ext:rbW="30" ext:rbH="4"/>'
    )
    sizes = 'tiff:ImageWidth="600" tiff:ImageLength="400"'
    after = values(xmp.corrected(packet(sizes, boundary.format("pixel")), **SIZE))
    assert [after[f"ext:rb{side}"] for side in "XYWH"] == [["30"], ["82"], ["90"], ["16"]]
    relative = values(xmp.corrected(packet(sizes, boundary.format("relative")), **SIZE))
    assert [relative[f"ext:rb{side}"] for side in "XYWH"] == [["10"], ["20.5"], ["30"], ["4"]]


def test_what_is_in_pixels_of_the_old_image_is_scaled_or_removed() -> None:
    focal = 'exif:FocalPlaneXResolution="4000000/1000" exif:FocalPlaneYResolution="3000/1" '
    listed = "<rdf:Seq><rdf:li>1</rdf:li><rdf:li>2</rdf:li></rdf:Seq>"
    area = f"<exif:SubjectArea>{listed}</exif:SubjectArea>"
    sizes = 'exif:PixelXDimension="600" exif:PixelYDimension="400"'
    found = values(xmp.corrected(packet(focal + sizes, area), **SIZE))
    assert found["exif:FocalPlaneXResolution"] == ["12000/1"]
    assert found["exif:FocalPlaneYResolution"] == ["12000/1"]
    assert "exif:SubjectArea" not in found
    unknown = values(xmp.corrected(packet(focal, area), **SIZE))
    assert not any(name.startswith("exif:") for name in unknown)
    turned = 'tiff:Orientation="8" exif:PixelXDimension="400" exif:PixelYDimension="600" '
    found = values(xmp.corrected(packet(turned + focal), **SIZE))
    assert found["exif:FocalPlaneXResolution"] == ["12000/1"]


def test_thumbnails_are_removed() -> None:
    thumbnails = (
        "<xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType='Resource'><stDim:w>9</stDim:w>"
        "<tiff:ImageWidth>160</tiff:ImageWidth></rdf:li></rdf:Alt></xmp:Thumbnails>"
    )
    after = xmp.corrected(packet('xmp:Rating="5"', thumbnails), **SIZE)
    assert after == packet('xmp:Rating="5"')


def test_text_in_comments_values_and_other_namespaces_is_left_alone() -> None:
    before = packet(
        "dc:a='tiff:Orientation=\"6\"'",
        '<x:y xmlns:x="http://example.org/" xmlns:tiff="http://example.org/t/" '
        'tiff:Orientation="6"><tiff:ImageWidth>9</tiff:ImageWidth></x:y>'
        "<dc:b><![CDATA[<tiff:Orientation>6</tiff:Orientation>]]></dc:b>",
    )
    assert xmp.corrected(before, **SIZE) == before


def container(*items: str, form: str = "attributes") -> str:
    shapes = {
        "attributes": '<rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="image/jpeg" '
        'Item:Semantic="{}" Item:Length="426"/></rdf:li>',
        "elements": '<rdf:li><Container:Item rdf:parseType="Resource"><Item:Semantic>{}'
        "</Item:Semantic><Item:Length>426</Item:Length></Container:Item></rdf:li>",
    }
    listed = "".join(shapes[form].format(item) for item in items)
    return f"<Container:Directory><rdf:Seq>{listed}</rdf:Seq></Container:Directory>"


@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_a_gain_map_is_announced_or_not(form: str) -> None:
    before = packet('hdrgm:Version="1.0"', container("Primary", "GainMap", form=form))
    assert xmp.announces_gain_map(before)
    after = xmp.without_gain_map(before)
    assert not xmp.announces_gain_map(after)
    assert after == packet("").replace(b" >", b">")
    listed = packet("", container("Primary", "GainMap", form=form))
    assert xmp.announces_gain_map(listed)
    assert not xmp.announces_gain_map(packet("", container("Primary", "MotionPhoto", form=form)))
    assert xmp.announces_gain_map(packet("", "<hdrgm:Version>1.0</hdrgm:Version>"))


@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_other_items_of_the_directory_stay(form: str) -> None:
    three = container("Primary", "GainMap", "MotionPhoto", form=form)
    motion = 'GCamera:MotionPhoto="1" GCamera:MotionPhotoPresentationTimestampUs="5" '
    other = 'GCamera:Other="1" xmp:MotionPhoto="a title" '
    before = packet(motion + other + 'hdrgm:Version="1.0"', three)
    still = xmp.without_motion(before)
    assert values(still)["Item:Semantic"] == ["Primary", "GainMap"]
    assert values(still)["GCamera:Other"] == ["1"]
    assert [name for name in values(still) if "Motion" in name] == ["xmp:MotionPhoto"]
    flat = xmp.without_gain_map(before)
    assert values(flat)["Item:Semantic"] == ["Primary", "MotionPhoto"]
    assert values(flat)["GCamera:MotionPhoto"] == ["1"]
    neither = values(xmp.without_gain_map(still))
    assert not any(name.startswith(("Container:", "Item:", "hdrgm:")) for name in neither)


@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_only_the_gain_map_gets_its_new_length(form: str) -> None:
    before = packet("", container("Primary", "GainMap", "MotionPhoto", form=form))
    after = xmp.with_gain_map_length(before, 12_345)
    assert values(after)["Item:Length"] == ["426", "12345", "426"]
    assert len(after) == len(before) + 2


@pytest.mark.parametrize("name", ["MicroVideo", "MicroVideoOffset", "MotionPhotoVersion"])
@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_no_video_is_announced(name: str, form: int) -> None:
    before = in_both_forms(**{f"GCamera_{name}": 1, "xmp_Rating": 5})[form]
    assert set(values(xmp.without_motion(before))) == {"dc:title", "xmp:Rating"}


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_no_extension_is_announced(form: int) -> None:
    before = in_both_forms(note_HasExtendedXMP="0123456789ABCDEF", xmp_Rating=5)[form]
    assert set(values(xmp.without_extension(before))) == {"dc:title", "xmp:Rating"}


def test_what_needs_no_edit_is_the_same_packet() -> None:
    before = packet('xmp:Rating="5"')
    assert xmp.corrected(before, **SIZE) == before
    assert not xmp.announces_gain_map(before)
    for work in REMOVALS:
        assert work(before) == before


def test_padding_behind_the_packet_stays() -> None:
    before = packet('tiff:Orientation="6"') + bytes(9)
    assert xmp.corrected(before, **SIZE) == packet('tiff:Orientation="1"') + bytes(9)
    marked = b"\xef\xbb\xbf" + packet('tiff:Orientation="6"')
    assert xmp.corrected(marked, **SIZE) == b"\xef\xbb\xbf" + packet('tiff:Orientation="1"')


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_becomes_utf8_when_it_is_edited(code: str) -> None:
    before = packet('tiff:Orientation="6"').decode().encode(code)
    assert xmp.corrected(before, **SIZE) == packet('tiff:Orientation="1"')
    same = packet().decode().encode(code)
    assert xmp.corrected(same, **SIZE) == same


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]>' + packet('tiff:Orientation="6"')
BROKEN = [
    b"",
    b"not XML",
    packet('tiff:Orientation="6"')[:-60],
    packet('tiff:Orientation="6" tiff:Orientation="6"'),
    packet('unbound:Orientation="6"'),
    packet('tiff:Orientation="6"').replace("Ü".encode(), b"\xdc"),
    b"\xff\xfe" + packet(),
    ENTITIES,
    packet(elements="<dc:a>" * 300 + "</dc:a>" * 300),
]


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_a_malformed_packet_is_left_or_refused(data: bytes) -> None:
    assert xmp.corrected(data, **SIZE) == data
    assert not xmp.announces_gain_map(data) or b"hdr-gain-map" in data
    for work in REMOVALS:
        with pytest.raises(MalformedError):
            work(data)


def test_a_malformed_packet_may_announce_a_gain_map() -> None:
    assert xmp.announces_gain_map(packet('hdrgm:Version="1.0"')[:-60])


HOSTILE = {
    "elements": packet(elements="<dc:a/>" * 200_000),
    "properties": packet(elements="<tiff:Orientation>6</tiff:Orientation>" * 100_000),
    "attributes": packet(" ".join(f'dc:a{n}="1"' for n in range(100_000))),
    "items": packet("", container(*["Other"] * 2_000) * 2),
    "directories": packet("", container("Other") * 3_000),
    "spaces": packet(" " * 3_000_000),
    "depth": packet(elements="<dc:a>" * 1_000_000),
    "namespaces": packet(elements="".join(f'<dc:a xmlns:n{n}="u:{n}"/>' for n in range(50_000))),
    "size": packet(elements=" " * 20_000_000),
}
REFUSED = {"properties", "depth", "size"}


@pytest.mark.parametrize("kind", HOSTILE)
def test_large_packets_end(kind: str) -> None:
    """Work in proportion to the size: a nested loop over any of these would take minutes."""
    data = HOSTILE[kind]
    assert xmp.corrected(data, **SIZE) == data
    if kind in REFUSED:
        with pytest.raises(MalformedError):
            xmp.without_gain_map(data)
    else:
        assert xmp.without_gain_map(data) == data


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_packets_raise_nothing_else(data: st.DataObject) -> None:
    sample = bytearray(
        packet(
            'hdrgm:Version="1" tiff:Orientation="6" tiff:ImageWidth="6"',
            container("Primary", "GainMap") + DIMENSIONS["attributes"],
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sample) - 1))
        sample[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    broken = bytes(sample)
    well_formed = True
    try:
        ET.fromstring(broken)
    except (ET.ParseError, ValueError):
        well_formed = False
    after = xmp.corrected(broken, **SIZE)
    if well_formed:
        ET.fromstring(after)
    for work in REMOVALS:
        try:
            ET.fromstring(work(broken))
        except MalformedError:
            continue
