"""Where the model looks in the call under way: for whoever gives it something that belongs to a place in the picture.

`looking()` answers anybody, in either host and from another extension: a condition, a ControlNet's hint, a mask, a prompt
for a region. Outside of a phase it is None, and the model is given the whole picture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .cutting import Cut
from .phases import Phase
from .views import Layout, View

WAYS = ("cells", "mean", "max", "nearest")

_NOW: ContextVar[Looking | None] = ContextVar("demofusion_looking", default=None)


def looking() -> Looking | None:
    """What is true of the model call under way; None outside of a phase, and between calls."""
    return _NOW.get()


@contextlib.contextmanager
def look(now: Looking) -> Iterator[Looking]:
    """While the model is called. What was true before is so again, whatever happens."""
    before = _NOW.set(now)
    try:
        yield now
    finally:
        _NOW.reset(before)


@dataclass(frozen=True)
class Looking:
    """One call of the model within a phase. The sequences have an entry for each patch that it is given.

    rows: the row of the denoiser's own call, and so of its conditions, that the patch is cut from. images: the image of the
    batch. negative: whether it is asked with the negative prompt. views, layout: the part of the latent that it is.
    t: the evaluation's training timestep; the call's own is lower where `shrunk_lat` is set.
    shrunk_lat: the `(height, width)` that the whole latent is shrunk to, where it is no part of it that is given
    (`Guidance`, low-pass).
    """

    phase: Phase
    t: float
    rows: Sequence[int]
    images: Sequence[int]
    negative: Sequence[bool]
    views: Sequence[View]
    layout: Layout
    shrunk_lat: tuple[int, int] | None = None

    @property
    def size_lat(self) -> tuple[int, int]:
        """The whole latent's `(height, width)`."""
        return self.phase.height_lat, self.phase.width_lat

    @property
    def shape_lat(self) -> tuple[int, int]:
        """The `(height, width)` of each patch."""
        return self.shrunk_lat or self._cut.shape(self.views[0])

    @property
    def kind(self) -> str:
        """`window`: a local one; `dilated`: a sub-image of every so manieth cell; `shrunk`: the whole, smaller."""
        if self.shrunk_lat is not None:
            return "shrunk"
        return "dilated" if self.views[0].corner_lat is None else "window"

    @property
    def prompts(self) -> list[int]:
        """Which of its row's prompts each patch is asked with: 0 the row's own, the others those of parts of the picture."""
        return [view.prompt or 0 for view in self.views]

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """The `(top, left, bottom, right)` that each patch shows, in cells of the picture: of a window that overhangs
        the picture, or goes on at its opposite edge, they lie beyond it."""
        if self.kind != "window":
            return [(0, 0, *self.size_lat)] * len(self.views)
        (above, before), (height, width) = self.layout.padding[:2], self.shape_lat
        corners = [(view.rows.start - above, view.cols.start - before) for view in self.views]
        return [(top, left, top + height, left + width) for top, left in corners]

    def some(self, chosen: Sequence[int]) -> Looking:
        """Of the patches with these numbers, which are given to the model in a call of their own."""
        return replace(
            self, rows=[self.rows[i] for i in chosen], images=[self.images[i] for i in chosen],
            negative=[self.negative[i] for i in chosen], views=[self.views[i] for i in chosen],
        )  # fmt: skip

    def cut(self, plane: torch.Tensor, at: Sequence[int] | None = None, how: str = "cells") -> torch.Tensor:
        """The part of a plane that belongs to each patch, `(patches, channels, k * height, k * width)`.

        plane: `(n, channels, k * height, k * width)` as large as the whole latent, or `k` times as large: 8 for pixels.
        at: which of the plane's `n` each patch has, `rows` or `images`; None where there is one for all.
        how: what a dilated sub-image gets. `cells`: of each of its cells just what belongs to that cell, so that a plane is
            cut as the latent is. The others: a small picture of the whole, as the sub-image is one, whose pixels are the
            `mean` of those that it has for one, their `max`, or the one that is `nearest`. All four the same for a window;
            for the whole that is shrunk, `cells` is `mean`.

        Beyond the picture's edge are zeros, in the small pictures what is at the edge, or what the layout says goes on there.
        Raises ValueError for another size or another word.
        """
        k = self._pixels(plane)
        if how not in WAYS:
            raise ValueError(f"how is {how!r}, allowed: {', '.join(WAYS)}")
        if at is None and len(plane) != 1:
            raise ValueError(f"the plane has {len(plane)} rows, and it isn't said which patch has which")
        at = [0] * len(self.views) if at is None else at
        if self.shrunk_lat is not None:
            small = _shrunk(plane, (k * self.shrunk_lat[0], k * self.shrunk_lat[1]), how)
            return small[list(at)]
        if self.kind == "window" or how == "cells":
            cut = Cut(self.layout, self.size_lat, plane.device)
            return torch.stack([_cells(cut, plane[row], view, k) for row, view in zip(at, self.views)])
        return torch.stack([self._small(plane[row], view, k, how) for row, view in zip(at, self.views)])

    def fits(self, plane: torch.Tensor) -> bool:
        """Whether `cut` takes it."""
        height, width = self.size_lat
        if plane.ndim != 4 or plane.shape[-2] % height or plane.shape[-1] % width:
            return False
        return plane.shape[-2] // height == plane.shape[-1] // width > 0

    @property
    def _cut(self) -> Cut:
        return Cut(self.layout, self.size_lat, torch.device("cpu"))

    def _pixels(self, plane: torch.Tensor) -> int:
        """How many along a side of a cell."""
        if not self.fits(plane):
            (height, width), shape = self.size_lat, tuple(plane.shape)
            raise ValueError(f"the plane's shape is {shape}, allowed: (n, channels, k * {height}, k * {width})")
        return plane.shape[-2] // self.size_lat[0]

    def _small(self, plane: torch.Tensor, view: View, k: int, how: str) -> torch.Tensor:
        """A dilated sub-image's small picture of the plane `(channels, k * height, k * width)`."""
        around, (top, left) = self.layout.around, self.layout.padding[:2]
        padded = self._cut.padded_lat
        for axis, part, before, length in ((-2, view.rows, top, padded[0]), (-1, view.cols, left, padded[1])):
            cells = [cell - before for cell in range(*part.indices(length))]
            if around is not None:
                cells = list((around.rows if axis == -2 else around.cols)[part])
            taps = _taps(cells, k, part.step, plane.shape[axis], wrap=around is not None)
            plane = _gathered(plane, taps.to(plane.device), axis, how)
        return plane


def _cells(cut: Cut, plane: torch.Tensor, view: View, k: int) -> torch.Tensor:
    """What a view shows of a plane `(channels, k * height, k * width)`, in whole cells."""
    (height, width), (rows, cols) = cut.size_lat, cut.shape(view)
    patch = plane.new_empty(len(plane), rows, k, cols, k)
    by_cell = plane.reshape(len(plane), height, k, width, k).permute(0, 1, 3, 2, 4)
    cut.copy_(patch.permute(0, 1, 3, 2, 4), by_cell, view)
    return patch.view(len(plane), k * rows, k * cols)


def _taps(cells: Sequence[int], k: int, step: int, length: int, *, wrap: bool) -> torch.Tensor:
    """Along one axis, the pixels that each pixel of a small picture stands for, `(k * cells, step)`.

    Its cells' centres lie where those of `cells` do, and around them `step` pixels make one.
    """
    first = torch.tensor(cells)[:, None].mul(k).sub(k * (step - 1) // 2).add(torch.arange(k).mul(step))
    taps = first.reshape(-1, 1) + torch.arange(step)
    return taps % length if wrap else taps.clamp(0, length - 1)


def _gathered(plane: torch.Tensor, taps: torch.Tensor, axis: int, how: str) -> torch.Tensor:
    """The plane with so many pixels made into one along an axis, counted from the end."""
    if how == "nearest":
        return plane.index_select(axis, taps[:, taps.shape[1] // 2])
    several = plane.index_select(axis, taps.flatten()).unflatten(axis, tuple(taps.shape))
    return several.amax(axis) if how == "max" else several.mean(axis)


def _shrunk(plane: torch.Tensor, size: tuple[int, int], how: str) -> torch.Tensor:
    if how == "max":
        return F.adaptive_max_pool2d(plane, size)
    return F.interpolate(plane, size=size, mode="nearest-exact" if how == "nearest" else "area")
