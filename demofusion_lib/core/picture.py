"""A given picture in place of the base image: what it is climbed through, how far a run may depart from it, what holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .phases import Phase, cropped_size, plan_phases, shrink, upsample
from .schedule import TRAINING_TIMESTEPS, Weights

NEAR_NATIVE = 1.5
"""How many times the native area, or which part of it, a picture's own size serves as the windows': 512 x 768 px with a
model of 512 px is what people draw at. The toy repeats objects in 2 of 16 base images of that area, and in more above."""
FEWEST = 2
"""Steps of a phase, where settings ask for as many: some samplers of k-diffusion fail at fewer."""
WHOLE_LAT = 8
"""Windows that are smaller than the picture have sides of so many cells, which the network halves three times."""


def window_size(picture_lat: tuple[int, int], target_lat: tuple[int, int], native_lat: int) -> tuple[int, int]:
    """The size of the windows for a picture that is enlarged to a target, all `(height, width)`: about `native_lat` squared.

    The picture's own where it has about that area. That of a smaller one enlarged to it, at most the target's: it is a
    phase's size too. That of a larger one shrunk to it, in whole steps of the network.
    """
    area = picture_lat[0] * picture_lat[1] / native_lat**2
    if 1 / NEAR_NATIVE <= area <= NEAR_NATIVE:
        return picture_lat
    height, width = (length / math.sqrt(area) for length in picture_lat)
    if area < 1:
        return min(round(height), target_lat[0]), min(round(width), target_lat[1])
    steps = (max(1, round(length / WHOLE_LAT)) * WHOLE_LAT for length in (height, width))
    height, width = (min(length, own) for length, own in zip(steps, picture_lat))
    return height, width


def plan_picture(
    picture_lat: tuple[int, int], window_lat: tuple[int, int], target_lat: tuple[int, int], plan: str
) -> list[Phase]:
    """The phases from a picture to a target, all `(height, width)`; none where they are one size.

    A picture smaller than the windows is drawn at their size first. Scales and dilation are relative to the windows.
    """
    if picture_lat == target_lat:
        return []
    first = [window_lat] if window_lat[0] * window_lat[1] > picture_lat[0] * picture_lat[1] else []
    sizes = first + [(p.height_lat, p.width_lat) for p in plan_phases((first or [picture_lat])[0], target_lat, plan)]
    scales = [math.sqrt(height * width / (window_lat[0] * window_lat[1])) for height, width in sizes]
    return [
        Phase(number, len(sizes) + 1, round(scale, 6), height, width, max(1, math.floor(scale + 0.5)))
        for number, (scale, (height, width)) in enumerate(zip(scales, sizes), start=2)
    ]


def picture_part(size_px: tuple[int, int], target_lat: tuple[int, int] | None, cell_px: int) -> tuple[int, int]:
    """The cells `(height, width)` of a picture that are enlarged: all whole ones, or those that have a target's shape."""
    own = size_px[0] // cell_px, size_px[1] // cell_px
    return own if target_lat is None else cropped_size(own, target_lat)


@dataclass(frozen=True)
class Strength:
    """How far a run may depart from its picture: 0 not at all, 1 as far as phases depart from a base image."""

    value: float = 1.0

    def start_t(self, start_t: float | None) -> float | None:
        """Where the phases begin, of where they would; None for the whole schedule."""
        if self.value >= 1:
            return start_t
        return max(float(FEWEST), self.value * (TRAINING_TIMESTEPS - 1 if start_t is None else start_t))

    def steps(self, steps: int, start_t: float | None) -> int:
        """Of a phase: as many as there are, but no more than there are timesteps below its start."""
        return steps if start_t is None or self.value >= 1 else min(steps, max(FEWEST, math.floor(start_t)))

    def weights(self, weights: Weights) -> Weights:
        """The residual's pull fades later, down to half as early: below that it draws seams."""
        return replace(weights, a1=weights.a1 * (1 + self.value) / 2)

    @property
    def hold(self) -> float:
        """The weight of `held`."""
        return (1 - self.value) ** 2


def held(drawn: torch.Tensor, given: torch.Tensor, weight: float) -> torch.Tensor:
    """`drawn + weight * up(given - down(drawn))`: what is coarse comes from the picture, what is finer stays as drawn.

    drawn: `(batch, 3, height, width)`. given: `(1, 3, h, w)`, no larger. In pixels, so that what the autoencoder loses is
    made good: one that changes nothing would still cost a picture its finest lines.
    """
    if weight == 0:
        return drawn
    missing = given.to(drawn) - shrink(drawn, given.shape[-2], given.shape[-1])
    return upsample(missing, drawn.shape[-2], drawn.shape[-1]).mul_(weight).add_(drawn)
