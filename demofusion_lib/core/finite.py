"""Where the model answered NaN or infinity: which patch it was, in words that a host can use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .views import Layout, View


@dataclass(frozen=True)
class Place:
    """A patch of a phase, in latent cells of the picture.

    row: of the whole latent, so that it tells the condition. image: the one of the batch.
    top_lat, left_lat: where a local window begins; negative where it overhangs the picture.
    offset: `(i, j)` of a dilated sub-image, rows before columns, else None.
    """

    row: int
    image: int
    top_lat: int
    left_lat: int
    height_lat: int
    width_lat: int
    offset: tuple[int, int] | None = None

    def told(self, unit: int = 1, name: str = "cells") -> str:
        """`window at (left, top) of widthxheight cells`, or in another unit of which `unit` make a cell."""
        if self.offset is not None:
            return f"dilated sub-image {self.offset[0]}, {self.offset[1]}"
        left, top, width, height = (
            unit * n for n in (self.left_lat, self.top_lat, self.width_lat, self.height_lat)
        )  # fmt: skip
        return f"window at ({left}, {top}) of {width}x{height} {name}"

    def __str__(self) -> str:
        return self.told()


def place_of(row: int, image: int, view: View, layout: Layout, shape_lat: tuple[int, int]) -> Place:
    """shape_lat: the `(height, width)` of the patch that `view` cuts."""
    top, left = view.rows.start or 0, view.cols.start or 0
    if view.corner_lat is None:
        return Place(row, image, 0, 0, *shape_lat, offset=(top, left))
    return Place(row, image, top - layout.padding[0], left - layout.padding[1], *shape_lat)


class NotFiniteError(ArithmeticError):
    """The model's answer to one patch holds NaN or infinity, and so does its second one.

    place: the patch. given: whether it held them itself, before the model saw it.
    """

    def __init__(self, place: Place, *, given: bool = False):
        self.place = place
        self.given = given
        super().__init__(self.told())

    def told(self, unit: int = 1, name: str = "cells") -> str:
        """The message, its numbers in the given unit (see `Place.told`)."""
        where = self.place.told(unit, name)
        if self.given:
            return f"the latent holds NaN or infinity where the model is to draw the {where}"
        return f"the model answered NaN or infinity in the {where}, asked again alone too"


def total(values: torch.Tensor) -> torch.Tensor:
    """One number that is finite only if all values are, left on the device. Nothing of their size is allocated."""
    return values.sum(dtype=None if values.dtype in (torch.float32, torch.float64) else torch.float32)


def all_finite(values: torch.Tensor) -> bool:
    """One number is read from the device."""
    return math.isfinite(float(total(values)))


def not_finite(patches: Sequence[torch.Tensor]) -> list[int]:
    """Which of them hold NaN or infinity, each looked at for itself: the sum of large numbers may overflow."""
    return [i for i, patch in enumerate(patches) if not bool(patch.isfinite().all())]
