"""What runs, how far it is, and whether the user wants it to end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch

from .lanes import Pace

Stretch = tuple[int, float]
"""Tiles that come one after the other and are alike, and the work of them all."""


class Progress:
    """Counts tiles, and tells: of so many to `on_tile`, of the share of the work to `on_share`. of_each: of one picture."""

    def __init__(
        self,
        of_each: list[Stretch],
        pictures: int,
        on_tile: Callable[[int, int], None] | None,
        device: torch.device,
        on_share: Callable[[float], None] | None = None,
    ):
        self.pace = Pace(device)
        self.done, self.total = 0, pictures * sum(tiles for tiles, _ in of_each)
        self.on_tile, self.on_share = on_tile, on_share
        self._work = _tile_by_tile(itertools.chain.from_iterable([of_each] * pictures))
        self._done_work, self._total_work = 0.0, pictures * sum(work for _, work in of_each)

    def tile(self) -> None:
        self.pace.tile()
        self.done += 1
        self._done_work += next(self._work, 0.0)
        if self.on_tile is not None:
            self.on_tile(self.done, self.total)
        if self.on_share is not None:
            self.on_share(min(1.0, self._done_work / self._total_work))


def _tile_by_tile(stretches: Iterable[Stretch]) -> Iterator[float]:
    return (work / tiles for tiles, work in stretches for _ in range(tiles))
