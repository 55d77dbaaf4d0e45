"""One phase, as seen from a solver: what happens before each evaluation of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from .fusion import PhaseFusion
from .residual import SkipResidual

Generators = Callable[[int], Sequence[torch.Generator]]
"""`generators(step)`: one generator for each image of the batch, to draw the windows of that step from."""


class PhaseEngine:
    """Puts the residual and each step's windows where they belong in a run of evaluations.

    Before every evaluation of the guided denoiser the host calls `before`; inside it, `fusion` predicts.
    starts: for each evaluation in turn, whether it begins a step (see `solvers.step_starts`).
    """

    def __init__(self, residual: SkipResidual, fusion: PhaseFusion, starts: Iterator[bool], generators: Generators):
        self.residual = residual
        self.fusion = fusion
        self.starts = starts
        self.generators = generators
        self.step = -1
        self.level = (1.0, 0.0)
        self.pulled = False

    def before(self, x: torch.Tensor, t: float, alpha: float, sigma: float) -> None:
        """`x` is the sampler's own tensor, `alpha * x0 + sigma * noise`; at a step's start it is changed in place."""
        if next(self.starts, True):
            self.step += 1
            self.residual.pull_(x, t, alpha, sigma)
            self.level = alpha, sigma
            self.pulled = True
            self.fusion.begin_step(self.generators(self.step))

    def corrected(self, x: torch.Tensor) -> None:
        """For a solver that goes on from another `x` than it evaluated (see `solvers.CORRECTED`): pulls that one too."""
        if self.pulled:
            self.residual.pull_again_(x, *self.level)
            self.pulled = False
