"""A plane's mean and variance by channel, gathered tile by tile and merged once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import NotFinite
from .program import Norm
from .sharing import Sharing

BLOCK = 1 << 18
"""Values reckoned at a time: few enough to stay in a processor's cache."""
GPU_BLOCKS = 32
"""How many times as many a GPU takes."""


def block_rows(tile: torch.Tensor) -> int:
    """How many rows of a tile `(height, width, channels)` to work on at a time."""
    block = BLOCK if tile.device.type == "cpu" else BLOCK * GPU_BLOCKS
    return max(1, block // (tile.shape[1] * tile.shape[2]))


def wide_dtype(values: torch.Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def wide(values: torch.Tensor) -> torch.Tensor:
    """In the precision that is normalised and counted in: float32, whatever the layers' own, unless that is finer."""
    return values.to(wide_dtype(values))


@dataclass
class Moments:
    """Of a plane, by channel `(channels)`, in float64 on the CPU: the mean and the mean squared deviation from it."""

    mean: torch.Tensor
    variance: torch.Tensor

    def by_group(self, groups: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and inverse deviation of a group norm, by channel. The groups' channels are merged like tiles are."""
        mean = self.mean.view(groups, -1)
        whole = mean.mean(1, keepdim=True)
        variance = self.variance.view(groups, -1).mean(1, keepdim=True) + (mean - whole).square().mean(1, keepdim=True)
        spread = (variance + eps).rsqrt()
        return whole.expand_as(mean).reshape(-1), spread.expand_as(mean).reshape(-1)


class Gathered:
    """What the tiles of one plane tell: their counts here, means and squared deviations still on the device."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.means: list[torch.Tensor] = []
        self.squares: list[torch.Tensor] = []

    def add(self, tile: torch.Tensor) -> None:
        """A tile's core `(height, width, channels)`; every cell of a plane is to come once. Waits for no device."""
        for part in torch.split(tile, block_rows(tile)):
            cells = wide(part).reshape(-1, part.shape[-1])
            mean = cells.mean(0)
            self.counts.append(cells.shape[0])
            self.means.append(mean)
            self.squares.append((cells - mean).square_().sum(0))
            del cells  # before the next ones are made

    def merged(self, layer: str, sharing: Sharing | None = None) -> Moments:
        """Counts, means and squared deviations of all tiles as one (Chan, Golub and LeVeque 1979). Raises NotFinite.

        sharing: of several processes, each of which has gathered those of its own tiles.
        """
        counts, means, squares = self._listed() if sharing is None else self._of_all(sharing)
        if not (means.isfinite().all() and squares.isfinite().all()):
            raise NotFinite(layer)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (squares.sum(0) + (counts * (means - mean).square()).sum(0)) / total
        return Moments(mean, variance)

    def _listed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        both = torch.stack([torch.stack(self.means), torch.stack(self.squares)]).cpu().double()
        return torch.tensor(self.counts, dtype=torch.float64)[:, None], both[0], both[1]

    def _of_all(self, sharing: Sharing) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """In the order of the tiles, which is that of the ranks, so that the sums are one process's."""
        own = torch.cat(self._listed(), 1) if self.means else torch.empty(0, 0, dtype=torch.float64)
        every = sharing.lists(own)
        channels = every.shape[1] // 2
        counts, means, squares = torch.split(every, [1, channels, channels], 1)
        return counts.contiguous(), means.contiguous(), squares.contiguous()


@dataclass(frozen=True)
class Affine:
    """A group norm with its statistics in it, `x * scale + shift` by channel, in float32, and the SiLU behind it."""

    scale: torch.Tensor
    shift: torch.Tensor
    silu: bool

    @classmethod
    def of(cls, norm: Norm, moments: Moments) -> Affine:
        mean, spread = moments.by_group(norm.groups, norm.eps)
        device = norm.weight.device
        scale = norm.weight.detach().cpu().double() * spread
        shift = norm.bias.detach().cpu().double() - mean * scale
        return cls(scale.float().to(device), shift.float().to(device), norm.silu)

    def write(self, tile: torch.Tensor, out: torch.Tensor) -> None:
        """From one `(height, width, channels)` into another of any precision, reckoned in float32."""
        rows = block_rows(tile)
        for part, target in zip(torch.split(tile, rows), torch.split(out, rows)):
            value = torch.addcmul(self.shift.to(wide_dtype(part)), wide(part), self.scale.to(wide_dtype(part)))
            if self.silu:
                torch.nn.functional.silu(value, inplace=True)
            target.copy_(value)
            del value  # before the next one is made
