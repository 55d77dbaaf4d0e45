"""A picture file that is to be enlarged, as values that the engine takes: `--image`."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ..params import quoted
from ..pictures import SIZES, is_drawable, may_be_transparent, tensor
from .errors import UserError, first_line
from .files import reason

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
    turned = ImageOps.exif_transpose(image) or image
    if may_be_transparent(turned):
        turned = turned.convert("RGBA")
        if turned.getextrema()[3][0] < 255:
            notes.append(f"{Path(path).name} is transparent in places: they are drawn as white")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    elif turned.mode == "F":
        raise _refused(path, "holds numbers without a white")
    pixels = tensor(turned)
    digest = hashlib.blake2b(f"{tuple(pixels.shape)}".encode(), digest_size=16)
    digest.update(pixels.numpy())
    profile = image.info.get("icc_profile") or b""
    return Given(pixels, digest.hexdigest(), profile if image.mode in ("RGB", "RGBA", "P") else b"", tuple(notes))
