"""One phase, as seen from a solver: what happens before and after each evaluation of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from .fusion import PhaseFusion
from .guidance import Evaluation, Guidance
from .residual import Residual

Generators = Callable[[int], Sequence[torch.Generator]]
"""`generators(step)`: one generator for each image of the batch, to draw the windows of that step from."""


class PhaseEngine:
    """Puts the residual and each step's windows where they belong in a run of evaluations.

    Before every evaluation of the guided denoiser the host calls `before`; inside it, an `evaluation` or `fusion`
    predicts; what comes out goes through `after_denoised` or `after_eps`.
    starts: for each evaluation in turn, whether it begins a step (see `solvers.step_starts`).
    """

    def __init__(
        self,
        residual: Residual,
        fusion: PhaseFusion,
        starts: Iterator[bool],
        generators: Generators,
        guidance: Guidance | None = None,
    ):
        self.residual = residual
        self.guidance = guidance or Guidance()
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

    def evaluation(self, owners: Sequence[int], shares: Sequence[float | None], t: float) -> Evaluation:
        """Of the guided denoiser, at timestep `t`; the rows' images and shares as there."""
        return Evaluation(self.fusion, self.guidance, owners, shares, t, self.fusion.wrap)

    def after_denoised(self, denoised: torch.Tensor, t: float) -> torch.Tensor:
        """The guided prediction of the clean latent, `(batch, channels, height, width)`, held by the residual."""
        return self.residual.corrected(denoised, t)

    def after_eps(self, eps: torch.Tensor, x: torch.Tensor, t: float, alpha: float, sigma: float) -> torch.Tensor:
        """The same of a guided prediction of the noise in `x = alpha * x0 + sigma * noise`."""
        if self.residual.hold(t) == 0:
            return eps
        held = self.residual.corrected(x.sub(eps, alpha=sigma).div_(alpha), t)
        return x.sub(held, alpha=alpha).div_(sigma)
