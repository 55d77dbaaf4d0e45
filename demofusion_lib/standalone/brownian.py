"""One Brownian path an image, the same whatever the steps it is looked at in: more steps draw the same picture more finely."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..core import step_generator

PATH = -3  # beside the steps 0, 1, 2, ... in `step_generator`
LEVELS = 24
"""Halvings of the whole range; between two of the points that are left, the path is straight."""


class Brownian:
    """Noise of unit deviation from a path in sigma: `(W(a) - W(b)) / sqrt(|a - b|)`, `(images, *shape)`.

    seeds: of each image. By halves (P. Lévy's construction): the middle of a stretch is the mean of its ends and noise of
    a quarter of its length's variance, which is drawn from the seed and the stretch's own number.
    """

    def __init__(self, like: torch.Tensor, low: float, high: float, seeds: Sequence[int]):
        self.like, self.low, self.high, self.seeds = like, low, high, seeds
        self.known: dict[float, torch.Tensor] = {}

    def __call__(self, sigma: float, following: float) -> torch.Tensor:
        path = {level: self._at(level) for level in (sigma, following)}
        self.known = path  # a step begins where the one before it has ended
        noise = (path[following] - path[sigma]) / math.sqrt(abs(following - sigma))
        return noise.to(self.like)

    def _at(self, sigma: float) -> torch.Tensor:
        if sigma in self.known:
            return self.known[sigma]
        share = min(max((sigma - self.low) / (self.high - self.low), 0.0), 1.0)
        left = torch.zeros(self.like.shape)
        right = self._drawn(0).mul(math.sqrt(self.high - self.low))
        length, node = self.high - self.low, 1
        for _ in range(LEVELS):
            middle = left.add(right).div_(2).add_(self._drawn(node), alpha=math.sqrt(length / 4))
            if share < 0.5:
                right, share, node = middle, 2 * share, 2 * node
            else:
                left, share, node = middle, 2 * share - 1, 2 * node + 1
            length /= 2
        return torch.lerp(left, right, share)

    def _drawn(self, node: int) -> torch.Tensor:
        generators = [step_generator(seed, node, PATH) for seed in self.seeds]
        return torch.stack([torch.randn(self.like.shape[1:], generator=generator) for generator in generators])
