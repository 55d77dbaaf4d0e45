"""Views cut out of a latent, and answers added to one, without a padded copy of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from .views import Layout, View

Weigh = Callable[[View], torch.Tensor]
"""`weigh(view)`: how much each cell of a view counts, `(1, height, width)`."""


def _within(part: slice, before: int, length: int, after: int) -> tuple[slice, slice]:
    """Along one axis, a view's cells that lie in the latent and not in the zeros before and after it.

    Answers which cells of the patch they are, and which of the latent.
    """
    cells = range(*part.indices(before + length + after))
    first = max(0, min(len(cells), -((cells.start - before) // cells.step)))  # ceil((edge - start) / step)
    end = max(0, min(len(cells), -((cells.start - before - length) // cells.step)))
    inner = cells[first:end]
    return slice(first, end), slice(inner.start - before, max(0, inner.stop - before), inner.step)


class Cut:
    """How the views of a layout lie in a latent of `size_lat` (height, width), on its device.

    Planes are single rows, `(channels, height, width)`.
    share: `shared` divides by the number of times that the layout's plane shows a cell.
    """

    def __init__(self, layout: Layout, size_lat: tuple[int, int], device: torch.device, *, share: bool = False):
        self.layout = layout
        self.size_lat = size_lat
        self.around: tuple[torch.Tensor, torch.Tensor] | None = None
        self.shown: tuple[torch.Tensor, torch.Tensor] | None = None
        if layout.around is not None:
            axes = layout.around.rows, layout.around.cols
            self.around = self._on(device, axes[0]), self._on(device, axes[1])
            if share and any(len(set(axis)) < len(axis) for axis in axes):
                self.shown = self._on(device, self._times(axes[0])), self._on(device, self._times(axes[1]))

    @staticmethod
    def _on(device: torch.device, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=device)

    @staticmethod
    def _times(axis: Sequence[int]) -> list[int]:
        """How often the plane shows the cell that each of its cells shows."""
        times = Counter(axis)
        return [times[cell] for cell in axis]

    @property
    def padded_lat(self) -> tuple[int, int]:
        """The `(height, width)` of the plane that the views are slices of."""
        if self.layout.around is not None:
            return len(self.layout.around.rows), len(self.layout.around.cols)
        (height, width), (top, left, bottom, right) = self.size_lat, self.layout.padding
        return top + height + bottom, left + width + right

    def shape(self, view: View) -> tuple[int, int]:
        """The `(height, width)` of a view's patch."""
        return view.shape(*self.padded_lat)

    def _indices(self, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.around is not None
        return self.around[0][view.rows, None], self.around[1][view.cols]

    def _slices(self, view: View) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        (height, width), (top, left, bottom, right) = self.size_lat, self.layout.padding
        rows, cols = _within(view.rows, top, height, bottom), _within(view.cols, left, width, right)
        return (rows[0], cols[0]), (rows[1], cols[1])

    def copy_(self, patch: torch.Tensor, plane: torch.Tensor, view: View) -> None:
        """Writes what a view shows of the plane into `patch (channels, *shape(view))`."""
        if self.around is not None:
            rows, cols = self._indices(view)
            patch.copy_(plane[:, rows, cols])
            return
        (y, x), (rows_lat, cols_lat) = self._slices(view)
        if patch[:, y, x].shape != patch.shape:
            patch.zero_()
        patch[:, y, x] = plane[:, rows_lat, cols_lat]

    def add_(self, plane: torch.Tensor, view: View, answer: torch.Tensor, weight: float = 1.0) -> None:
        """Adds an answer to the cells of the plane that its view shows. No view shows a cell twice."""
        if self.around is not None:
            rows, cols = self._indices(view)
            plane[:, rows, cols] = plane[:, rows, cols].add_(answer, alpha=weight)
            return
        (y, x), (rows_lat, cols_lat) = self._slices(view)
        plane[:, rows_lat, cols_lat].add_(answer[:, y, x], alpha=weight)

    def shared(self, view: View, answer: torch.Tensor) -> torch.Tensor:
        """The answer, less where the plane shows a cell several times, so that other views answer for it too."""
        if self.shown is None:
            return answer
        rows, cols = self.shown
        return answer / (rows[view.rows, None] * cols[view.cols])

    def count(self, views: Sequence[View], like: torch.Tensor, weigh: Weigh | None = None) -> torch.Tensor:
        """How many of the views show each cell, `(1, height, width)`, at least 1, in `like`'s type; or what they weigh."""
        count = like.new_zeros(1, *self.size_lat)
        one = like.new_ones(1, 1, 1)
        for view in views:
            self.add_(count, view, weigh(view) if weigh else one.expand(1, *self.shape(view)))
        return count if weigh else count.clamp_(min=1)


def by_view(cut: Cut, owners: Sequence[int]) -> list[tuple[tuple[int, int], list[tuple[int, View]]]] | None:
    """All patches of a latent's rows, as `grouped` gives them, but view by view: one of each row, in the rows' order. None
    where rows have more views than others."""
    lists = [cut.layout.views[owner] for owner in owners]
    if len({len(views) for views in lists}) > 1:
        return None
    return [(cut.shape(views[0]), list(enumerate(views))) for views in zip(*lists)]


def grouped(cut: Cut, owners: Sequence[int]) -> dict[tuple[int, int], list[tuple[int, View]]]:
    """All patches of a latent's rows, as pairs of row and view, by the shape that the model is given them in."""
    groups: dict[tuple[int, int], list[tuple[int, View]]] = {}
    for row, owner in enumerate(owners):
        for view in cut.layout.views[owner]:
            groups.setdefault(cut.shape(view), []).append((row, view))
    return groups
