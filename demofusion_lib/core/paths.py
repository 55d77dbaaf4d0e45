"""One path of an evaluation, local or global: its patches, who is asked about them and where the answers go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .batching import WindowBatch
from .blurring import BlurredRows
from .cutting import Cut, Weigh, by_view, grouped
from .finite import NotFiniteError, Place, all_finite, not_finite, place_of, total
from .sharing import Call
from .views import Layout, View

Predict = Callable[[torch.Tensor, Sequence[int], Sequence[View], Layout], torch.Tensor]
"""`predict(patches, rows, views, layout) -> outputs`: the model on patches `(n, channels, height, width)`; `rows[i]` is
the row of the whole latent, and so the condition, that patch `i` was cut from by `views[i]` of `layout`."""

Job = tuple[int, View]
"""A patch to be asked for: the row it is cut from, and its view."""
Jobs = Sequence[Job]
Answers = Sequence[tuple["Part", torch.Tensor]]
"""What was asked for, and what the model said to it, in the order in which it is added up."""


class Asked(NamedTuple):
    """Whom the patches of an evaluation are given to.

    alike: how many rows every evaluation of the phase has a multiple of. rescued: gets a place for every patch that `rescue`
    had to answer. totals: gets a number for each batch of answers, finite only if they are; nobody looks at them before.
    None where they are to be looked at as they come. together: whether each call has one patch of every row, in their order.
    """

    predict: Predict
    rescue: Predict
    alike: int
    rescued: list[Place]
    totals: list[torch.Tensor] | None
    together: bool = False


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
        if group.whole:  # as many as the host's own call has, which it can do with
            self._take(group.jobs, group.shape, group.ask(0, len(group.jobs)))
            return
        batch.work(
            len(group.jobs), group.area, self.fused.device, group.ask,
            lambda start, stop, outputs: self._take(group.jobs[start:stop], group.shape, outputs), group.alike,
        )  # fmt: skip

    def groups(self, native: int) -> list[Group]:
        """Of patches that the model can be given together."""
        views = by_view(self.cut, self.owners) if self.asked.together else None
        if views is not None:
            return [Group(self, shape, jobs, math.prod(shape) / native, len(jobs), whole=True) for shape, jobs in views]
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
    """Patches of a path that are of one shape. area: theirs over a native window's. alike: as in `call_size`. whole: whether
    they are not to be parted."""

    path: Path
    shape: tuple[int, int]
    jobs: Jobs
    area: float
    alike: int
    whole: bool = False

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
