"""A picture file that is to be enlarged, as values that the engine takes: `--image`."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..pictures import SIZES, is_drawable, may_be_transparent, tensor
from ..setting import quoted
from .errors import UserError, first_line
from .folders import reason

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Those that Pillow reads by itself, WebP where it was built with it: none of them starts another program."""
ALLOWED = f"a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM of {SIZES}"


@dataclass(frozen=True)
class Given:
    """pixels: `(3, height, width)` in [-1, 1], float32. digest: of these values and this size, hexadecimal. profile: the ICC
    profile that says which colours they are, for a result of the same, or nothing. notes: what a user should know."""

    pixels: torch.Tensor
    digest: str
    profile: bytes
    notes: tuple[str, ...]

    @property
    def size_px(self) -> tuple[int, int]:
        """`(height, width)`."""
        return self.pixels.shape[-2], self.pixels.shape[-1]


def read_picture(path: str | os.PathLike[str]) -> Given:
    """Turned as its EXIF says; what is transparent lies on white. Raises UserError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise _refused(path, "is no file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on what is refused or read all the same
            Image.init()
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                _check_size(path, *image.size)
                return _given(path, image)
    except FileNotFoundError as error:
        raise _refused(path, "is not there") from error
    except Image.UnidentifiedImageError as error:
        raise _refused(path, "is damaged or no picture") from error
    except UserError:
        raise
    except Exception as error:  # strangers' files make Pillow raise whatever it pleases
        raise _refused(
            path, f"can't be read ({reason(error) if isinstance(error, OSError) else first_line(error)})"
        ) from error


def _refused(path: str | os.PathLike[str], why: str) -> UserError:
    return UserError(f"image is {quoted(os.fspath(path))}, which {why}, allowed: {ALLOWED}")


def _check_size(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Of the file's header: nothing has been unpacked yet."""
    if not is_drawable(width, height):
        raise _refused(path, f"has {width}x{height} px")


def _given(path: str | os.PathLike[str], image: Image.Image) -> Given:
    notes, frames = [], getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # whose others are previews
        notes.append(f"{Path(path).name} has {frames} pictures: the first is enlarged")
    image.load()
    pixels, more = pixels_in(ImageOps.exif_transpose(image) or image, Path(path).name)
    if pixels is None:
        raise _refused(path, "holds numbers without a white")
    notes += more
    digest = hashlib.blake2b(f"{tuple(pixels.shape)}".encode(), digest_size=16)
    digest.update(pixels.numpy())
    profile = image.info.get("icc_profile") or b""
    return Given(pixels, digest.hexdigest(), profile if image.mode in ("RGB", "RGBA", "P") else b"", tuple(notes))


def pixels_in(image: Image.Image, name: str) -> tuple[torch.Tensor | None, list[str]]:
    """`(3, height, width)` in [-1, 1], None of numbers without a white, and what a user should know. name: the picture's."""
    notes = []
    if may_be_transparent(image):
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append(f"{name} is transparent in places: they are drawn as white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return None if image.mode == "F" else tensor(image), notes


ALLOWED_IMAGE = f"a PIL image, an array (height, width, 3) of bytes or in [0, 1], a tensor (3, height, width) in [0, 1] or [-1, 1], of {SIZES}"


def picture_of(image: Any) -> tuple[torch.Tensor, list[str]]:
    """A picture that a program holds, as diffusers takes one: `(3, height, width)` in [-1, 1], and notes. Raises UserError."""
    pixels, notes = pixels_in(image, "image") if isinstance(image, Image.Image) else (_of_numbers(image), [])
    if pixels is None or not is_drawable(pixels.shape[2], pixels.shape[1]):
        told = quoted(image) if pixels is None else f"{pixels.shape[2]}x{pixels.shape[1]} px"
        raise UserError(f"image is {told}, allowed: one picture, {ALLOWED_IMAGE}")
    return pixels, notes


def _of_numbers(image: Any) -> torch.Tensor | None:
    if isinstance(image, (list, tuple)) and len(image) == 1:
        image = image[0]
        if isinstance(image, Image.Image):
            return pixels_in(image, "image")[0]
    if not isinstance(image, (np.ndarray, torch.Tensor)) or image.ndim not in (3, 4):
        return None
    if image.ndim == 4:
        if len(image) != 1:
            return None
        image = image[0]
    if isinstance(image, np.ndarray):
        whole = image.dtype == np.uint8
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        values = values / 255 if whole else values
    else:
        whole = image.dtype == torch.uint8
        values = image.detach().float().cpu()
        values = values / 255 if whole else values
    if values.shape[0] != 3 or not torch.isfinite(values).all() or values.abs().max() > 1:
        return None
    is_signed = isinstance(image, torch.Tensor) and bool(values.min() < 0)
    return values.contiguous() if is_signed else (values * 2 - 1).clamp(-1, 1).contiguous()
