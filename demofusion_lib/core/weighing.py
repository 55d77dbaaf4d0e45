"""How much each cell of a local window counts where windows overlap."""

from __future__ import annotations

import math

import torch

from .views import Layout, View

WINDOW_WEIGHTS = ("flat", "sin2", "gaussian")
FLOOR = 0.01
"""Least weight along an axis: where windows only touch, the sum of the products is still far from 0."""
GAUSSIAN_STD = 1 / 6
"""Of a window's length."""


def profile(kind: str, length: int, fades_before: bool, fades_after: bool) -> torch.Tensor:
    """The weights along one axis, float32 `(length,)` in (0, 1].

    They fall from the middle to an end at which another window goes on; where the picture ends, they stay at the
    middle's. Raises ValueError for an unknown kind.
    """
    if kind not in WINDOW_WEIGHTS:
        raise ValueError(f"window weight is {kind!r}, allowed: {', '.join(WINDOW_WEIGHTS)}")
    place = torch.arange(length).add(0.5).div(length)
    if not fades_before:
        place = place.clamp(min=0.5)
    if not fades_after:
        place = place.clamp(max=0.5)
    if kind == "sin2":
        return (place * math.pi).sin().square().mul(1 - FLOOR).add(FLOOR)
    if kind == "gaussian":
        return place.sub(0.5).div(GAUSSIAN_STD).square().div(-2).exp().clamp(min=FLOOR)
    return torch.ones(length)


Key = tuple[int, bool, bool]
"""Of a profile: its length, and whether it fades before and after."""
Masks = dict[tuple[Key, Key], torch.Tensor]
"""The weights of a window, by its rows' profile and its columns'."""


class WindowWeights:
    """Weights `(1, height, width)` of the windows of a layout over a latent of `size_lat` (height, width), as `like` is.

    masks: those that are known already, of other layouts over latents of the same type. There are nine at most.
    """

    def __init__(
        self, kind: str, layout: Layout, size_lat: tuple[int, int], like: torch.Tensor, masks: Masks | None = None
    ):
        self.kind = kind
        self.layout = layout
        self.size_lat = size_lat
        self.like = like
        self.masks: Masks = {} if masks is None else masks
        self.profiles: dict[Key, torch.Tensor] = {}

    def __call__(self, view: View) -> torch.Tensor:
        top, left, _, _ = self.layout.padding
        rows = self._key(view.rows, top, self.size_lat[0])
        cols = self._key(view.cols, left, self.size_lat[1])
        if (rows, cols) not in self.masks:
            mask = self._profile(rows)[:, None] * self._profile(cols)
            self.masks[rows, cols] = mask[None].to(self.like)
        return self.masks[rows, cols]

    def _profile(self, key: Key) -> torch.Tensor:
        if key not in self.profiles:
            self.profiles[key] = profile(self.kind, *key)
        return self.profiles[key]

    def _key(self, part: slice, before: int, length: int) -> Key:
        around = self.layout.around is not None
        return part.stop - part.start, around or part.start > before, around or part.stop < before + length
