"""A picture that goes on at its own opposite edge: which cells lie beyond it, and what becomes of answers given there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Around:
    """A plane that shows cells of a latent of `size_lat` (height, width) again where it goes on beyond an edge.

    rows, cols: for each row and column of the plane the one of the latent that it shows; each is shown at least once.
    """

    size_lat: tuple[int, int]
    rows: Sequence[int]
    cols: Sequence[int]

    def spread(self, latent: torch.Tensor) -> torch.Tensor:
        """The plane `(..., len(rows), len(cols))` of a latent `(..., height, width)`."""
        rows, cols = self._indices(latent.device)
        return latent.index_select(-2, rows).index_select(-1, cols)

    def gather(self, plane: torch.Tensor) -> torch.Tensor:
        """The latent in which each cell is the sum of the plane's cells that show it."""
        (height, width), (rows, cols) = self.size_lat, self._indices(plane.device)
        tall = plane.new_zeros(*plane.shape[:-2], height, plane.shape[-1]).index_add_(-2, rows, plane)
        return plane.new_zeros(*plane.shape[:-2], height, width).index_add_(-1, cols, tall)

    def _indices(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.rows, device=device), torch.tensor(self.cols, device=device)


def beyond(size_lat: tuple[int, int], top: int, left: int, bottom: int, right: int) -> Around:
    """The latent with so many cells more at each edge, each 0 or more and of any number, taken from the opposite one."""
    height, width = size_lat
    rows = [row % height for row in range(-top, height + bottom)]
    return Around(size_lat, rows, [col % width for col in range(-left, width + right)])
