"""Whether a picture's lines are where they belong, and how much grain its sky has. Pictures are `(3, height, width)` in [0, 1].

A scene has one level horizon between a flat sky and a woven ground, and one object whose outline is known. Every constant
was fixed on true renders through the toy's autoencoder (`Studio.true`, 2x, 3x and 4x, square and 3:2), before any drawn
picture was measured; what they read there stands beside each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import find_contours  # type: ignore[import-untyped]

from lab.detector import SATURATION, SMALLEST_PX
from lab.scenes import GROUND, SKY, WEAVE_PX

LUMA = torch.tensor([0.299, 0.587, 0.114])
WEAVE = 0.10
"""Amplitude of the weave's grey (`lab.scenes.render`)."""
EDGE = (SKY + GROUND + WEAVE) / 2
"""The grey of the horizon: halfway from the sky to the weave's brightest thread, so that no thread is taken for sky."""
REACH_PX = 8
"""How far from where a column is told apart best its horizon may cross `EDGE`: the autoencoder blurs it over 3."""
HALO_PX = 12
"""What the autoencoder lets an edge do to the flat around it: farther off the true skies' grain is even."""
LEAST_WIDTH = 0.25
"""Share of the columns that must show the horizon; an object hides at most half of them."""
LEAST_SKY = 0.05
"""Share of the picture that must be flat sky; it is an eighth at least in a true one."""
SLOW_PX = 8.0
"""Deviation of the Gaussian whose mean is taken off the sky: what is wider than a few cells is shading, not grain."""
OUTLINE_BLUR_PX = 1.0
"""Taken before the outline is followed, so that its length is not made of the pixels' own grain."""
COMPACT = {"disc": 1.0, "square": 2 / math.sqrt(math.pi), "triangle": math.sqrt(3 * math.sqrt(3) / math.pi)}
"""A shape's outline over that of a disc of its area."""


def luma(picture: torch.Tensor) -> torch.Tensor:
    return (picture * LUMA.view(3, 1, 1)).sum(0)


@dataclass(frozen=True)
class Horizon:
    """How far the horizon is from a straight line: root mean square and greatest, and how much the line rises over the
    picture's whole width; in pixels."""

    rms_px: float
    greatest_px: float
    tilt_px: float


class Geometry:
    """One picture's lines. What a picture does not show is None."""

    def __init__(self, picture: torch.Tensor):
        self.grey = luma(picture).numpy()
        self.saturation = (picture.amax(0) - picture.amin(0)).numpy()

    @cached_property
    def coloured(self) -> np.ndarray:
        """The largest object's paint; nothing where there is no object."""
        labels, count = ndimage.label(self.saturation > SATURATION)
        areas = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
        if count == 0 or areas.max() < SMALLEST_PX:
            return np.zeros_like(labels, dtype=bool)
        return labels == int(areas.argmax()) + 1

    @cached_property
    def hidden(self) -> np.ndarray:
        """Where objects are, all of them, cores and halos too."""
        filled = ndimage.binary_fill_holes(self.saturation > SATURATION)
        return ndimage.distance_transform_edt(~filled) <= HALO_PX if filled.any() else filled

    @cached_property
    def ground_begins(self) -> np.ndarray:
        """The row, column by column, above which sky and below which ground explain the most pixels; `(width,)`."""
        seen = ~self.hidden
        as_sky, as_ground = (np.abs(self.grey - level) * seen for level in (SKY, GROUND))
        zero = np.zeros((1, self.grey.shape[1]))
        above = np.concatenate([zero, as_sky.cumsum(0)])
        below = np.concatenate([zero, as_ground[::-1].cumsum(0)])[::-1]
        return (above + below).argmin(0)

    @cached_property
    def horizon_rows(self) -> np.ndarray:
        """Where each column goes from sky to ground, in pixels from the top, between whole ones; NaN where an object hides it."""
        height, width = self.grey.shape
        rows = self.ground_begins[None, :] + np.arange(-REACH_PX, REACH_PX)[:, None]
        inside = (rows >= 0) & (rows < height)
        rows = rows.clip(0, height - 1)
        strip = np.take_along_axis(self.grey, rows, 0)
        crosses = (strip[:-1] >= EDGE) & (strip[1:] < EDGE) & inside[:-1] & inside[1:]
        share = (strip[:-1] - EDGE) / np.where(crosses, strip[:-1] - strip[1:], 1)
        places = np.where(crosses, rows[:-1] + 0.5 + share, np.inf)  # a pixel's own place is its middle
        best = np.abs(places - self.ground_begins).argmin(0)
        found = places[best, np.arange(width)]
        covered = np.take_along_axis(self.hidden, rows, 0).any(0)
        return np.where(covered | np.isinf(found), np.nan, found)

    def horizon(self) -> Horizon | None:
        """Mean over each period of the weave, whose threads shift the edge: true ones read 0.1 px."""
        rows, width = self.horizon_rows, len(self.horizon_rows)
        seen = ~np.isnan(rows)
        if not seen.any():
            return None
        share = mean_of_period(seen.astype(float))
        level = np.divide(
            mean_of_period(np.where(seen, rows - np.nanmean(rows), 0)), share, where=share > 0, out=np.zeros(len(share))
        )
        places, level = np.flatnonzero(share > 0.5), level[share > 0.5]
        if len(places) < LEAST_WIDTH * width:
            return None
        slope, offset = np.polyfit(places, level, 1)
        away = np.abs(level - slope * places - offset)
        return Horizon(float(np.sqrt((away**2).mean())), float(away.max()), float(slope * width))

    def outline(self, shape: str) -> float | None:
        """The object's outline over that of a disc of its area, over what it is for the shape: 1 is right.

        The outline is where the paint covers half a pixel: saturation tells, as sky and ground have none. None where there
        is no object or the picture's border cuts it.
        """
        if not self.coloured.any():
            return None
        level = float(np.median(self.saturation[self.coloured])) / 2
        near = ndimage.binary_dilation(self.coloured, iterations=REACH_PX)  # no other object's outline
        field = ndimage.gaussian_filter(self.saturation * near, OUTLINE_BLUR_PX)
        closed = [line for line in find_contours(field, level) if (line[0] == line[-1]).all()]
        if not closed:
            return None
        line = max(closed, key=lambda line: abs(area(line)))
        if abs(area(line)) < self.coloured.sum() / 2:  # the core's: the border cuts the object's own
            return None
        length = float(np.hypot(*np.diff(line, axis=0).T).sum())
        return length / (2 * math.sqrt(math.pi * abs(area(line)))) / COMPACT[shape]

    def grain(self) -> float | None:
        """Standard deviation of the flat sky, slow change taken off, in grey levels of 255; true ones read 0.05 to 0.11."""
        height = self.grey.shape[0]
        sky = (np.arange(height)[:, None] + HALO_PX < self.ground_begins[None, :]) & ~self.hidden
        flat = shrunk(sky, HALO_PX)
        inner = shrunk(flat, round(2 * SLOW_PX))  # nearer to its edge the mean is lopsided
        if inner.mean() < LEAST_SKY:
            return None
        share = ndimage.gaussian_filter(flat.astype(float), SLOW_PX)
        slow = ndimage.gaussian_filter(self.grey * flat, SLOW_PX) / np.where(flat, share, 1)
        return 255 * float((self.grey - slow)[inner].std())


def shrunk(area: np.ndarray, by_px: int) -> np.ndarray:
    """Without what is so near to its edge, or to the picture's."""
    return ndimage.minimum_filter(area, 2 * by_px + 1, mode="constant", cval=0)


def mean_of_period(values: np.ndarray) -> np.ndarray:
    """Over every stretch of the weave's period: a wave of that period leaves nothing."""
    return np.convolve(values, np.ones(WEAVE_PX) / WEAVE_PX, "valid")


def area(line: np.ndarray) -> float:
    """Within a closed line of `(row, column)`."""
    y, x = (line - line.mean(0)).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2
