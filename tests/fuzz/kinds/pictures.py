"""Images of every format that can be read, with metadata, for ``resharp upscale``."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import cv2
import numpy as np

from tests.fuzz.layouts import structure
from tests.fuzz.model import MODEL, SCALE, USE, bundle, inside
from tests.fuzz.mutators import mutated
from tests.fuzz.trials import Material, Trial

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6" tiff:ImageWidth="40"/></rdf:RDF></x:xmpmeta>'
)


class Pictures:
    """One mutated image."""

    name = "pictures"
    share = 4.0

    def material(self) -> Material:
        """Return images of 9 to 64 pixels a side, some by OpenCV, some by Pillow."""
        return {**_by_opencv(), **_by_pillow(), **inside(MODEL, bundle())}

    def trial(self, random: Random, material: Material) -> Trial:
        """Restore a mutated image, alone or in a folder, sometimes in another format."""
        model = {name: data for name, data in material.items() if name.startswith(MODEL)}
        images = [name for name in material if name not in model]
        name, other = random.choice(images), random.choice(images)
        data = material[name]
        changed = mutated(random, data, material[other], *structure(data))
        file = f"in.{name.rpartition('.')[2]}"
        more: list[str] = []
        if random.random() < 0.3:
            more = ["--format", random.choice(("png", "jpg", "webp", "tif", "avif", "bmp"))]
        folder = random.random() < 0.2
        source = f"given/{file}" if folder else file
        return Trial(
            files={source: changed, **model},
            command=("upscale", "given" if folder else file, "-o", "out", *USE, *more),
            scale=SCALE,
            source=source,
            named=file,
            output="out",
            made="image",
        )


def _drawn(height: int, width: int, channels: int, dtype: Any = np.uint8) -> Any:
    """A smooth image with a few edges; the same in every run."""
    rows, columns = np.mgrid[:height, :width]
    planes = [(rows * (7 + n) + columns * (5 - n)) % 256 for n in range(channels)]
    image = np.stack(planes, axis=2).astype(np.float64) / 255
    image[height // 3 : height // 2, width // 4 : width // 2] = 0.9
    peak = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    image = (image * peak).astype(dtype)
    return image[:, :, 0] if channels == 1 else image


def _by_opencv() -> dict[str, bytes]:
    color, gray = _drawn(40, 64, 3), _drawn(33, 17, 1)
    alpha, deep = _drawn(24, 32, 4), _drawn(16, 24, 3, np.uint16)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    wanted: list[tuple[str, Any, list[int]]] = [
        ("baseline.jpg", color, [cv2.IMWRITE_JPEG_QUALITY, 80]),
        ("progressive.jpg", color, progressive),
        ("gray.jpg", gray, []),
        ("color.png", color, []),
        ("gray.png", gray, []),
        ("alpha.png", alpha, []),
        ("deep.png", deep, []),
        ("lossy.webp", color, [cv2.IMWRITE_WEBP_QUALITY, 60]),
        ("lossless.webp", alpha, [cv2.IMWRITE_WEBP_QUALITY, 101]),
        ("color.bmp", color, []),
        ("gray.bmp", gray, []),
        ("alpha.bmp", alpha, []),
        ("color.gif", color, []),
        ("color.avif", color, []),
        ("alpha.avif", alpha, []),
        ("deep.avif", _drawn(24, 32, 3, np.uint16) >> 6, [cv2.IMWRITE_AVIF_DEPTH, 10]),
        ("float.tif", _drawn(16, 24, 3, np.float32), []),
        ("deep.tif", deep, []),
    ]
    for name, compression in (("none", 1), ("lzw", 5), ("deflate", 8), ("packbits", 32773)):
        wanted.append((f"{name}.tif", color, [cv2.IMWRITE_TIFF_COMPRESSION, compression]))
    found = {}
    for name, image, parameters in wanted:
        done, data = cv2.imencode(f".{name.rpartition('.')[2]}", image, parameters)
        if done:
            found[name] = data.tobytes()
    return found


def _by_pillow() -> dict[str, bytes]:
    from PIL import Image, ImageCms

    color = Image.fromarray(_drawn(40, 64, 3))
    gray, alpha = Image.fromarray(_drawn(33, 17, 1)), Image.fromarray(_drawn(24, 32, 4))
    palette, bits = color.quantize(16), gray.convert("1")
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Ann", 0x011A: 300.0, 0x9286: b"a comment"})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    told = {"exif": exif, "icc_profile": profile, "dpi": (300, 300)}
    wanted: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("told.jpg", color, {**told, "xmp": XMP, "comment": b"hello"}),
        ("cmyk.jpg", color.convert("CMYK"), told),
        ("told.png", color, told),
        ("palette.png", palette, {"transparency": 3}),
        ("bits.png", bits, {}),
        ("graytrns.png", gray, {"transparency": 90}),
        ("told.webp", alpha, {"exif": exif, "icc_profile": profile, "xmp": XMP}),
        ("told.avif", color, {"exif": exif, "icc_profile": profile, "xmp": XMP}),
        ("palette.bmp", palette, {}),
        ("bits.bmp", bits, {}),
        ("palette.gif", palette, {"transparency": 1}),
        ("told.tif", color, {**told, "compression": "tiff_lzw"}),
        ("jpeg.tif", color, {"compression": "jpeg"}),
        ("bits.tif", bits, {"compression": "group4"}),
        ("g3.tif", bits, {"compression": "group3"}),
        ("palette.tif", palette, {"compression": "packbits"}),
        ("cmyk.tif", color.convert("CMYK"), {"compression": "tiff_deflate"}),
        ("tall.tif", Image.fromarray(_drawn(64, 9, 3)), {"tiffinfo": {278: 4}}),
    ]
    found = {}
    for name, image, options in wanted:
        form = {"jpg": "JPEG", "tif": "TIFF"}.get(name.rpartition(".")[2], "")
        out = io.BytesIO()
        image.save(out, form or name.rpartition(".")[2].upper(), **options)
        found[name] = out.getvalue()
    return found
