"""What the host's live preview shows of a phase: its picture as far as it is known, small enough to be decoded on the way."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

import torch
from modules import sd_vae_approx, shared

from ..core import shrink
from ..targets import LATENT_PX
from .options import PREVIEW_PX

SHARE = 0.02
"""Of a run's time, for previews that go through its VAE."""
log = logging.getLogger(__name__)


class FullPreviews:
    """The host's previews of the kind "Full", while they take little time; else the cheap kind, and a word in the log."""

    def __init__(self) -> None:
        self.began = monotonic()
        self.spent = 0.0
        self.told = False

    def of(self, latent: torch.Tensor, expected: float | None, decode: Callable[[], torch.Tensor]) -> torch.Tensor:
        """latent: `(1, 4, height, width)` as the host's models have it. expected: the seconds that `decode` is thought to
        take."""
        begins = monotonic()
        if self.spent + (expected or 0.0) > SHARE * (begins - self.began):
            if not self.told:
                self.told = True
                log.warning(
                    "DemoFusion: full live previews would take more than %.0f %% of the time; cheap ones instead",
                    100 * SHARE,
                )
            cheap: torch.Tensor = sd_vae_approx.cheap_approximation(latent)
            return cheap
        try:
            return decode()
        finally:
            self.spent += monotonic() - begins


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


def show_anew() -> None:
    """Whoever asks next is shown what there is now: the host counts steps since the last preview, also from one sampling to
    the next, which begins at 0; and a step of a phase takes long."""
    shared.state.current_image_sampling_step = -max(0, shared.opts.data.get("show_progress_every_n_steps") or 0)
