"""The denoiser of a phase: local and global path, fused into one prediction for the whole latent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .phases import Phase, statistics, with_statistics
from .schedule import Weights
from .views import Layout, View, WindowGrid, dilated_layout
from .wrap import beyond

Predict = Callable[[torch.Tensor, Sequence[int], Sequence[View], Layout], torch.Tensor]
"""`predict(patches, rows, views, layout) -> outputs`: the model on patches `(n, channels, height, width)`; `rows[i]` is
the row of the whole latent, and so the condition, that patch `i` was cut from by `views[i]` of `layout`."""


def gaussian_blur(latent: torch.Tensor, kernel_size: int, std: float, *, wrap: bool = False) -> torch.Tensor:
    """A separable Gaussian over `(batch, channels, height, width)`; `std` in latent cells.

    Beyond the edge are zeros, or with `wrap` the cells of the opposite edge.
    """
    if kernel_size <= 1 or std <= 0:
        return latent
    offsets = torch.arange(kernel_size, device=latent.device, dtype=torch.float32).sub((kernel_size - 1) / 2)
    kernel = offsets.square().div(-2 * std**2).exp()
    kernel = (kernel / kernel.sum()).to(latent.dtype)
    channels, reach = latent.shape[1], kernel_size // 2
    if wrap:
        size_lat, zeros = (latent.shape[-2], latent.shape[-1]), 0
        latent = beyond(size_lat, reach, reach, reach, reach).spread(latent)
    else:
        zeros = reach
    latent = F.conv2d(latent, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), padding=(zeros, 0), groups=channels)
    return F.conv2d(latent, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), padding=(0, zeros), groups=channels)


def mean_over_views(
    plane: torch.Tensor, layout: Layout, owners: Sequence[int], predict: Predict, batch: int
) -> torch.Tensor:
    """The mean of the model's outputs over all views that cover a cell, for a padded plane `(rows, channels, H, W)`.

    The answer is of the latent's own size. `owners[row]` is the image, and so the views, that a row belongs to. The model gets at most `batch` patches at once.
    """
    groups = defaultdict(list)
    for row, owner in enumerate(owners):
        for view in layout.views[owner]:
            groups[view.shape(*plane.shape[-2:])].append((row, view))
    value = torch.zeros_like(plane)
    count = torch.zeros_like(plane[:, :1])
    for jobs in groups.values():
        for start in range(0, len(jobs), batch):
            chunk = jobs[start : start + batch]
            patches = torch.stack([plane[row, :, view.rows, view.cols] for row, view in chunk])
            outputs = predict(patches, [row for row, _ in chunk], [view for _, view in chunk], layout)
            for (row, view), output in zip(chunk, outputs):
                value[row, :, view.rows, view.cols] += output
                count[row, :, view.rows, view.cols] += 1
    return layout.gather(value) / layout.gather(count).clamp(min=1)


class PhaseFusion:
    """Fuses one phase's local and global path, `D = (1 - c2) * D_local + c2 * D_global` (paper section 3.3).

    blur: standard deviation of the global path's Gaussian at full noise, in latent cells, 0 for none.
    batch: how many patches the model gets at once, 1 or more.
    wrap: the picture goes on at its opposite edge: in the blur and the dilated sub-images; the grid has its own `wrap`.
    """

    def __init__(
        self,
        phase: Phase,
        grid: WindowGrid,
        weights: Weights,
        *,
        blur: float = 0.8,
        batch: int = 16,
        wrap: bool = False,
    ):
        self.phase = phase
        self.grid = grid
        self.weights = weights
        self.blur = blur
        self.batch = batch
        self.wrap = wrap
        self.local: Layout | None = None

    def begin_step(self, generators: Sequence[torch.Generator]) -> None:
        """Draws the step's windows, one generator for each image. All evaluations until the next call share them."""
        self.local = self.grid.layout(generators)

    def __call__(self, x: torch.Tensor, owners: Sequence[int], t: float, skip: float, predict: Predict) -> torch.Tensor:
        """The fused output for rows `x (rows, channels, height, width)`, in whatever form `predict` answers.

        owners: the image that each row belongs to; an image has several rows, one for each condition.
        skip: the factor with which the form of the output holds the model's input beside the network's output: 1 for
            the denoised of an epsilon model, `1 / (sigma^2 + 1)` for that of a v model, 0 where the output is epsilon.
        """
        if self.local is None:
            raise RuntimeError("begin_step has not been called")
        c2 = self.weights.c2(t)
        if c2 <= 0:
            return self._local_path(x, owners, predict)
        if c2 >= 1:
            return self._global_path(x, owners, t, skip, predict)
        local = self._local_path(x, owners, predict)
        return local.mul_(1 - c2).add_(self._global_path(x, owners, t, skip, predict), alpha=c2)

    def _local_path(self, x: torch.Tensor, owners: Sequence[int], predict: Predict) -> torch.Tensor:
        assert self.local is not None
        plane = self.local.pad(x)
        return mean_over_views(plane, self.local, owners, predict, self.batch)

    def _global_path(
        self, x: torch.Tensor, owners: Sequence[int], t: float, skip: float, predict: Predict
    ) -> torch.Tensor:
        """The dilated sub-images of the blurred `x`; the network's output is applied to the unblurred one."""
        dilation = self.phase.dilation
        layout = dilated_layout(x.shape[-2], x.shape[-1], dilation, max(owners) + 1, wrap=self.wrap)
        # the authors' zeros are blurred and counted with the picture; cells shown twice would count twice
        whole = x if self.wrap else layout.pad(x)
        blurred = gaussian_blur(whole, 2 * dilation - 1, self.blur * self.weights.c3(t), wrap=self.wrap)
        if blurred is not whole:
            blurred = with_statistics(blurred, *statistics(whole))
        plane = layout.pad(blurred) if self.wrap else blurred
        output = mean_over_views(plane, layout, owners, predict, self.batch)
        if blurred is not whole:
            output = output + layout.crop(whole - blurred).mul(skip)
        return output
