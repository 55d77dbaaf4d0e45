"""Whether windows show: the step across the lines where they begin and end. Pictures are `(3, height, width)` in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from scipy import ndimage

from demofusion_lib.core import WindowGrid
from demofusion_lib.targets import LATENT_PX
from lab.scenes import WEAVE_PX

from .geometry import EDGE, HALO_PX, Geometry, luma

Lines = tuple[Sequence[int], Sequence[int]]
"""Rows and columns of pixels, in order, that begin behind a seam if there is one."""

GREY_LEVEL = 1 / 255
PIECE_PX = 2 * WEAVE_PX
"""A line is looked at in pieces of so many pixels: whole periods, over which the weave adds nothing to a step."""
SIDE_PX = LATENT_PX
"""What lies so far on both sides is compared: windows meet in whole latent cells, and the autoencoder blurs that over one."""
SHIFTS_PX = (-4, 0, 4)
"""A step is looked for so far from a line: one cell that differs from both of its neighbours is a seam as well."""
AROUND_PX = (-32, -24, -16, 16, 24, 32)
"""Other edges of cells, what the picture has there anyhow; none so near to a line that it would show its step."""
MOST = 8.0
"""Grey levels beyond which a step counts no more: what is left of a contour must not outshout the other pieces."""
LEAST_PIECES = 3


def lines_of(grid: WindowGrid) -> Lines:
    """Where the grid's windows begin or end within the picture without jitter, in pixels."""
    views = replace(grid, jitter=False).views(torch.Generator())
    return inner([view.rows for view in views], grid.height_lat), inner([view.cols for view in views], grid.width_lat)


def inner(windows: Sequence[slice], length_lat: int) -> list[int]:
    ends = {end for window in windows for end in (window.start, window.stop)}
    return [LATENT_PX * end for end in sorted(ends) if 0 < end < length_lat]


def contours(geometry: Geometry) -> torch.Tensor:
    """`(height, width)`: in or near an object, or near the border of sky and ground."""
    sky = torch.from_numpy(ndimage.gaussian_filter(geometry.grey, 1.0) > EDGE)
    border = torch.zeros_like(sky)
    border[:, 1:] |= sky[:, 1:] != sky[:, :-1]
    border[1:] |= sky[1:] != sky[:-1]
    near = ndimage.maximum_filter(border.numpy(), 2 * HALO_PX + 1, mode="constant")
    return torch.from_numpy(near | geometry.hidden)


def steps(grey: torch.Tensor, contour: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each piece and each column `x`, `(pieces, width)`: how much brighter the `SIDE_PX` columns from `x` on are than
    those before it, mean over the piece, and whether no contour is among them."""
    height, width = grey.shape
    count = height // PIECE_PX
    light, taken = (
        p[: count * PIECE_PX].reshape(count, PIECE_PX, width).mean(1) for p in (grey.double(), contour.double())
    )
    sums, hidden = (F.pad(plane, (1, 0)).cumsum(1) for plane in (light, taken))
    sides, hidden = (
        plane[:, SIDE_PX:] - plane[:, :-SIDE_PX] for plane in (sums, hidden)
    )  # columns x ... x + SIDE_PX - 1
    step, seen = torch.zeros(count, width), torch.zeros(count, width, dtype=torch.bool)
    inner = slice(SIDE_PX, width - SIDE_PX + 1)
    step[:, inner] = ((sides[:, SIDE_PX:] - sides[:, :-SIDE_PX]) / SIDE_PX).float()
    seen[:, inner] = (hidden[:, SIDE_PX:] + hidden[:, :-SIDE_PX]) < 1e-6
    return step, seen


def across(step: torch.Tensor, seen: torch.Tensor, places: Sequence[int]) -> tuple[float, int]:
    """Mean square of the greatest step of each piece at `places`, in grey levels, and how many pieces could be seen."""
    columns = torch.tensor([[place + shift for shift in SHIFTS_PX] for place in places])
    greatest = (step[:, columns].abs().amax(-1) / GREY_LEVEL).clamp(max=MOST)
    told = seen[:, columns].all(-1)
    return float(greatest[told].square().sum()) / max(int(told.sum()), 1), int(told.sum())


def seam_ratio(picture: torch.Tensor, geometry: Geometry, lines: Lines) -> float | None:
    """The step across the line that shows most, over that across other edges of latent cells around it; 1 without a seam.

    Root mean squares over pieces of the line, a grey level added to both: `sqrt((1 + line) / (1 + around))`. Contours are
    left out, so that a horizon on a line is none. None where no line can be seen.
    """
    grey, contour, ratios = luma(picture), contours(geometry), []
    for plane, hidden, all_lines in ((grey.T, contour.T, lines[0]), (grey, contour, lines[1])):
        step, seen = steps(plane, hidden)
        reach = SIDE_PX - min(SHIFTS_PX)
        inside = range(reach, plane.shape[1] - reach + 1)
        for line in all_lines:
            around = [line + away for away in AROUND_PX]
            around = [
                x
                for x in around
                if x in inside and all(abs(x - other) >= min(map(abs, AROUND_PX)) for other in all_lines)
            ]
            if line not in inside or not around:
                continue
            (on_line, pieces), (beside, others) = across(step, seen, [line]), across(step, seen, around)
            if pieces >= LEAST_PIECES and others >= LEAST_PIECES:
                ratios.append(math.sqrt((1 + on_line) / (1 + beside)))
    return max(ratios, default=None)
