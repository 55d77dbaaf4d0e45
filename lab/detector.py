"""Counts the objects in a picture. Its thresholds were fixed on true renders, before any drawn picture was looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from .scenes import COLOURS, NATIVE_PX

SATURATION = 0.3
"""Least difference of a pixel's strongest and weakest channel to be part of an object; sky, ground and core are grey."""
SMALLEST_PX = 250
"""Least area in pixels of what counts as an object: a sixth of the smallest that a native picture shows."""
NEIGHBOURS_PX = 3
"""Parts of an object nearer than this are one."""


@dataclass(frozen=True)
class Found:
    """One object: its colour's name and its area in pixels."""

    colour: str
    area_px: int


def find_objects(picture: torch.Tensor) -> list[Found]:
    """The objects of a picture `(3, height, width)` in [0, 1], the largest first.

    The least area does not grow with the picture: what a model repeats in a large picture has its native size.
    """
    strongest, weakest = picture.amax(0), picture.amin(0)
    mask = (strongest - weakest).gt(SATURATION).numpy()
    joined = ndimage.binary_closing(mask, np.ones((NEIGHBOURS_PX, NEIGHBOURS_PX)))
    labels, count = ndimage.label(joined | mask)
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
    found = []
    for label in np.flatnonzero(np.atleast_1d(areas) >= SMALLEST_PX) + 1:
        inside = torch.from_numpy((labels == label) & mask)
        found.append(Found(nearest_colour(picture[:, inside].median(1).values), int(inside.sum())))
    return sorted(found, key=lambda one: -one.area_px)


def nearest_colour(colour: torch.Tensor) -> str:
    paints = torch.tensor(list(COLOURS.values()))
    return list(COLOURS)[int((paints - colour).square().sum(1).argmin())]


def shows_one(found: list[Found], colour: str | None = None) -> bool:
    """Whether there is exactly one object, of this colour if one is given."""
    return len(found) == 1 and colour in (None, found[0].colour)


def native_area_px() -> float:
    """Of the smallest object in a native picture, its core left out: a triangle."""
    return (1.299 - 3.1416 * 0.3**2) * (0.15 * NATIVE_PX) ** 2
