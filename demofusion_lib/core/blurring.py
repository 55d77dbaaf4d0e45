"""The global path's Gaussian."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .phases import statistics
from .views import Layout
from .wrap import beyond


def gaussian_blur(latent: torch.Tensor, kernel_size: int, std: float, *, wrap: bool = False) -> torch.Tensor:
    """A separable Gaussian over `(batch, channels, height, width)`; `std` in latent cells.

    Beyond the edge are zeros, or with `wrap` the cells of the opposite edge. Channel by channel: beside the answer it
    takes no more than a few of them.
    """
    if kernel_size <= 1 or std <= 0:
        return latent
    offsets = torch.arange(kernel_size, device=latent.device, dtype=torch.float32).sub((kernel_size - 1) / 2)
    kernel = offsets.square().div(-2 * std**2).exp()
    kernel = (kernel / kernel.sum()).to(latent.dtype)
    blurred = torch.empty_like(latent, memory_format=torch.contiguous_format)
    for row in range(latent.shape[0]):
        for channel in range(latent.shape[1]):
            part = (slice(row, row + 1), slice(channel, channel + 1))
            blurred[part] = _blurred_channel(latent[part], kernel, wrap)
    return blurred


def _blurred_channel(plane: torch.Tensor, kernel: torch.Tensor, wrap: bool) -> torch.Tensor:
    """`plane (1, 1, height, width)`."""
    reach = zeros = len(kernel) // 2
    if wrap:
        plane, zeros = beyond((plane.shape[-2], plane.shape[-1]), reach, reach, reach, reach).spread(plane), 0
    plane = F.conv2d(plane, kernel.view(1, 1, -1, 1), padding=(zeros, 0))
    return F.conv2d(plane, kernel.view(1, 1, 1, -1), padding=(0, zeros))


class BlurredRows:
    """The blurred picture of one row at a time, with the zeros that the layout expects around it.

    What the blur took away of a row is added to `fused`, times `weight`, when it is first asked for.
    restores: or not yet, as long as this is False.
    compares: whether rows may be looked at for being the same, for which a device would be waited for.
    """

    def __init__(
        self,
        x: torch.Tensor,
        fused: torch.Tensor,
        layout: Layout,
        kernel_size: int,
        std: float,
        weight: float,
        wrap: bool,
        compares: bool,
    ):
        self.x, self.fused, self.layout = x, fused, layout
        self.compares = compares
        self.kernel_size, self.std = kernel_size, std
        self.weight = weight
        self.wrap = wrap
        self.row: int | None = None
        self.plane: torch.Tensor | None = None
        self.restored: set[int] = set()
        self.restores = True

    def __call__(self, row: int) -> torch.Tensor:
        if self.plane is None or not self._shows(row):
            self.plane = None  # before the next one is made: two rows never lie side by side
            self.plane = self._blurred(row)
        self.row = row
        if self.restores and self.blurs and row not in self.restored:
            self._restore(row, self.plane[None])
        return self.plane

    def restore(self, row: int) -> None:
        """Without any patch of the row."""
        if row not in self.restored:
            self(row)

    @property
    def blurs(self) -> bool:
        return self.kernel_size > 1 and self.std > 0

    def _shows(self, row: int) -> bool:
        """Whether the plane is this row's too: prompt and negative prompt are asked about one latent."""
        known = self.row
        return row == known or (known is not None and self.compares and torch.equal(self.x[row], self.x[known]))

    def _blurred(self, row: int) -> torch.Tensor:
        """By its own statistics: those of the padded row, as the authors' zeros are counted with the picture."""
        x = self.x[row : row + 1]
        whole = x if self.wrap else self.layout.pad(x)  # cells shown twice would count twice
        blurred = gaussian_blur(whole, self.kernel_size, self.std, wrap=self.wrap)
        if blurred is not whole:
            with_statistics_(blurred, *statistics(whole))
        return blurred[0]

    def _restore(self, row: int, blurred: torch.Tensor) -> None:
        taken = self.x[row : row + 1] - (blurred if self.wrap else self.layout.crop(blurred))
        self.fused[row : row + 1].add_(taken, alpha=self.weight)
        self.restored.add(row)


def with_statistics_(latent: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> None:
    """`phases.with_statistics` in place."""
    own_mean, own_std = statistics(latent)
    gain = torch.where(own_std.gt(0), std / own_std, torch.zeros_like(std))
    latent.sub_(own_mean).mul_(gain).add_(mean)
