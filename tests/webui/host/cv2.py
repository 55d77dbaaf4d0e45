"""OpenCV's blur, of 8 bits."""

from __future__ import annotations

import numpy as np


def GaussianBlur(src, ksize, sigmaX):
    """Along one axis: `ksize` is `(width, height)`, and one of them is 1."""
    axis, length = (1, ksize[0]) if ksize[1] == 1 else (0, ksize[1])
    reach = length // 2
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigmaX**2))
    wide = np.pad(src.astype(np.float64), [(reach, reach) if i == axis else (0, 0) for i in range(2)], mode="reflect")
    blurred = np.apply_along_axis(lambda line: np.convolve(line, weights / weights.sum(), mode="valid"), axis, wide)
    return np.round(blurred).astype(np.uint8)
