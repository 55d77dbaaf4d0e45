"""Where the model looks: overlapping local windows and dilated sub-images, as slices of a padded latent."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .wrap import Around, beyond

BORDERS = ("inside", "paper")


@dataclass(frozen=True)
class View:
    """A part of a padded latent. `corner_lat` is a local window's `(top, left)`, None for a dilated sub-image.

    prompt: which one it is asked with of a row that has others for parts of the picture, 0 the row's own; None: of any other
    row, the only one.
    """

    rows: slice
    cols: slice
    corner_lat: tuple[int, int] | None = None
    prompt: int | None = None

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """The `(height, width)` that this view cuts from a padded latent of the given size."""
        return len(range(*self.rows.indices(height))), len(range(*self.cols.indices(width)))


@dataclass(frozen=True)
class Layout:
    """The views of each image of a batch, and the zeros `(top, left, bottom, right)` they expect around it.

    around: in place of zeros, what a picture that goes on at its opposite edge shows there.
    """

    views: Sequence[Sequence[View]]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    around: Around | None = None

    def pad(self, plane: torch.Tensor) -> torch.Tensor:
        if self.around is not None:
            return self.around.spread(plane)
        top, left, bottom, right = self.padding
        return F.pad(plane, (left, right, top, bottom)) if any(self.padding) else plane

    def crop(self, plane: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = self.padding
        return plane[..., top : plane.shape[-2] - bottom, left : plane.shape[-1] - right]

    def gather(self, plane: torch.Tensor) -> torch.Tensor:
        """What the views added up in a padded plane, cell by cell of the latent."""
        return self.crop(plane) if self.around is None else self.around.gather(plane)


def step_generator(seed: int, phase: int, step: int) -> torch.Generator:
    """A generator that depends on the image's seed, the phase and the step alone, on any machine."""
    digest = hashlib.blake2b(f"{seed}/{phase}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis: every stride, the last one moved back to end at `length`."""
    count = math.ceil((length - window) / stride) + 1 if length > window else 1
    return [max(0, min(i * stride, length - window)) for i in range(count)]


def _starts_around(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin around a circle: evenly, no farther apart than the stride.

    A window as long as the circle has a mate at least, that looks across the place where its two ends meet.
    """
    count = max(math.ceil(length / stride), 2 if window >= length else 1)
    return [i * length // count for i in range(count)]


@dataclass(frozen=True)
class WindowGrid:
    """Overlapping windows over a latent of `(height_lat, width_lat)` (paper section 3.1, the shifted crop sampling).

    window_lat: `(height, width)` of a window, the model's native size; never more than the latent for `inside`.
    overlap: the share of a window that its neighbour covers too, in [0, 1).
    jitter: shift every window by at most `(window - stride) / 4`, drawn anew each step.
    border: `inside` keeps every window within the image; `paper` lets edge windows overhang by the jitter's range,
        into zeros, and counts corners from the padded edge, as the authors do.
    wrap: the picture has no edge, and so no border: windows begin all around it and reach over to the opposite side.
        A corner is where the window begins within the picture, `0 <= top < height_lat`, `0 <= left < width_lat`.

    Raises ValueError for another overlap or border.
    """

    height_lat: int
    width_lat: int
    window_lat: tuple[int, int]
    overlap: float = 0.5
    jitter: bool = True
    border: str = "inside"
    wrap: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap is {self.overlap}, allowed: 0 to below 1")
        if self.border not in BORDERS:
            raise ValueError(f"border is {self.border!r}, allowed: {', '.join(BORDERS)}")

    def _axes(self) -> list[tuple[int, int, int]]:
        """For each axis: length, window, stride."""
        axes = []
        for length, window in zip((self.height_lat, self.width_lat), self.window_lat):
            window = window if self.border == "paper" and not self.wrap else min(window, length)
            axes.append((length, window, max(1, round(window * (1 - self.overlap)))))
        return axes

    def jitter_range_lat(self) -> tuple[int, int]:
        """The largest shift of a window, `(vertical, horizontal)`. Below it every cell stays covered."""
        if not self.jitter:
            return 0, 0
        (_, height, stride_y), (_, width, stride_x) = self._axes()
        return (height - stride_y) // 4, (width - stride_x) // 4

    def _starts(self) -> list[list[int]]:
        """For each axis: where windows begin without jitter."""
        return [(_starts_around if self.wrap else _starts)(*axis) for axis in self._axes()]

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self._starts())

    def reaches(self) -> list[list[Sequence[int]]]:
        """For each axis: the cells of the picture that each window shows, wherever jitter puts it."""
        return [
            [self._reached(start, axis, reach) for start in starts]
            for starts, axis, reach in zip(self._starts(), self._axes(), self.jitter_range_lat())
        ]

    def _reached(self, start: int, axis: tuple[int, int, int], reach: int) -> Sequence[int]:
        length, window, _ = axis
        low, high = (
            (start + self._shift(start, axis, reach, draw) for draw in (0.0, 1 - 1e-9)) if reach else (start,) * 2
        )
        if self.wrap:
            return range(length) if high - low + window >= length else [i % length for i in range(low, high + window)]
        return range(max(low, 0), min(high + window, length))

    def _shift(self, start: int, axis: tuple[int, int, int], reach: int, draw: float) -> int:
        """A whole shift within the reach, uniform for a uniform `draw` in [0, 1). Edge windows move outwards only."""
        if self.wrap:
            return int(draw * (2 * reach + 1)) - reach
        length, window, _ = axis
        low = 0 if start + window >= length else -reach
        high = 0 if start == 0 else reach
        shift = low + int(draw * (high - low + 1))
        if self.border == "inside":
            shift = max(-start, min(shift, length - window - start))
        return shift

    def views(self, generator: torch.Generator) -> list[View]:
        """One step's windows, row by row."""
        vertical, horizontal = self._axes()
        reach_y, reach_x = self.jitter_range_lat()
        margin_y, margin_x = (reach_y, reach_x) if self.border == "paper" and not self.wrap else (0, 0)
        corners = list(itertools.product(*self._starts()))
        draws = torch.rand(len(corners), 2, generator=generator, dtype=torch.float64).tolist() if self.jitter else []
        views = []
        for i, (top, left) in enumerate(corners):
            if draws:
                top += self._shift(top, vertical, reach_y, draws[i][0])
                left += self._shift(left, horizontal, reach_x, draws[i][1])
            top, left = top + margin_y, left + margin_x
            if self.wrap:
                top, left = top % self.height_lat, left % self.width_lat
            views.append(View(slice(top, top + vertical[1]), slice(left, left + horizontal[1]), (top, left)))
        return views

    def layout(self, generators: Sequence[torch.Generator]) -> Layout:
        """One step's windows for a batch, each image's drawn from its own generator."""
        views = [self.views(generator) for generator in generators]
        if self.wrap:
            (height, window_height, _), (width, window_width, _) = self._axes()
            return Layout(views, around=beyond((height, width), 0, 0, window_height - 1, window_width - 1))
        y, x = self.jitter_range_lat() if self.border == "paper" else (0, 0)
        return Layout(views, (y, x, y, x))


def _blocks_around(length: int, dilation: int) -> list[int]:
    """A circle of `length` cells in blocks of `dilation`, evenly spread: where they don't fit, some share a cell."""
    count = math.ceil(length / dilation)
    return [(block * length // count + i) % length for block in range(count) for i in range(dilation)]


def dilated_layout(height_lat: int, width_lat: int, dilation: int, batch: int, *, wrap: bool = False) -> Layout:
    """The `dilation * dilation` interleaved sub-images, after padding top and left to a multiple (section 3.3).

    wrap: instead of padding, the cells that are missing to a multiple are shown twice, here and there all around. Each
        sub-image then goes on at its own opposite edge as the picture does: exactly where the size is a multiple, else
        with steps of `dilation` and of one less in turn, at the edge as everywhere.
    """
    views = [View(slice(i, None, dilation), slice(j, None, dilation)) for i in range(dilation) for j in range(dilation)]
    if wrap:
        rows, cols = _blocks_around(height_lat, dilation), _blocks_around(width_lat, dilation)
        return Layout([views] * batch, around=Around((height_lat, width_lat), rows, cols))
    return Layout([views] * batch, (-height_lat % dilation, -width_lat % dilation, 0, 0))
