"""Where a mask is, and what is laid under it."""

from __future__ import annotations

import numpy as np
from PIL import Image


def get_crop_region(mask, pad=0):
    left, top, right, bottom = mask.getbbox() or (*mask.size, 0, 0)
    return max(left - pad, 0), max(top - pad, 0), min(right + pad, mask.width), min(bottom + pad, mask.height)


def fill(image, mask):
    """The mean of what is not masked."""
    pixels, share = np.array(image, dtype=np.float64), np.array(mask.convert("L"), dtype=np.float64)[..., None] / 255
    mean = (pixels * (1 - share)).sum((0, 1)) / max((1 - share).sum(), 1e-9)
    return Image.fromarray(np.round(pixels * (1 - share) + mean * share).astype(np.uint8))
