"""How far the work is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .lanes import Pace


class Progress:
    """Counts tiles, and tells."""

    def __init__(self, total: int, on_tile: Callable[[int, int], None] | None, device: torch.device):
        self.pace = Pace(device)
        self.done, self.total, self.on_tile = 0, total, on_tile

    def tile(self) -> None:
        self.pace.tile()
        self.done += 1
        if self.on_tile is not None:
            self.on_tile(self.done, self.total)
