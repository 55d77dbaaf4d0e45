"""Prompts for parts of the picture: how much each counts in which cell, and which of them a patch is asked with.

A cell's answer is the mean of what the model answers for each of its prompts, by their shares, which sum up to 1. A patch is
asked with those alone that have a share in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from .cutting import Cut
from .phases import shrink
from .views import Layout, View, WindowGrid, dilated_layout

NEGLIGIBLE = 1e-4
"""A smaller share is none, and what is less than it from all is all: where a box ends on a cell's edge, rounding is no cell."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture that has a prompt of its own.

    box: `(left, top, right, bottom)` as shares of the picture's width and height, 0 to 1. mask: `(height, width)` of any
    size, 0 to 1, in the place of a box. weight: its share, above 0 to 1; the main prompt has the rest. feather: over which
    part of the way from its edge to its middle a box's share grows to that, 0 to 1; not at the picture's own edges.
    """

    prompt: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    mask: torch.Tensor | None = None
    weight: float = 1.0
    feather: float = 0.0

    def plane(self, height_lat: int, width_lat: int) -> torch.Tensor:
        """How far it covers each cell, times its weight; float64 `(height, width)`."""
        if self.mask is not None:
            covered = shrink(self.mask[None, None].double(), height_lat, width_lat)[0, 0]
        else:
            left, top, right, bottom = self.box
            rows, cols = self._axis(top, bottom, height_lat), self._axis(left, right, width_lat)
            covered = rows[:, None] * cols
        return covered.mul_(self.weight)

    def _axis(self, start: float, end: float, length: int) -> torch.Tensor:
        """How far the box covers each cell along one axis."""
        cells = torch.linspace(0, length - 1, length, dtype=torch.float64)
        first, last = start * length, end * length
        covered = cells.add(1).clamp(max=last).sub(cells.clamp(min=first)).clamp(min=0)
        reach = self.feather * (last - first) / 2
        if reach > 0:
            centres = cells.add(0.5)
            if start > 0:
                covered.mul_(centres.sub(first).div(reach).clamp(0, 1))
            if end < 1:
                covered.mul_(centres.sub(last).div(-reach).clamp(0, 1))
        return covered


def shares_of(regions: Sequence[Region], height_lat: int, width_lat: int) -> torch.Tensor:
    """What each prompt counts in each cell, float32 `(1 + regions, height, width)`, the main prompt first.

    Regions that lie on each other share by their weights; where they don't add up to 1, the main prompt has the rest.
    """
    shares = torch.empty(1 + len(regions), height_lat, width_lat)
    for share, region in zip(shares[1:], regions):
        share.copy_(region.plane(height_lat, width_lat))
    total = shares[1:].sum(0)
    shares[0] = (1 - total).clamp_(min=0)
    shares[1:].div_(total.clamp_(min=1))
    shares.masked_fill_(shares < NEGLIGIBLE, 0)
    return shares.div_(shares.sum(0))


class PlacedPrompts:
    """The prompts of one phase's picture. The first is each row's own, the others are the regions'.

    Which of them a window is asked with does not depend on where jitter puts it: all that have a share where it can be.
    So many windows are asked in every step, in every run.
    """

    def __init__(self, regions: Sequence[Region], size_lat: tuple[int, int]):
        self.regions, self.size_lat = regions, size_lat
        self._like: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
        self._known: dict[Any, list[tuple[int, ...]]] = {}

    @cached_property
    def shares(self) -> torch.Tensor:
        """As `shares_of`. Who only plans does not keep them."""
        return shares_of(self.regions, *self.size_lat)

    @cached_property
    def _present(self) -> torch.Tensor:
        """Where each has a share, `(prompts, height, width)`."""
        return shares_of(self.regions, *self.size_lat).gt(0)

    def _within(self, rows: Sequence[int], cols: Sequence[int]) -> tuple[int, ...]:
        """Those that have a share in these rows and columns of the picture."""
        part = self._present[:, _span(rows)][:, :, _span(cols)]
        found = torch.nonzero(part.flatten(1).any(1)).flatten().tolist()
        return tuple(found) or (0,)  # what lies beyond the picture is asked for all the same

    @cached_property
    def whole(self) -> tuple[int, ...]:
        """Those that have a share anywhere."""
        return self._within(range(self.size_lat[0]), range(self.size_lat[1]))

    def of_windows(self, grid: WindowGrid) -> list[tuple[int, ...]]:
        """For each window, in the grid's order."""
        if grid not in self._known:
            vertical, horizontal = grid.reaches()
            self._known[grid] = [self._within(rows, cols) for rows in vertical for cols in horizontal]
        return self._known[grid]

    def of_sub_images(self, dilation: int, *, wrap: bool = False) -> list[tuple[int, ...]]:
        """For each of the dilated sub-images."""
        if (dilation, wrap) not in self._known:
            self._known[dilation, wrap] = list(self._in_sub_images(dilation, wrap))
        return self._known[dilation, wrap]

    def _in_sub_images(self, dilation: int, wrap: bool) -> Iterator[tuple[int, ...]]:
        height, width = self.size_lat
        layout = dilated_layout(height, width, dilation, 1, wrap=wrap)
        if layout.around is not None:
            axes = list(layout.around.rows), list(layout.around.cols)
        else:
            top, left = layout.padding[:2]
            axes = list(range(-top, height)), list(range(-left, width))
        for view in layout.views[0]:
            yield self._within(*([c for c in axis[part] if c >= 0] for axis, part in zip(axes, (view.rows, view.cols))))

    def share(self, cut: Cut, view: View, like: torch.Tensor) -> torch.Tensor | None:
        """What the view's prompt counts in each of its cells, `(1, height, width)`, as `like` is; 0 beyond the picture. None
        where it is the only one."""
        if view.prompt is None:
            return None
        key = like.device, like.dtype
        if key not in self._like:
            self._like[key] = self.shares.to(like)
        shares = self._like[key]
        part = shares.new_empty(1, *cut.shape(view))
        cut.copy_(part, shares[view.prompt : view.prompt + 1], view)
        return part

    def shrunk(self, size_lat: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """The shares in a picture that is shrunk to `(height, width)`."""
        return shrink(self.shares[None], *size_lat)[0].to(like)


def _span(cells: Sequence[int]) -> slice | list[int]:
    return slice(cells.start, cells.stop) if isinstance(cells, range) else list(cells)


def asked_with(layout: Layout, prompts: Sequence[Sequence[int]]) -> Layout:
    """A layout of twice as many images: each as it is, then each with every view once for each of its prompts.

    prompts: of each view, the same for all images.
    """
    several = [
        [replace(view, prompt=prompt) for view, own in zip(views, prompts) for prompt in own] for views in layout.views
    ]
    return replace(layout, views=[*layout.views, *several])
