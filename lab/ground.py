"""Tells a woven ground from a brushed one, patch by patch. Its thresholds were fixed on true renders, before any drawn picture.

Either texture is made of the two diagonal gratings of the weave's period: a weave of both in equal parts, a brushed ground
of the first alone. A patch holds whole periods, so that its share of each grating is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .scenes import GROUND, GROUNDS, SKY, WEAVE_PX

PATCH_PX, PITCH_PX = 2 * WEAVE_PX, WEAVE_PX
TRUE_POWER = 0.1**2 / 4
"""Variance of either true texture."""
GREYEST = 0.1
"""Least difference of a pixel's strongest and weakest channel that is no ground."""
BRIGHTEST = (SKY + GROUND) / 2
EDGE_PX = 2
"""Pixels nearer than this to what is no ground don't count as such: edges are mixtures."""
INSIDE = 0.995
"""Share of a patch's pixels that must be ground: five may be odd ones."""
FAINT_DB = -6.0
"""Power against the truth's below which a patch shows neither texture."""
BRUSHED_BELOW = 0.25
"""Share of the second grating in both: 1/2 in a weave, 0 where it is brushed, and 1/4 in an even mixture of the two."""
WHOLE = 0.9
"""Share of the patches that a ground of one kind shows at least."""


@dataclass(frozen=True)
class Ground:
    """What a picture's ground shows. shares: of its patches, by kind. All figures are nan where no ground is found.

    contrast_db: the gratings' mean power against the truth's. rest_db: that of all else in the patches, grain above all.
    """

    patches: int
    shares: dict[str, float]
    contrast_db: float
    rest_db: float

    def shows(self, kind: str) -> bool:
        """Whether this kind covers the ground."""
        return self.patches > 0 and self.shares[kind] >= WHOLE


def gratings() -> torch.Tensor:
    """`(4, 1, PATCH_PX, PATCH_PX)`: cosine and sine of the one diagonal, then of the other."""
    turn = 2 * math.pi / WEAVE_PX
    place = torch.arange(PATCH_PX, dtype=torch.float32) * turn
    one, other = place[:, None] + place, place[:, None] - place
    return torch.stack([one.cos(), one.sin(), other.cos(), other.sin()])[:, None] / PATCH_PX**2


def judge_ground(picture: torch.Tensor) -> Ground:
    """Of a picture `(3, height, width)` in [0, 1], at any scale: the textures have their period in rendered pixels."""
    grey = picture.mean(0)
    inside = ((picture.amax(0) - picture.amin(0)) < GREYEST) & (grey < BRIGHTEST)
    kept = -F.max_pool2d(-inside.float()[None], 2 * EDGE_PX + 1, 1, EDGE_PX)[0]
    chosen = _means(kept) >= INSIDE
    if not bool(chosen.any()):
        return Ground(0, dict.fromkeys(GROUNDS, math.nan), math.nan, math.nan)
    cos_1, sin_1, cos_2, sin_2 = F.conv2d(grey[None, None], gratings(), stride=PITCH_PX)[0][:, chosen]
    first, second = 2 * (cos_1**2 + sin_1**2), 2 * (cos_2**2 + sin_2**2)
    power = first + second
    variance = (_means(grey**2) - _means(grey) ** 2)[chosen]
    share = second / power.clamp(min=1e-12)
    seen = power >= TRUE_POWER * 10 ** (FAINT_DB / 10)
    brushed = seen & (share < BRUSHED_BELOW)
    woven = seen & (share >= BRUSHED_BELOW) & (share <= 1 - BRUSHED_BELOW)
    shares = {"woven": float(woven.float().mean()), "brushed": float(brushed.float().mean())}
    return Ground(len(power), shares, _against_truth(power), _against_truth(variance - power))


def _means(plane: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(plane[None, None], PATCH_PX, PITCH_PX)[0, 0]


def _against_truth(power: torch.Tensor) -> float:
    return 10 * math.log10(max(float(power.mean()) / TRUE_POWER, 1e-9))


def summary(grounds: Sequence[Ground], kinds: Sequence[str]) -> dict[str, float]:
    """Of several pictures and the kinds that they were to show: the share with the right one all over the ground, of right
    patches, of wrong ones (the others show neither), and the mean of both powers in dB."""
    found = [(ground, kind) for ground, kind in zip(grounds, kinds) if ground.patches]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else math.nan

    return {
        "whole": sum(ground.shows(kind) for ground, kind in found) / len(grounds),
        "right": mean([ground.shares[kind] for ground, kind in found]),
        "wrong": mean([sum(ground.shares.values()) - ground.shares[kind] for ground, kind in found]),
        "contrast_db": mean([ground.contrast_db for ground, _ in found]),
        "rest_db": mean([ground.rest_db for ground, _ in found]),
    }
