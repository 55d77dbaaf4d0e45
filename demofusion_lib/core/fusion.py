"""The denoiser of a phase: local and global path, fused into one prediction for the whole latent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .batching import WindowBatch
from .cutting import Cut, Weigh, grouped
from .finite import NotFiniteError, Place, all_finite, not_finite, place_of, total
from .phases import Phase, statistics
from .regions import PlacedPrompts, asked_with
from .schedule import Weights
from .sharing import ALONE, Call, Share, SharedOutOfMemory, balanced_size
from .views import Layout, View, WindowGrid, dilated_layout
from .weighing import Masks, WindowWeights
from .wrap import beyond

Predict = Callable[[torch.Tensor, Sequence[int], Sequence[View], Layout], torch.Tensor]
"""`predict(patches, rows, views, layout) -> outputs`: the model on patches `(n, channels, height, width)`; `rows[i]` is
the row of the whole latent, and so the condition, that patch `i` was cut from by `views[i]` of `layout`."""

Job = tuple[int, View]
"""A patch to be asked for: the row it is cut from, and its view."""
Jobs = Sequence[Job]
Answers = Sequence[tuple["Part", torch.Tensor]]
"""What was asked for, and what the model said to it, in the order in which it is added up."""


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

    owners: of each row, which of the layout's lists of views it has. images: how many the batch has; the lists behind so
    many are theirs once more, with a view for each of its prompts.
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
    images: int = 0

    def run(self, batch: WindowBatch, native: int) -> None:
        """native: how many cells a native window has."""
        for group in self.groups(native):
            self._run_group(batch, group)

    def _run_group(self, batch: WindowBatch, group: Group) -> None:
        batch.work(
            len(group.jobs), group.area, self.fused.device, group.ask,
            lambda start, stop, outputs: self._take(group.jobs[start:stop], group.shape, outputs), group.alike,
        )  # fmt: skip

    def groups(self, native: int) -> list[Group]:
        """Of patches that the model can be given together."""
        return [
            Group(self, shape, jobs, math.prod(shape) / native, self._alike(jobs))
            for shape, jobs in grouped(self.cut, self.owners).items()
        ]

    def take(self, part: Part, outputs: torch.Tensor) -> None:
        """What was asked for before."""
        jobs = part.group.jobs[part.start : part.stop]
        if isinstance(self.rows, BlurredRows):
            for row, _ in jobs:
                self.rows.restore(row)
        self._take(jobs, part.group.shape, outputs)

    def _alike(self, jobs: Jobs) -> int:
        """How many patches every evaluation of the phase has a multiple of."""
        if self.asked.alike == len(self.owners):
            return len(jobs)
        each = Counter(row for row, _ in jobs)
        return math.gcd(*each.values()) * self.asked.alike

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
        image = self.owners[row] % self.images if self.images else self.owners[row]
        place = place_of(row, image, view, self.to.layout, shape)
        patch = self.fused.new_empty(self.fused.shape[1], *shape)
        self.cut.copy_(patch, self.rows(row), view)
        if not all_finite(patch):
            raise NotFiniteError(place, given=True)
        answer = self._ask(self.asked.rescue, [job], shape)[0]
        if not all_finite(answer):
            raise NotFiniteError(place)
        self.asked.rescued.append(place)
        return answer


@dataclass(frozen=True)
class Group:
    """Patches of a path that are of one shape. area: theirs over a native window's. alike: as in `call_size`."""

    path: Path
    shape: tuple[int, int]
    jobs: Jobs
    area: float
    alike: int

    def ask(self, start: int, stop: int) -> torch.Tensor:
        return self.path._ask(self.path.asked.predict, self.jobs[start:stop], self.shape)


class Part(NamedTuple):
    """What the model is given in one call."""

    group: Group
    start: int
    stop: int

    def call(self) -> Call:
        rows, fused = self.stop - self.start, self.group.path.fused
        shape = rows, fused.shape[1], *self.group.shape
        return Call(lambda: self.group.ask(self.start, self.stop), rows, shape, fused.dtype, rows * self.group.area)


class PhaseFusion:
    """Fuses one phase's local and global path, `D = (1 - c2) * D_local + c2 * D_global` (paper section 3.3).

    Beside the answer it allocates the blurred picture of one row and one batch of patches, whatever their number.

    blur: standard deviation of the global path's Gaussian at full noise, in latent cells, 0 for none.
    batch: how many patches the model gets at once, 1 or more; 0 or a `WindowBatch` finds out. Share one through a run:
        what it has learnt of memory holds for all phases.
    wrap: the picture goes on at its opposite edge: in the blur and the dilated sub-images; the grid has its own `wrap`.
    window_weight: how the cells of a local window count where windows overlap: `flat` (the paper's), `sin2`, `gaussian`.
    prompts: of parts of the picture, None where each row has one prompt for all of it.
    looks_at_once: whether every batch of answers is looked at for NaN and infinity as it comes. That makes a device wait
        for each, so that by default it is done on a CPU only; elsewhere once an evaluation, which is asked for again where
        there are some.
    share: who asks the model what, where several processes draw one picture: all calls of an evaluation are divided at
        once, and their answers, all of which lie side by side then, added up in one process's order.

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
        share: Share = ALONE,
        prompts: PlacedPrompts | None = None,
    ):
        self.phase = phase
        self.grid = grid
        self.weights = weights
        self.blur = blur
        self.batch = batch if isinstance(batch, WindowBatch) else WindowBatch(batch)
        self.wrap = wrap
        self.window_weight = window_weight
        self.looks_at_once = looks_at_once
        self.share = share
        self.prompts = prompts
        self.local: Layout | None = None
        self.rescued: list[Place] = []
        self.masks: Masks = {}

    def begin_step(self, generators: Sequence[torch.Generator]) -> None:
        """Draws the step's windows, one generator for each image. All evaluations until the next call share them."""
        self.local = self.grid.layout(generators)
        if self.prompts is not None:
            self.local = asked_with(self.local, self.prompts.of_windows(self.grid))

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
        placed: Sequence[int] = (),
    ) -> torch.Tensor:
        """The fused output for rows `x (rows, channels, height, width)`, in whatever form `predict` answers.

        owners: the image that each row belongs to; an image has several rows, one for each condition.
        skip: the factor with which the form of the output holds the model's input beside the network's output: 1 for
            the denoised of an epsilon model, `1 / (sigma^2 + 1)` for that of a v model, 0 where the output is epsilon.
        rescue: asked once more for a single patch whose output holds NaN or infinity, a host's float32 say; without
            one `predict` is.
        alike: how many rows every evaluation of the phase has a multiple of, where it is not always so many: then the calls
            of all of them can be of one size (see `batching.call_size`).
        placed: the rows that are asked with the prompts of parts of the picture.

        Raises NotFiniteError where that does not help, and an error of memory where one patch is too many
        (see `WindowBatch`).
        """
        if self.local is None:
            raise RuntimeError("begin_step has not been called")
        if self.prompts is not None:
            images = len(self.local.views) // 2
            owners = [owner + images if row in placed else owner for row, owner in enumerate(owners)]
        asked = Asked(predict, rescue or predict, alike or len(owners), self.rescued, None)
        if self._reads(x):
            return self._fused(x, owners, t, skip, asked)
        asked = asked._replace(totals=[])
        fused = self._fused(x, owners, t, skip, asked)
        assert asked.totals is not None
        if bool(torch.stack(asked.totals).isfinite().all()):
            return fused
        del fused
        self.looks_at_once = True  # where one window fails, others of the phase will
        return self._fused(x, owners, t, skip, asked._replace(totals=None))

    def _reads(self, x: torch.Tensor) -> bool:
        """Whether tensors are looked at in the midst of an evaluation."""
        return x.device.type == "cpu" if self.looks_at_once is None else self.looks_at_once

    def _fused(self, x: torch.Tensor, owners: Sequence[int], t: float, skip: float, asked: Asked) -> torch.Tensor:
        c2 = self.weights.c2(t)
        fused = torch.zeros_like(x)
        local = self._local(fused, x, owners, asked) if c2 < 1 else None
        dilated = self._dilated(fused, x, owners, t, skip, c2, asked) if c2 > 0 else None
        given = self._shared([path for path in (local, dilated) if path is not None]) if not self.share.alone else None
        if local is not None:
            self._run(local, given)
            self._average(fused, x, owners, local)
            fused.mul_(1 - c2)
        if dilated is not None:
            self._run(dilated, given)
        return fused

    def _run(self, path: Path, given: Answers | None) -> None:
        if given is None:
            path.run(self.batch, self.native)
            return
        for part, outputs in given:
            if part.group.path is path:
                path.take(part, outputs)

    def _shared(self, paths: Sequence[Path]) -> Answers:
        """The answers to all patches of all paths, asked by several processes."""
        rows = [path.rows for path in paths if isinstance(path.rows, BlurredRows)]
        for blurred in rows:
            blurred.restores = False
        groups = [group for path in paths for group in path.groups(self.native)]
        self._find_size(groups)
        while True:
            parts = [
                Part(group, *chunk)
                for group in groups
                for chunk in self.batch.chunks(len(group.jobs), group.area, group.alike)
            ]
            try:
                outputs = self.share.outputs([part.call() for part in parts])
            except SharedOutOfMemory as error:
                if error.rows < 2:
                    raise
                self.batch.halve(
                    error.rows, max(part.group.area for part in parts if part.stop - part.start == error.rows)
                )
            else:
                break
        for blurred in rows:
            blurred.restores = True
        return list(zip(parts, outputs))

    def _find_size(self, groups: Sequence[Group]) -> None:
        """Where no batch was asked for: what fits the process with the least room, and leaves none without work."""
        if self.batch.size is not None or not groups:
            return
        first = groups[0]
        self.batch.measure(len(first.jobs), first.area, first.path.fused.device, first.ask)
        fits = self.share.least(self.batch.size or 0)
        counts = [len(group.jobs) for group in groups]
        self.batch.size = balanced_size(fits, counts, self.share.ranks) if fits else None

    def _local(self, fused: torch.Tensor, x: torch.Tensor, owners: Sequence[int], asked: Asked) -> Path:
        """The sum of the model's outputs over all windows that cover a cell, weighed by where it lies in each."""
        assert self.local is not None
        size_lat = x.shape[-2], x.shape[-1]
        cut = Cut(self.local, size_lat, x.device)
        weigh: Weigh | None = None
        if self.window_weight != "flat":
            weigh = WindowWeights(self.window_weight, self.local, size_lat, x, self.masks)
        weigh, images = self._weighed(weigh, cut, x)
        return Path(owners, lambda row: x[row], cut, fused, cut, 1.0, asked, weigh, images)

    def _average(self, fused: torch.Tensor, x: torch.Tensor, owners: Sequence[int], local: Path) -> None:
        """From that sum to the mean."""
        for image in set(owners):
            count = local.cut.count(local.cut.layout.views[image], x, local.weigh)
            for row, owner in enumerate(owners):
                if owner == image:
                    fused[row].div_(count)

    def _dilated(
        self, fused: torch.Tensor, x: torch.Tensor, owners: Sequence[int], t: float, skip: float, c2: float, asked: Asked
    ) -> Path:  # fmt: skip
        """The dilated sub-images of the blurred `x`; the network's output is applied to the unblurred one."""
        (height, width), dilation = x.shape[-2:], self.phase.dilation
        layout = self._dilated_layout(max(owners) + 1, height, width)
        std = self.blur * self.weights.c3(t)
        rows = BlurredRows(x, fused, layout, 2 * dilation - 1, std, c2 * skip, self.wrap, self._reads(x))
        to = cut = Cut(layout, (height, width), x.device, share=True)
        if not self.wrap:  # its rows bring their zeros along
            cut = Cut(Layout(layout.views), cut.padded_lat, x.device)
        weigh, images = self._weighed(None, to, x)
        return Path(owners, rows, cut, fused, to, c2, asked, weigh, images)

    def _dilated_layout(self, lists: int, height: int, width: int) -> Layout:
        """lists: of views, as many as rows may own."""
        dilation, prompts = self.phase.dilation, self.prompts
        if prompts is None:
            return dilated_layout(height, width, dilation, lists, wrap=self.wrap)
        assert self.local is not None
        layout = dilated_layout(height, width, dilation, len(self.local.views) // 2, wrap=self.wrap)
        return asked_with(layout, prompts.of_sub_images(dilation, wrap=self.wrap))

    def _weighed(self, weigh: Weigh | None, cut: Cut, x: torch.Tensor) -> tuple[Weigh | None, int]:
        """`weigh` times what a view's prompt counts, and how many images the layout has, 0 where that is no question."""
        prompts = self.prompts
        if prompts is None:
            return weigh, 0
        assert self.local is not None
        images = len(self.local.views) // 2

        def share(view: View) -> torch.Tensor:
            part = prompts.share(cut, view, x)
            if weigh is None:
                return x.new_ones(1, 1, 1).expand(1, *cut.shape(view)) if part is None else part
            return weigh(view) if part is None else part * weigh(view)

        return share, images

    @property
    def native(self) -> int:
        """How many cells a native window has. No fixed batch asks."""
        return math.prod(self.grid.window_lat) if self.batch.automatic else 1
