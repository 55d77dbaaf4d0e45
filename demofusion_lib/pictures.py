"""A user's own picture: of which size it can be, and its pixels as values that the engine takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from .targets import LATENT_PX

MOST_SIDE_PX = 16384
MOST_PIXELS = 2 * 89_478_485
"""Pillow's own limit, above which it takes a file for one that is made to fill the memory."""
MOST_ASPECT = 8
SIZES = (
    f"{LATENT_PX} to {MOST_SIDE_PX} px a side and up to {MOST_PIXELS // 10**6} million pixels, at most {MOST_ASPECT} times as "
    "long as wide"
)
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's names of greys of 16 bits."""
SEE_THROUGH = ("RGBA", "LA", "PA", "La", "RGBa")


def is_drawable(width_px: int, height_px: int) -> bool:
    """Whether a picture's size is one of `SIZES`."""
    shorter, longer = sorted((width_px, height_px))
    return (
        shorter >= LATENT_PX
        and longer <= min(MOST_SIDE_PX, MOST_ASPECT * shorter)
        and width_px * height_px <= MOST_PIXELS
    )


def may_be_transparent(image: Any) -> bool:
    return image.mode in SEE_THROUGH or "transparency" in image.info


def values(image: Any) -> npt.NDArray[np.float32]:
    """`(height, width, 3)` in [-1, 1], of an image of Pillow's without transparency; 16 bits stay what they are."""
    deep = image.mode in DEEP
    whole = np.asarray(image if deep else image.convert("RGB"), dtype=np.float32)
    found: npt.NDArray[np.float32] = whole * np.float32(2 / (65535 if deep else 255)) - np.float32(1)
    return np.repeat(found[..., None], 3, axis=2).clip(-1, 1) if deep else found


def eight_bits(image: Any) -> Any:
    """A grey image of 16 bits as one of 8, any other as it is: Pillow itself would cut the upper half off."""
    if image.mode not in DEEP:
        return image
    whole = np.asarray(image, dtype=np.float32)
    return Image.fromarray(np.round(whole.clip(0, 65535) / 257).astype(np.uint8))


def tensor(image: Any) -> torch.Tensor:
    """`(3, height, width)` of `values`."""
    return torch.from_numpy(values(image)).permute(2, 0, 1).contiguous()
