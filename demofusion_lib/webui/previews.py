"""What the host's live preview shows of a phase: its picture as far as it is known, small enough to be decoded on the way."""

from __future__ import annotations

import math
from typing import Any

import torch
from modules import shared

from ..core import shrink
from ..params import LATENT_PX
from .options import PREVIEW_PX


class Preview:
    """Of one phase. previous: the latent of the phase before, enlarged, `(images, 4, height, width)`.

    weights: the phase's. Its estimates of high noise levels are grey; the phase before, which they are held by, stands for
    them as much as it counts there.
    """

    def __init__(self, previous: torch.Tensor, weights: Any):
        self.weights = weights
        self.size_lat = preview_size(previous.shape[-2], previous.shape[-1], len(previous))
        self.before = shrink(previous, *self.size_lat)

    def of(self, denoised: torch.Tensor, t: float) -> torch.Tensor:
        """The estimate at timestep `t`, of the preview's size."""
        small = shrink(denoised, *self.size_lat)
        return small.lerp(self.before.to(small), self.weights.c1(t))


def preview_size(height_lat: int, width_lat: int, images: int) -> tuple[int, int]:
    """Of the same shape, and of no more pixels than the setting says; those of a batch together, where all are shown."""
    pixels = PREVIEW_PX.value / (images if shared.opts.data.get("show_progress_grid") else 1)
    gain = min(1.0, math.sqrt(pixels / (height_lat * width_lat)) / LATENT_PX)
    return max(1, math.floor(height_lat * gain)), max(1, math.floor(width_lat * gain))
