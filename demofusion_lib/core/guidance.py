"""Classifier-free guidance of a phase: where it is worth the negative prompt's rows, and what stands in for them.

Hosts guide by `D(negative) + g * (D(prompt) - D(negative))`. A negative row that answers what the prompt's does leaves the
prompt alone; one that answers `D(prompt) - up(d)` guides by `d`, a difference reckoned at the base's size, whatever the
host makes of the two rows afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch

from .fusion import PhaseFusion
from .looking import Looking, look
from .paths import Predict
from .phases import upsample
from .views import Layout, View

GUIDANCES = ("windows", "low-pass")

Low = Callable[[Sequence[int]], torch.Tensor]
"""`low(rows)`: the model's answers to rows of a call, shrunk to the base's size, in the form that their upsampled
difference has in the answers to the call. A row comes once for each of its prompts (`Looking.prompts`)."""

WHOLE = View(slice(None), slice(None))


@dataclass(frozen=True)
class Guidance:
    """How the phases are guided.

    kind: `windows`: every window is asked with the negative prompt too. `low-pass`: one pass at the base's size is.
    until: timestep below which the prompt is asked alone.

    Raises ValueError for an unknown kind.
    """

    kind: str = "windows"
    until: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in GUIDANCES:
            raise ValueError(f"guidance is {self.kind!r}, allowed: {', '.join(GUIDANCES)}")

    def in_windows(self, t: float) -> bool:
        return self.kind == "windows" and t >= self.until

    def low_pass(self, t: float) -> bool:
        return self.kind == "low-pass" and t >= self.until

    def rows(self, patches: int, passes: int, t: float, placed: int | None = None, whole: int = 1) -> int:
        """That an image takes in an evaluation at `t`: `patches` of it are asked for, `passes` times where all are guided.

        placed: rows of the one pass of them that has prompts for parts of the picture, `whole` of them for all of it at once.
        """
        more = 0 if placed is None else placed - patches
        if passes < 2 or self.in_windows(t):
            return passes * patches + more
        return (passes - 1) * patches + more + (passes + whole - 1 if self.low_pass(t) else 0)

    def alike(self, shares: Sequence[float | None]) -> int | None:
        """How many rows every evaluation of a phase has a multiple of, of a call with these; None where all have as many."""
        if self.kind != "windows" or self.until <= 0:
            return None
        negatives = list(shares).count(None)
        return math.gcd(len(shares) - negatives, negatives)


@dataclass
class Evaluation:
    """One evaluation of the guided denoiser, whose rows come in one call or in several, prompts before negatives.

    owners: the image of each row. shares: the weight of each row's prompt among its image's, which sum up to 1; None of
    a negative prompt.
    """

    fusion: PhaseFusion
    guidance: Guidance
    owners: Sequence[int]
    shares: Sequence[float | None]
    t: float
    wrap: bool = False
    prompts: dict[int, torch.Tensor] = field(default_factory=dict)
    """By image: what its prompts answered, weighed."""
    low: dict[int, torch.Tensor] = field(default_factory=dict)
    """The same at the base's size."""

    def __call__(
        self, x: torch.Tensor, first: int | Sequence[int], skip: float, predict: Predict, *, rescue: Predict | None = None,
        low: Low, base_lat: tuple[int, int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The answer to rows `first` and following, or to those that it lists; what else is as in `PhaseFusion`, but `low`.

        base_lat: the size `(height, width)` that `low` shrinks the latent to; None for its own. While the model is asked,
        `looking()` tells of what.
        """
        rows = [(first + i) % len(self.owners) for i in range(len(x))] if isinstance(first, int) else first
        owners, shares = [self.owners[row] for row in rows], [self.shares[row] for row in rows]
        placed = [i for i, row in enumerate(rows) if row in self._placed]
        alike = self.guidance.alike(shares)
        predict, rescue = self._told(predict, owners, shares), self._told(rescue or predict, owners, shares)
        if self.guidance.in_windows(self.t) or None not in self.shares:
            return self.fusion(x, owners, self.t, skip, predict, rescue=rescue, alike=alike, placed=placed)
        known = {*self.prompts, *(owner for owner, share in zip(owners, shares) if share is not None)}
        asked = [i for i, share in enumerate(shares) if share is not None or owners[i] not in known]
        answer = self._asked(x, asked, owners, skip, predict, rescue, alike, placed)
        self._gather(self.prompts, answer, owners, shares)
        others = [i for i in range(len(x)) if i not in asked]
        for i in others:
            answer[i] = self.prompts[owners[i]]
        if self.guidance.low_pass(self.t):
            base_lat = base_lat or (x.shape[-2], x.shape[-1])
            self._guide_(answer, others, owners, shares, self._shrunk(len(x), owners, shares, placed, base_lat, low))
        return answer

    @property
    def _placed(self) -> set[int]:
        """The rows that have prompts for parts of the picture: of each image the first."""
        if self.fusion.prompts is None:
            return set()
        return {self.owners.index(owner) for owner, share in zip(self.owners, self.shares) if share is not None}

    def _shrunk(
        self, rows: int, owners: Sequence[int], shares: Sequence[float | None], placed: Sequence[int],
        base_lat: tuple[int, int], low: Low,
    ) -> torch.Tensor:  # fmt: skip
        """The answers to all rows of a call at the base's size, each the mean of those for its prompts by their shares."""
        prompts = self.fusion.prompts
        jobs = [
            (row, prompt) for row in range(rows) for prompt in (prompts.whole if prompts and row in placed else (None,))
        ]
        asked = [row for row, _ in jobs]
        views = [WHOLE if prompt is None else replace(WHOLE, prompt=prompt) for _, prompt in jobs]
        with self._look(asked, owners, shares, views, Layout([views]), base_lat):
            answers = low(asked)
        if prompts is None:
            return answers
        weights = prompts.shrunk(base_lat, answers)
        answer = answers.new_zeros(rows, *answers.shape[1:])
        for (row, prompt), one in zip(jobs, answers):
            answer[row].add_(one if prompt is None else one * weights[prompt])
        return answer

    def _told(self, ask: Predict, owners: Sequence[int], shares: Sequence[float | None]) -> Predict:
        """`ask`, while which anybody can ask where the model looks."""

        def asked(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            with self._look(rows, owners, shares, views, layout):
                return ask(patches, rows, views, layout)

        return asked

    def _look(
        self, rows: Sequence[int], owners: Sequence[int], shares: Sequence[float | None],
        views: Sequence[View], layout: Layout, shrunk_lat: tuple[int, int] | None = None,
    ) -> AbstractContextManager[Looking]:  # fmt: skip
        images, negative = [owners[row] for row in rows], [shares[row] is None for row in rows]
        return look(Looking(self.fusion.phase, self.t, list(rows), images, negative, views, layout, shrunk_lat))

    def _asked(
        self, x: torch.Tensor, asked: Sequence[int], owners: Sequence[int], skip: float,
        predict: Predict, rescue: Predict, alike: int | None, placed: Sequence[int],
    ) -> torch.Tensor:  # fmt: skip
        """The fused answers to some rows; the others are left to be filled in."""

        def of_call(ask: Predict) -> Predict:
            return lambda patches, rows, views, layout: ask(patches, [asked[row] for row in rows], views, layout)

        answer = torch.empty_like(x)
        if asked:
            part = x if len(asked) == len(x) else x[list(asked)]
            owned = [owners[i] for i in asked]
            fused = self.fusion(
                part, owned, self.t, skip, of_call(predict), rescue=of_call(rescue), alike=alike,
                placed=[place for place, i in enumerate(asked) if i in placed],
            )  # fmt: skip
            if len(asked) == len(x):
                return fused
            for i, one in zip(asked, fused):
                answer[i] = one
        return answer

    @staticmethod
    def _gather(
        kept: dict[int, torch.Tensor], answers: torch.Tensor, owners: Sequence[int], shares: Sequence[float | None]
    ) -> None:
        for answer, owner, share in zip(answers, owners, shares):
            if share is not None:
                kept[owner] = kept[owner].add(answer, alpha=share) if owner in kept else answer.mul(share)

    def _guide_(
        self, answer: torch.Tensor, others: Sequence[int], owners: Sequence[int], shares: Sequence[float | None],
        low: torch.Tensor,
    ) -> None:  # fmt: skip
        """Takes from each negative row the difference that guides, so that the host finds it there."""
        self._gather(self.low, low, owners, shares)
        for i in others:
            difference = (self.low[owners[i]] - low[i])[None]
            answer[i].sub_(upsample(difference, answer.shape[-2], answer.shape[-1], wrap=self.wrap)[0].to(answer))
