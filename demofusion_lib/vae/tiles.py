"""A plane cut into tiles: bands of whole rows, which lie in one piece in memory and in a file, while those are wide enough."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

MIN_ROWS = 8
"""Below so many rows a band is mostly halo, and is cut across as well."""


class Tile(NamedTuple):
    """Rows and columns of a plane, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def within(self, height: int, width: int) -> Tile:
        return Tile(max(0, self.top), min(height, self.bottom), max(0, self.left), min(width, self.right))

    @property
    def cells(self) -> int:
        return self.height * self.width


def tile_counts(height: int, width: int, cells: int) -> tuple[int, int]:
    """How many tiles down and across, of about `cells` each."""
    rows = max(cells // width, min(MIN_ROWS, height))
    return -(-height // rows), -(-width * min(rows, height) // max(cells, min(rows, height)))


def cut(height: int, width: int, cells: int) -> list[Tile]:
    """Tiles of about `cells` each and of nearly one size, row by row."""
    down, across = tile_counts(height, width, cells)
    return cut_evenly(height, width, down, across)


def cut_evenly(height: int, width: int, down: int, across: int) -> list[Tile]:
    rows = [height * number // down for number in range(down + 1)]
    columns = [width * number // across for number in range(across + 1)]
    return [Tile(top, bottom, left, right) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]
