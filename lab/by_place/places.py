"""Where the words of a prompt are, by the attention that the base image's cells paid them; and which of them a window keeps.

After AccDiffusion (arXiv 2407.10738): a window that is told of a subject which lies elsewhere draws it once more. A word is
where more attention than usual lies on it, and a window keeps it that shows enough of that place. What no place stands out
for holds everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

PEAK = 2.0
"""A word has a place where it has so many times the mean attention."""
SHARE = 0.3
"""Of a word's place, or of a window, that a window must show of it to keep the word (AccDiffusion's, of a window alone)."""


class Gathered:
    """The attention of one picture's or batch's sampling, summed layer by layer. size_lat: its latent's `(height, width)`."""

    def __init__(self, size_lat: tuple[int, int]):
        self.size_lat = size_lat
        self.sums: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, attention: torch.Tensor) -> None:
        """attention: `(images, cells, tokens)`, which sums up to 1 over tokens; cells row by row of the latent or of one
        that is half, a quarter of it and so on."""
        size = self._layer_size(attention.shape[1])
        if size is not None:
            known = self.sums.get(size)
            self.sums[size] = attention.float() if known is None else known.add_(attention)

    def _layer_size(self, cells: int) -> tuple[int, int] | None:
        """None for a layer that does not lie on the picture."""
        height, width = self.size_lat
        while height * width > cells:
            height, width = (height + 1) // 2, (width + 1) // 2
        return (height, width) if height * width == cells else None

    def maps(self) -> torch.Tensor:
        """`(images, tokens, height, width)`, on the CPU: each layer's mean over the picture is 1. Raises ValueError where
        nothing was added."""
        if not self.sums:
            raise ValueError("no attention was gathered")
        layers = []
        for (height, width), total in self.sums.items():
            planes = total.transpose(1, 2).unflatten(2, (height, width))
            planes = planes / planes.mean((2, 3), keepdim=True).clamp(min=1e-12)
            layers.append(F.interpolate(planes, size=self.size_lat, mode="bilinear"))
        return torch.stack(layers).mean(0).cpu()


def places(maps: torch.Tensor, words: Sequence[Sequence[int]], peak: float = PEAK) -> torch.Tensor:
    """Where each word is, a bool `(words, height, width)`; all true of one that holds everywhere.

    maps: of one image, `(tokens, height, width)`, each of mean 1. words: the tokens of each word.
    """
    found = []
    for tokens in words:
        plane = maps[list(tokens)].mean(0)
        smooth = F.avg_pool2d(plane[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
        high = float(smooth.max())
        # half-way between the mean and the peak: the place's own extent, whatever the peak
        found.append(smooth > (1 + high) / 2 if high >= peak else torch.ones_like(smooth, dtype=torch.bool))
    return torch.stack(found) if found else torch.ones(0, *maps.shape[1:], dtype=torch.bool)


def kept(where: torch.Tensor, box: tuple[float, float, float, float], share: float = SHARE) -> tuple[bool, ...]:
    """Which words a window keeps. where: `places`. box: `(top, left, bottom, right)` in shares of the picture."""
    height, width = where.shape[1:]
    rows = torch.arange(height).add(0.5).div(height)
    cols = torch.arange(width).add(0.5).div(width)
    top, left, bottom, right = box
    within = ((rows >= top) & (rows < bottom))[:, None] & ((cols >= left) & (cols < right))
    shown = (where & within).flatten(1).sum(1)
    least = where.flatten(1).sum(1).clamp(max=max(1, int(within.sum())))
    return tuple((shown >= share * least).tolist())
