"""The denoiser of a phase: local and global path, fused into one prediction for the whole latent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .batching import WindowBatch
from .blurring import BlurredRows
from .cutting import Cut, Weigh
from .finite import Place
from .paths import Answers, Asked, Group, Part, Path, Predict
from .phases import Phase
from .regions import PlacedPrompts, asked_with
from .schedule import Weights
from .sharing import ALONE, Share, SharedOutOfMemory, balanced_size
from .views import Layout, View, WindowGrid, dilated_layout
from .weighing import Masks, WindowWeights


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

    together: whether every call of the model has one window, or sub-image, of each row of `x`, in their order, as the host's
        own calls have them; then `batch` says nothing. Off; for what is put into a model and tells rows by their places.
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
        self.together = False
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
        asked = Asked(predict, rescue or predict, alike or len(owners), self.rescued, None, self.together)
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
        compares = self._reads(x) or asked.together  # rows take turns: what they share is worth the look
        rows = BlurredRows(x, fused, layout, 2 * dilation - 1, std, c2 * skip, self.wrap, compares)
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
