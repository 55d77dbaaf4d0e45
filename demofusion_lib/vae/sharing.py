"""Whose the tiles of a layer are, where several processes work on one picture; and what they hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import torch

from .planes import Answer, Plane
from .tiles import Tile

Rows = tuple[int, int]
"""The first and behind the last one of a plane."""
Made = TypeVar("Made")


class Sharing(Protocol):
    """Several processes that call all of this alike, in the same order.

    rank, ranks: which one this is, of how many. beside: how many of them share this machine's memory. speeds: of each.
    """

    rank: int
    ranks: int
    beside: int

    @property
    def speeds(self) -> list[float]: ...

    def least(self, value: int) -> int:
        """Of what each gives."""

    def together(self, work: Callable[[], Made], name: str = ...) -> Made:
        """What each does for itself. Where one fails, all do."""

    def made_once(self, make: Callable[[], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """What the first makes, in all of them."""

    def swap(self, to: Sequence[tuple[int, torch.Tensor]], of: Sequence[tuple[int, torch.Tensor]]) -> None:
        """Sends values, and writes those that come into the tensors `of`, by rank."""

    def lists(self, values: torch.Tensor) -> torch.Tensor:
        """All processes' float64 `(n, columns)` on the CPU one below the other, by rank; `n` may differ."""


def divided(tiles: Sequence[Tile], speeds: Sequence[float]) -> list[tuple[int, int]]:
    """Each rank's tiles, from the first to behind its last: whole rows of tiles, as many as its part of all speed.

    Borders are where they come nearest to that, so that they lie alike in layers of other tiles.
    """
    edges = [number for number in range(len(tiles)) if number == 0 or tiles[number].top != tiles[number - 1].top]
    edges.append(len(tiles))
    rows, total, done = tiles[-1].bottom, sum(speeds), 0.0
    borders = [0]
    for speed in speeds:
        done += speed / total
        nearest = min(edges, key=lambda edge: abs((tiles[edge].top if edge < len(tiles) else rows) - done * rows))
        borders.append(max(borders[-1], nearest))
    borders[-1] = len(tiles)
    return list(pairwise(borders))


def rows_of(tiles: Sequence[Tile], parts: Sequence[tuple[int, int]]) -> list[Rows]:
    """The rows of a plane that each part's tiles are."""
    return [(tiles[first].top, tiles[last - 1].bottom) if last > first else (0, 0) for first, last in parts]


def lacking(wanted: Sequence[Rows], held: Rows) -> list[Rows]:
    """What is wanted and not held."""
    found = []
    for low, high in wanted:
        for start, stop in (
            ((low, min(high, held[0])), (max(low, held[1]), high)) if held[1] > held[0] else ((low, high),)
        ):
            if stop > start:
                found.append((start, stop))
    return found


def moves(wanted: Sequence[Sequence[Rows]], held: Sequence[Rows]) -> list[tuple[int, int, Rows]]:
    """From which rank to which, and which rows. wanted, held: of each rank."""
    found = []
    for to, ranges in enumerate(wanted):
        for low, high in lacking(ranges, held[to]):
            for source, (first, last) in enumerate(held):
                if source != to and min(high, last) > max(low, first):
                    found.append((source, to, (max(low, first), min(high, last))))
    return found


def hand_over(
    sharing: Sharing, plane: Plane | Answer, wanted: Sequence[Sequence[Rows]], held: Sequence[Rows], like: torch.Tensor
) -> None:
    """Lays what each rank wants of a plane into its own. like: of the plane's type and device."""
    found = moves(wanted, held)
    if not found:
        return
    _, width, channels = plane.shape

    def tile(rows: Rows) -> Tile:
        return Tile(*rows, 0, width)

    def outgoing() -> list[tuple[int, torch.Tensor]]:
        return [
            (to, plane.read(tile(rows)).to(like.device).contiguous())
            for source, to, rows in found
            if source == sharing.rank
        ]

    to = sharing.together(outgoing, "rows")
    of = [
        (source, rows, like.new_empty(rows[1] - rows[0], width, channels))
        for source, to_rank, rows in found
        if to_rank == sharing.rank
    ]
    sharing.swap(to, [(source, values) for source, _, values in of])
    for _, rows, values in of:
        plane.write(tile(rows), values)
    if not isinstance(plane, Answer):
        plane.flush()
