"""Picture files of every kind: read right, or refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from demofusion_lib.pictures import MOST_PIXELS
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.given import read_picture

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two(mode: str = "RGB", left: Any = RED, right: Any = BLUE) -> Image.Image:
    """16 x 8 px: its left half of one colour, its right half of another."""
    image = Image.new(mode, (16, 8), left)
    image.paste(right, (8, 0, 16, 8))
    return image


def saved(image: Image.Image, path: Path, **more: Any) -> Path:
    image.save(path, **more)
    return path


def corners(path: Path) -> list[tuple[int, ...]]:
    """The colours of the first and the last pixel, in bytes."""
    pixels = read_picture(path).pixels.add(1).mul(127.5)
    return [tuple(int(v) for v in pixels[:, y, x].round()) for y, x in ((0, 0), (-1, -1))]


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.gif", "x.ppm", "x.webp"])
def test_formats(name: str, tmp_path: Path) -> None:
    path = saved(two(), tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    assert corners(path) == [RED, BLUE] and read_picture(path).size_px == (8, 16)
    assert read_picture(path).notes == ()


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    path = saved(two(), tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    given = read_picture(path)
    assert given.size_px == (16, 8)
    first, last = corners(path)
    assert first[0] > 240 > 20 > first[2] and last[2] > 240 > 20 > last[0]


@pytest.mark.parametrize(
    ("image", "first"),
    [
        (two("L", 51, 204), (51, 51, 51)), (two("1", 0, 1), (0, 0, 0)), (two("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), RED),
        (two().convert("P", palette=Image.Palette.ADAPTIVE), RED), (two("YCbCr", (76, 85, 255), (29, 255, 107)), (254, 0, 0)),
    ],
    ids=["grey", "black and white", "CMYK", "palette", "YCbCr"],
)  # fmt: skip
def test_modes(image: Image.Image, first: tuple[int, ...], tmp_path: Path) -> None:
    path = saved(image, tmp_path / ("x.jpg" if image.mode in ("CMYK", "YCbCr") else "x.png"))
    assert corners(path)[0] == pytest.approx(first, abs=3)


@pytest.mark.parametrize("name", ["x.png", "x.tiff"])
def test_sixteen_bits_are_kept(name: str, tmp_path: Path) -> None:
    grey = np.tile(np.linspace(0, 65535, 512).round().astype(np.uint16), (128, 1))
    path = saved(Image.fromarray(grey), tmp_path / name)
    values = read_picture(path).pixels
    assert torch.allclose(values[1, 5], torch.linspace(-1, 1, 512), atol=1e-4)
    assert len(values.unique()) == 512


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "coloured key"])
def test_what_is_transparent_lies_on_white(kind: str, tmp_path: Path) -> None:
    path, more = tmp_path / "x.png", {}
    image = two("RGBA", (255, 0, 0, 0), (0, 0, 255, 255))
    if kind == "LA":
        image = two("LA", (0, 0), (9, 255))
    elif kind == "palette":
        image = two("P", 0, 1)
        image.putpalette([255, 0, 0, 0, 0, 255])
        more = {"transparency": 0}
    elif kind == "coloured key":
        image, more = two(), {"transparency": RED}
    saved(image, path, **more)
    assert corners(path) == [(255, 255, 255), (9, 9, 9) if kind == "LA" else BLUE]
    assert read_picture(path).notes == ("x.png is transparent in places: they are drawn as white",)
    half = saved(two("RGBA", (255, 0, 0, 51), (0, 0, 255, 255)), tmp_path / "half.png")
    assert corners(half)[0] == (255, 204, 204)


def test_an_alpha_channel_that_hides_nothing_is_no_news(tmp_path: Path) -> None:
    assert read_picture(saved(two().convert("RGBA"), tmp_path / "x.png")).notes == ()


def test_of_several_pictures_the_first(tmp_path: Path) -> None:
    path = saved(two(), tmp_path / "x.gif", save_all=True, append_images=[two("RGB", BLUE, RED)])
    assert corners(path) == [RED, BLUE]
    assert read_picture(path).notes == ("x.gif has 2 pictures: the first is enlarged",)


def test_what_it_is_known_by(tmp_path: Path) -> None:
    one, other = saved(two(), tmp_path / "x.png"), saved(two(), tmp_path / "y.bmp")
    assert read_picture(one).digest == read_picture(other).digest
    changed = two()
    changed.putpixel((3, 3), (254, 0, 0))
    turned = two().transpose(Image.Transpose.ROTATE_90)
    digests = {read_picture(saved(image, tmp_path / "z.png")).digest for image in (two(), changed, turned)}
    assert len(digests) == 3


def test_the_profile_of_its_colours(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_picture(saved(two(), tmp_path / "x.png", icc_profile=profile)).profile == profile
    assert read_picture(saved(two("L", 1, 2), tmp_path / "y.png", icc_profile=profile)).profile == b""


def header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def noise() -> bytes:
    data = io.BytesIO()
    Image.effect_noise((256, 256), 90).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(1, 1), "has 1x1 px"), (header(20000, 50), "has 20000x50 px"), (header(4096, 200), "has 4096x200 px"),
        (header(16384, 16384), "can't be read"), (header(50000, 50000), "can't be read"), (header(7, 64), "has 7x64 px"),
        (b"", "is damaged or no picture"), (b"GIF89a", "is damaged or no picture"), (b"hello", "is damaged or no picture"),
        (noise()[:20000], "can't be read"), (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "is damaged or no picture"),
    ],
    ids=["a pixel", "a thread", "20 to 1", "too much", "a bomb", "thin", "empty", "cut", "a text", "truncated", "a program"],
)  # fmt: skip
def test_files_that_are_refused(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    _refused(path, why)


def _refused(path: Path, why: str) -> None:
    with pytest.raises(UserError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    assert text.startswith("image is '") and f", which {why}" in text
    assert text.endswith(f"allowed: a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM of 8 to 16384 px a side and up to "
                         f"{MOST_PIXELS // 10**6} million pixels, at most 8 times as long as wide")  # fmt: skip


def test_places_that_hold_no_picture(tmp_path: Path) -> None:
    _refused(tmp_path / "none.png", "is not there")
    _refused(tmp_path, "is no file")
    _refused(saved(Image.new("F", (16, 16)), tmp_path / "x.tiff"), "holds numbers without a white")
    _refused(Path("a\0b"), "can't be read")
