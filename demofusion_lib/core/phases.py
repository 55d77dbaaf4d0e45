"""From a base size to a target size: which phases, at which latent sizes, with which dilation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .wrap import beyond

PLANS = ("every", "doubling", "direct")
NEAR = 0.1  # a whole scale closer than this below the final one would be a phase for next to nothing
CUBIC_REACH = 2  # cells to either side that a bicubic value is made of

Enlarge = Callable[[torch.Tensor, int, int], torch.Tensor]
"""`enlarge(latent, height_lat, width_lat)`: a latent at another size."""


@dataclass(frozen=True)
class Phase:
    """One upsample - diffuse - denoise pass (paper section 3.2).

    `number` counts from 2 (phase 1 is the base image) to `last`; `scale` is relative to the base;
    `dilation` is the whole number `s` of the dilated sampling.
    """

    number: int
    last: int
    scale: float
    height_lat: int
    width_lat: int
    dilation: int


def scaled_size(height_lat: int, width_lat: int, scale: float) -> tuple[int, int]:
    """The latent size `(height, width)` nearest to `scale` times the given one."""
    return math.floor(height_lat * scale + 0.5), math.floor(width_lat * scale + 0.5)


def cropped_size(base_lat: tuple[int, int], target_lat: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `base_lat` that has the aspect ratio of `target_lat`, both `(height, width)`."""
    (height, width), (target_height, target_width) = base_lat, target_lat
    if target_width * height < target_height * width:
        return height, max(1, round(height * target_width / target_height))
    return max(1, round(width * target_height / target_width)), width


def plan_scales(scale: float, plan: str) -> list[float]:
    """The scales of the phases after the first, ascending, the last of them `scale`.

    `every`: each whole number in turn (the paper's); `doubling`: 2, 4, 8; `direct`: one jump.
    Empty at scale 1. Raises ValueError for a scale below 1 or an unknown plan.
    """
    if plan not in PLANS:
        raise ValueError(f"plan is {plan!r}, allowed: {', '.join(PLANS)}")
    if not scale >= 1:
        raise ValueError(f"scale is {scale}, allowed: 1 or more")
    if scale == 1:
        return []
    between = {
        "every": range(2, math.ceil(scale)),
        "doubling": [2**n for n in range(1, max(1, math.ceil(math.log2(scale))))],
        "direct": [],
    }[plan]
    return [float(s) for s in between if s < scale - NEAR] + [float(scale)]


def plan_phases(base_lat: tuple[int, int], target_lat: tuple[int, int], plan: str) -> list[Phase]:
    """The phases from a base latent `(height, width)` to a target latent `(height, width)`.

    Raises ValueError if the target is smaller than the base or the plan is unknown.
    """
    (height, width), (target_height, target_width) = base_lat, target_lat
    if target_height < height or target_width < width:
        raise ValueError(f"the target {target_width}x{target_height} is smaller than the base {width}x{height}")
    scale = math.sqrt(target_height * target_width / (height * width))
    nearest = round(scale, 2)
    if scaled_size(height, width, nearest) == (target_height, target_width):
        scale = nearest  # undoes the rounding to whole latent cells
    scales = [] if base_lat == target_lat else plan_scales(scale, plan)
    between = [scaled_size(height, width, s) for s in scales[:-1]]
    # where a side has few cells, rounding can carry an earlier phase beyond the target
    sizes = [(min(h, target_height), min(w, target_width)) for h, w in between] + [(target_height, target_width)]
    return [
        Phase(number, len(scales) + 1, s, h, w, max(1, math.floor(s + 0.5)))
        for number, (s, (h, w)) in enumerate(zip(scales, sizes), start=2)
    ]


def statistics(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each image of `(batch, channels, height, width)`, shaped `(batch, 1, 1, 1)`."""
    axes = (1, 2, 3)
    return latent.mean(axes, keepdim=True), latent.std(axes, keepdim=True)


def with_statistics(latent: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """`latent` brought to the given mean and deviation, image by image; one of no deviation keeps none."""
    own_mean, own_std = statistics(latent)
    gain = torch.where(own_std.gt(0), std / own_std, torch.zeros_like(std))
    return (latent - own_mean) * gain + mean


def upsample(latent: torch.Tensor, height_lat: int, width_lat: int, *, wrap: bool = False) -> torch.Tensor:
    """Bicubic across cells. `wrap`: edges go on at the opposite ones."""
    if not wrap:
        return F.interpolate(latent, size=(height_lat, width_lat), mode="bicubic")
    height, width = latent.shape[-2:]
    (top, above), (left, before) = _margin(height, height_lat), _margin(width, width_lat)
    wider = beyond((height, width), top, left, top, left).spread(latent)
    finer = F.interpolate(wider, size=(height_lat + 2 * above, width_lat + 2 * before), mode="bicubic")
    return finer[..., above : above + height_lat, before : before + width_lat].contiguous()


def shrink(latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
    """Means over the blocks of cells that become one, which overlap where sizes are no multiples."""
    return F.interpolate(latent, size=(height_lat, width_lat), mode="area")


def shrunk_noise(size_lat: tuple[int, int], target_lat: tuple[int, int]) -> float:
    """What is left by `shrink` of the deviation of noise that is independent from cell to cell; sizes `(height, width)`."""
    gain = 1.0
    for length, target in zip(size_lat, target_lat):
        cells = [math.ceil((i + 1) * length / target) - i * length // target for i in range(target)]
        gain *= sum(1 / count for count in cells) / target
    return math.sqrt(gain)


def _margin(length: int, target: int) -> tuple[int, int]:
    """The least number of cells beyond an edge that a cubic needs and that enlarge to whole cells, and to how many."""
    common = math.gcd(length, target)
    unit = length // common
    units = math.ceil(CUBIC_REACH / unit)
    return units * unit, units * target // common


def centre_crop(latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
    top, left = (latent.shape[-2] - height_lat) // 2, (latent.shape[-1] - width_lat) // 2
    return latent[..., top : top + height_lat, left : left + width_lat]


def climb(
    base: torch.Tensor,
    phases: list[Phase],
    denoise_phase: Callable[[Phase, torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    enlarge: Enlarge | None = None,
    anchor: tuple[torch.Tensor, torch.Tensor] | None = None,
    blend: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[tuple[Phase, torch.Tensor]]:
    """Runs the phases and yields each with its finished latent, `(batch, channels, height, width)`.

    `base` is what phase 1 ended with. `denoise_phase(phase, previous, before)` gets the latent of the phase before,
    enlarged and as it was, and returns the denoised one, which is then brought back to phase 1's mean and deviation.
    enlarge: bicubic on the latent itself if None (`upsample`); see `enlarging`.
    anchor: phase 1's `statistics`, where `base` is what a later phase ended with and `phases` are those after it.
    blend: `blend(latent, previous)` is what a phase ends with, where part of the picture is to stay as it was.
    """
    anchor = anchor or statistics(base)
    latent, enlarge = base, enlarge or upsample
    for phase in phases:
        previous = enlarge(latent, phase.height_lat, phase.width_lat)
        latent = with_statistics(denoise_phase(phase, previous, latent), *anchor)
        latent = latent if blend is None else blend(latent, previous)
        yield phase, latent
