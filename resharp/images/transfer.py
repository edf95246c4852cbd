"""How metadata go into a format: as they are, in another form, or not at all, with a note."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resharp.images import exif, photoshop
from resharp.images.formats import Format
from resharp.images.ifd import MalformedError
from resharp.images.picture import Metadata, Pixels

WORDS = {
    "exif": "the EXIF data",
    "icc": "the ICC profile",
    "xmp": "the XMP data",
    "photoshop": "the IPTC data",
    "text": "comments and texts",
    "density": "the resolution",
    "gain_map": "the gain map",
}
"""Fields of :class:`Metadata`, as notes call them."""
_MOST = 1e7
"""Pixels per inch."""


KINDS = (
    *("exif", "maker_notes", "icc", "xmp", "photoshop", "text", "density", "color", "gain_map"),
    *("own", "alpha", "deep", "float", "thumbnail", "frames"),
)
"""What files can hold: fields of :class:`Metadata`, and of the pixels."""


def way(kind: str, form: Format) -> str:
    """Return how a format stores one of :data:`KINDS`; the documentation has a table of it.

    Returns:
        ``yes``: as it is; ``exif`` or ``icc``: in an EXIF block or as an ICC profile that is made
        for it; ``srgb``, ``white``, ``12 bits``, ``8 bits``: by conversion of the pixels, with a
        note; ``note``: not at all, with a note; ``removed``: not at all, because it would be wrong;
        ``refused``: the file is not read.
    """
    if kind in form.carries:
        return "yes"
    if kind in ("text", "density") and "exif" in form.carries:
        return "exif"
    if kind == "color":
        return "icc" if "icc" in form.carries else "srgb"
    if kind == "maker_notes":  # only their maker can move them to another position
        return "yes" if "exif" in form.carries and form.name != "tiff" else "note"
    if kind == "own":
        return "yes" if form.name == "png" else "note"
    if kind == "alpha":
        return "yes" if form.alpha else "white"
    if kind in ("deep", "float"):
        best = {"uint8": "8 bits", "uint16": "16 bits", "float32": "yes"}[form.dtypes[-1]]
        best = "12 bits" if form.name == "avif" else best
        return "yes" if kind == "deep" and best == "16 bits" else best
    return {"thumbnail": "removed", "frames": "refused"}.get(kind, "note")


def fit(pixels: Pixels, metadata: Metadata, form: Format) -> tuple[Pixels, Metadata, list[str]]:
    """Return pixels and metadata as ``form`` can store them, and a note for each loss."""
    notes: list[str] = []
    height, width = pixels.shape[:2]
    metadata = _sound(metadata, height, width, notes)
    if metadata.color:
        pixels, metadata = _fit_color(pixels, metadata, form, notes)
    # WebP has no gray mode: decoders see color, for which a gray profile would be wrong.
    space = b"GRAY" if pixels.ndim == 2 and form.name != "webp" else b"RGB "
    if metadata.icc and way("icc", form) == "yes" and (why := _icc_misfit(metadata.icc, space)):
        notes.append(f"the ICC profile is left out: {why}")
        metadata = replace(metadata, icc=None)
    for kind in WORDS:
        if getattr(metadata, kind) and way(kind, form) == "note":
            words = kind
            if kind == "photoshop" and photoshop.iptc(metadata.photoshop or b"") is None:
                words = "the Photoshop data"
            notes.append(cannot_hold(form.label, words))
            nothing: Any = () if kind == "text" else None
            metadata = replace(metadata, **{kind: nothing})
    if metadata.text or metadata.density:
        metadata = _fit_text_and_density(metadata, form, notes)
    foreign = [name.decode("latin-1") for origin, name, _ in metadata.own if origin == "png"]
    if foreign and form.name != "png":
        names = ", ".join(dict.fromkeys(foreign))
        notes.append(cannot_hold(form.label, f"the data of other programs (PNG chunks {names})"))
    own = tuple(block for block in metadata.own if block[0] == form.name)
    own = own if form.name != "jpeg" or metadata.gain_map else ()
    metadata = replace(metadata, own=own, lost=())
    if metadata.xmp or metadata.gain_map:
        metadata = _with_true_xmp(metadata, height, width, notes)
    return pixels, metadata, notes


def _sound(metadata: Metadata, height: int, width: int, notes: list[str]) -> Metadata:
    """Return metadata that are true of these pixels, without values that no file can hold."""
    text, density, blocks = metadata.text, metadata.density, metadata.photoshop
    if density and not all(0 < side < _MOST for side in density[:2]):
        notes.append(f"the resolution of {density.x} x {density.y} is left out: it is not valid")
        density = None
    if text:
        text = tuple((keyword, content.replace("\0", " ")) for keyword, content in text)
    if blocks:
        blocks = photoshop.sound(blocks, notes)
    block = metadata.exif
    if block:
        try:
            block = exif.resized(exif.upright(exif.payload(block)), height, width)
        except MalformedError as exc:
            notes.append(f"the EXIF data is left out: it is damaged ({exc})")
            block = None
    return replace(metadata, text=text, density=density, photoshop=blocks, exif=block)


def _with_true_xmp(metadata: Metadata, height: int, width: int, notes: list[str]) -> Metadata:
    """Return metadata whose XMP packet and gain map agree with each other and with the pixels."""
    from resharp.images import xmp

    packet, gain_map = metadata.xmp, metadata.gain_map
    if packet:
        try:
            packet = xmp.without_motion(xmp.without_extension(xmp.corrected(packet, height, width)))
            if gain_map:
                packet = xmp.with_gain_map_length(packet, len(gain_map))
            else:
                packet = xmp.without_gain_map(packet)
        except ValueError as exc:
            notes.append(f"the XMP data is left out: it is damaged ({exc})")
            packet = None
    if gain_map and not metadata.own and not (packet and xmp.announces_gain_map(packet)):
        notes.append("the gain map is left out: nothing in the metadata announces it")
        gain_map = None
    return replace(metadata, xmp=packet, gain_map=gain_map)


def cannot_hold(what: str, kind: str) -> str:
    """Return a note about one of :data:`WORDS`, or another thing, that ``what`` cannot hold."""
    are, them = ("are", "them") if kind == "text" else ("is", "it")
    return f"{WORDS.get(kind, kind)} {are} left out: {what} cannot hold {them}"


def _fit_color(
    pixels: Pixels, metadata: Metadata, form: Format, notes: list[str]
) -> tuple[Pixels, Metadata]:
    """Express colors that are stated without an ICC profile in the format's own way."""
    from resharp.images import color_signal

    color = metadata.color
    if color is None or form.name == "png":
        return pixels, metadata
    if color.light:
        notes.append(cannot_hold(form.label, "the HDR mastering metadata (display brightness)"))
    if metadata.icc and not color.cicp:  # it has precedence over gAMA, cHRM and sRGB
        return pixels, replace(metadata, color=None)
    if metadata.icc:
        notes.append("the ICC profile is left out: the color tags (cICP) have precedence")
    if way("color", form) == "yes" and color.cicp:
        return pixels, replace(metadata, icc=None, color=replace(color, light=()))
    metadata = replace(metadata, icc=None, color=None)
    if color.is_srgb:
        return pixels, metadata
    try:
        if color.is_hdr or way("color", form) == "srgb":
            name, converted = color_signal.describe(color), color_signal.to_srgb(pixels, color)
            notes.append(f"the colors are converted to sRGB: {form.label} cannot hold {name}")
            return converted, metadata
        gray = pixels.ndim == 2 and form.name != "webp"
        return pixels, replace(metadata, icc=color_signal.icc_profile(color, gray=gray))
    except ValueError as exc:
        notes.append(f"the colors are taken for sRGB: {exc}")
        return pixels, metadata


def _fit_text_and_density(metadata: Metadata, form: Format, notes: list[str]) -> Metadata:
    """Put texts and resolution into the place that the format has for them, or into EXIF."""
    text, density, block = metadata.text, metadata.density, metadata.exif
    if density and not density.inches and form.name in ("bmp", "webp", "avif"):
        notes.append(cannot_hold(form.label, "the pixel aspect ratio"))
        density = None
    inner: tuple[tuple[str, str], ...] = ()
    if way("text", form) == "exif" or (form.name == "tiff" and block and _describes(block)):
        inner = text
    elif form.name == "jpeg":  # AUTOMATIC1111 looks for these in EXIF
        size = len(block or b"")
        inner = tuple(t for t in text if t[0] == "parameters" and size + 2 * len(t[1]) < 60_000)
    dots = density[:2] if density and way("density", form) == "exif" else None
    try:
        if inner and block and exif.comments(block):
            if form.name != "jpeg":
                notes.append(f"{cannot_hold(form.label, 'text')} next to a comment in EXIF")
                text = ()
            inner = ()
        words, text = joined(inner) if inner else None, tuple(t for t in text if t not in inner)
        dots = None if block and exif.density(block) else dots
        block = exif.extended(block, words, dots) if inner or dots else block
    except MalformedError:
        notes.append("comments, texts and resolution are left out: the EXIF data is damaged")
        text = ()
    several = any(keyword != "Comment" for keyword, _ in text)  # else JPEG has them one by one
    if text and (form.name == "tiff" or (form.name != "png" and several)):
        text = (("Comment", joined(text)),)
    density = None if way("density", form) == "exif" else density
    return replace(metadata, exif=block, text=text, density=density)


def _describes(block: bytes) -> bool:
    """Return whether a sound EXIF block has an image description."""
    from resharp.images import ifd

    return ifd.DESCRIPTION in ifd.Page(block).values


def joined(text: tuple[tuple[str, str], ...]) -> str:
    """Return several texts as one, with their keywords; a single text as it is."""
    if len(text) == 1:
        return text[0][1]
    return "\n".join(f"{keyword}: {content}" for keyword, content in text)


def _icc_misfit(profile: bytes, space: bytes) -> str:
    """Return why a profile does not suit this color space; empty if it does (ICC.1 7.2)."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return "it is damaged"
    if int.from_bytes(profile[:4], "big") != len(profile):
        return f"it is {len(profile)} bytes long but states another length"
    if profile[16:20] != space:
        names = (profile[16:20].decode("latin-1").strip(), space.decode().strip())
        return "it is for {} images, but this one is {}".format(*names)
    return ""
