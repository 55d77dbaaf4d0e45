"""The denoiser of a phase: local and global path, fused into one prediction for the whole latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .batching import WindowBatch
from .cutting import Cut, Weigh, grouped
from .finite import NotFiniteError, Place, all_finite, not_finite, place_of, total
from .phases import Phase, statistics
from .schedule import Weights
from .views import Layout, View, WindowGrid, dilated_layout
from .weighing import Masks, WindowWeights
from .wrap import beyond

Predict = Callable[[torch.Tensor, Sequence[int], Sequence[View], Layout], torch.Tensor]
"""`predict(patches, rows, views, layout) -> outputs`: the model on patches `(n, channels, height, width)`; `rows[i]` is
the row of the whole latent, and so the condition, that patch `i` was cut from by `views[i]` of `layout`."""

Job = tuple[int, View]
"""A patch to be asked for: the row it is cut from, and its view."""
Jobs = Sequence[Job]


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
    ):
        self.x, self.fused, self.layout = x, fused, layout
        self.kernel_size, self.std = kernel_size, std
        self.weight = weight
        self.wrap = wrap
        self.row: int | None = None
        self.plane: torch.Tensor | None = None
        self.restored: set[int] = set()

    def __call__(self, row: int) -> torch.Tensor:
        if self.plane is None or row != self.row:
            self.plane = None  # before the next one is made: two rows never lie side by side
            self.plane, self.row = self._blurred(row), row
        return self.plane

    def _blurred(self, row: int) -> torch.Tensor:
        """By its own statistics: those of the padded row, as the authors' zeros are counted with the picture."""
        x = self.x[row : row + 1]
        whole = x if self.wrap else self.layout.pad(x)  # cells shown twice would count twice
        blurred = gaussian_blur(whole, self.kernel_size, self.std, wrap=self.wrap)
        if blurred is not whole:
            with_statistics_(blurred, *statistics(whole))
            del whole
            if row not in self.restored:
                self._restore(row, x - (blurred if self.wrap else self.layout.crop(blurred)))
        return blurred[0]

    def _restore(self, row: int, taken: torch.Tensor) -> None:
        self.fused[row : row + 1].add_(taken, alpha=self.weight)
        self.restored.add(row)


def with_statistics_(latent: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> None:
    """`phases.with_statistics` in place."""
    own_mean, own_std = statistics(latent)
    gain = torch.where(own_std.gt(0), std / own_std, torch.zeros_like(std))
    latent.sub_(own_mean).mul_(gain).add_(mean)


class Asked(NamedTuple):
    """Whom the patches of an evaluation are given to.

    alike: how many rows every evaluation of the phase has a multiple of. rescued: gets a place for every patch that `rescue`
    had to answer. totals: gets a number for each batch of answers, finite only if they are; nobody looks at them before.
    None where they are to be looked at as they come.
    """

    predict: Predict
    rescue: Predict
    alike: int
    rescued: list[Place]
    totals: list[torch.Tensor] | None


@dataclass(frozen=True)
class Path:
    """One path of an evaluation: what its patches are cut from, whom they are given to, and where the outputs go.

    rows, cut: what the patches of a row are cut from and how. fused, to, weight: what the outputs are added to, where in
    it, and times what. weigh: and times what within a view.
    """

    owners: Sequence[int]
    rows: Callable[[int], torch.Tensor]
    cut: Cut
    fused: torch.Tensor
    to: Cut
    weight: float
    asked: Asked
    weigh: Weigh | None = None

    def run(self, batch: WindowBatch, native: int) -> None:
        """native: how many cells a native window has."""
        for shape, jobs in grouped(self.cut, self.owners).items():
            self._run_group(batch, math.prod(shape) / native, shape, jobs)

    def _run_group(self, batch: WindowBatch, area: float, shape: tuple[int, int], jobs: Jobs) -> None:
        batch.work(
            len(jobs), area, self.fused.device,
            lambda start, stop: self._ask(self.asked.predict, jobs[start:stop], shape),
            lambda start, stop, outputs: self._take(jobs[start:stop], shape, outputs),
            len(jobs) * self.asked.alike // len(self.owners),
        )  # fmt: skip

    def _ask(self, predict: Predict, jobs: Jobs, shape: tuple[int, int]) -> torch.Tensor:
        patches = self.fused.new_empty(len(jobs), self.fused.shape[1], *shape)
        for patch, (row, view) in zip(patches, jobs):
            self.cut.copy_(patch, self.rows(row), view)
        return predict(patches, [row for row, _ in jobs], [view for _, view in jobs], self.to.layout)

    def _take(self, jobs: Jobs, shape: tuple[int, int], outputs: torch.Tensor) -> None:
        answers = list(outputs)
        if self.asked.totals is not None:
            self.asked.totals.append(total(outputs))
        elif not all_finite(outputs):
            for i in not_finite(answers):
                answers[i] = self._again(jobs[i], shape)
        for (row, view), answer in zip(jobs, answers):
            answer = self.to.shared(view, answer)
            self.to.add_(self.fused[row], view, answer * self.weigh(view) if self.weigh else answer, self.weight)

    def _again(self, job: Job, shape: tuple[int, int]) -> torch.Tensor:
        """The finite answer to one patch that was answered with NaN or infinity."""
        row, view = job
        place = place_of(row, self.owners[row], view, self.to.layout, shape)
        patch = self.fused.new_empty(self.fused.shape[1], *shape)
        self.cut.copy_(patch, self.rows(row), view)
        if not all_finite(patch):
            raise NotFiniteError(place, given=True)
        answer = self._ask(self.asked.rescue, [job], shape)[0]
        if not all_finite(answer):
            raise NotFiniteError(place)
        self.asked.rescued.append(place)
        return answer


class PhaseFusion:
    """Fuses one phase's local and global path, `D = (1 - c2) * D_local + c2 * D_global` (paper section 3.3).

    Beside the answer it allocates the blurred picture of one row and one batch of patches, whatever their number.

    blur: standard deviation of the global path's Gaussian at full noise, in latent cells, 0 for none.
    batch: how many patches the model gets at once, 1 or more; 0 or a `WindowBatch` finds out. Share one through a run:
        what it has learnt of memory holds for all phases.
    wrap: the picture goes on at its opposite edge: in the blur and the dilated sub-images; the grid has its own `wrap`.
    window_weight: how the cells of a local window count where windows overlap: `flat` (the paper's), `sin2`, `gaussian`.
    looks_at_once: whether every batch of answers is looked at for NaN and infinity as it comes. That makes a device wait
        for each, so that by default it is done on a CPU only; elsewhere once an evaluation, which is asked for again where
        there are some.

    rescued: the patches that the model answered with NaN or infinity, and when asked for again alone with numbers.
    """

    def __init__(
        self,
        phase: Phase,
        grid: WindowGrid,
        weights: Weights,
        *,
        blur: float = 0.8,
        batch: int | WindowBatch = 16,
        wrap: bool = False,
        window_weight: str = "flat",
        looks_at_once: bool | None = None,
    ):
        self.phase = phase
        self.grid = grid
        self.weights = weights
        self.blur = blur
        self.batch = batch if isinstance(batch, WindowBatch) else WindowBatch(batch)
        self.wrap = wrap
        self.window_weight = window_weight
        self.looks_at_once = looks_at_once
        self.local: Layout | None = None
        self.rescued: list[Place] = []
        self.masks: Masks = {}

    def begin_step(self, generators: Sequence[torch.Generator]) -> None:
        """Draws the step's windows, one generator for each image. All evaluations until the next call share them."""
        self.local = self.grid.layout(generators)

    def __call__(
        self,
        x: torch.Tensor,
        owners: Sequence[int],
        t: float,
        skip: float,
        predict: Predict,
        *,
        rescue: Predict | None = None,
        alike: int | None = None,
    ) -> torch.Tensor:
        """The fused output for rows `x (rows, channels, height, width)`, in whatever form `predict` answers.

        owners: the image that each row belongs to; an image has several rows, one for each condition.
        skip: the factor with which the form of the output holds the model's input beside the network's output: 1 for
            the denoised of an epsilon model, `1 / (sigma^2 + 1)` for that of a v model, 0 where the output is epsilon.
        rescue: asked once more for a single patch whose output holds NaN or infinity, a host's float32 say; without
            one `predict` is.
        alike: how many rows every evaluation of the phase has a multiple of, where it is not always so many: then the calls
            of all of them can be of one size (see `batching.call_size`).

        Raises NotFiniteError where that does not help, and an error of memory where one patch is too many
        (see `WindowBatch`).
        """
        if self.local is None:
            raise RuntimeError("begin_step has not been called")
        asked = Asked(predict, rescue or predict, alike or len(owners), self.rescued, None)
        if x.device.type == "cpu" if self.looks_at_once is None else self.looks_at_once:
            return self._fused(x, owners, t, skip, asked)
        asked = asked._replace(totals=[])
        fused = self._fused(x, owners, t, skip, asked)
        assert asked.totals is not None
        if bool(torch.stack(asked.totals).isfinite().all()):
            return fused
        del fused
        self.looks_at_once = True  # where one window fails, others of the phase will
        return self._fused(x, owners, t, skip, asked._replace(totals=None))

    def _fused(self, x: torch.Tensor, owners: Sequence[int], t: float, skip: float, asked: Asked) -> torch.Tensor:
        c2 = self.weights.c2(t)
        fused = torch.zeros_like(x)
        if c2 < 1:
            self._add_local(fused, x, owners, asked)
            fused.mul_(1 - c2)
        if c2 > 0:
            self._add_global(fused, x, owners, t, skip, c2, asked)
        return fused

    def _add_local(self, fused: torch.Tensor, x: torch.Tensor, owners: Sequence[int], asked: Asked) -> None:
        """The mean of the model's outputs over all windows that cover a cell, weighed by where it lies in each."""
        assert self.local is not None
        size_lat = x.shape[-2], x.shape[-1]
        cut = Cut(self.local, size_lat, x.device)
        weigh = None
        if self.window_weight != "flat":
            weigh = WindowWeights(self.window_weight, self.local, size_lat, x, self.masks)
        path = Path(owners, lambda row: x[row], cut, fused, cut, 1.0, asked, weigh)
        path.run(self.batch, self.native)
        for image in set(owners):
            count = cut.count(self.local.views[image], x, weigh)
            for row, owner in enumerate(owners):
                if owner == image:
                    fused[row].div_(count)

    def _add_global(
        self, fused: torch.Tensor, x: torch.Tensor, owners: Sequence[int], t: float, skip: float, c2: float, asked: Asked
    ) -> None:  # fmt: skip
        """The dilated sub-images of the blurred `x`; the network's output is applied to the unblurred one."""
        (height, width), dilation = x.shape[-2:], self.phase.dilation
        layout = dilated_layout(height, width, dilation, max(owners) + 1, wrap=self.wrap)
        std = self.blur * self.weights.c3(t)
        rows = BlurredRows(x, fused, layout, 2 * dilation - 1, std, c2 * skip, self.wrap)
        to = cut = Cut(layout, (height, width), x.device, share=True)
        if not self.wrap:  # its rows bring their zeros along
            cut = Cut(Layout(layout.views), cut.padded_lat, x.device)
        Path(owners, rows, cut, fused, to, c2, asked).run(self.batch, self.native)

    @property
    def native(self) -> int:
        """How many cells a native window has. No fixed batch asks."""
        return math.prod(self.grid.window_lat) if self.batch.automatic else 1
