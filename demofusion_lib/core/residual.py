"""What holds a phase to the one before: a pull of `x` at the start of every step, or one of every prediction."""

from __future__ import annotations

import torch

from .phases import shrink, upsample
from .schedule import Weights, step_normalised

RESIDUALS = ("blend", "x0")


class Residual:
    """Where a phase begins. `previous`, `noise`: `(batch, channels, height, width)`, the upsampled latent of the phase
    before and the phase's one noise.

    `x = alpha * x0 + sigma * noise` throughout: `alpha` is 1 in k-diffusion's variance-exploding form,
    `sqrt(alphas_cumprod)` in the variance-preserving one.
    """

    def __init__(self, previous: torch.Tensor, noise: torch.Tensor):
        self.previous = previous
        self.noise = noise

    def noised(self, alpha: float, sigma: float) -> torch.Tensor:
        """The latent of the phase before at the given noise level: also what the phase starts from."""
        return self.previous.mul(alpha).add(self.noise, alpha=sigma)

    def pull_(self, x: torch.Tensor, t: float, alpha: float, sigma: float) -> None:
        """What it does to the sampler's `x` at the start of a step."""

    def pull_again_(self, x: torch.Tensor, alpha: float, sigma: float) -> None:
        """The same to another tensor of the same noise level."""

    def hold(self, t: float) -> float:
        """How far the guided prediction at timestep `t` is pulled, from 0 to 1."""
        return 0.0

    def corrected(self, denoised: torch.Tensor, t: float) -> torch.Tensor:
        """What becomes of the guided prediction of the clean latent at timestep `t`."""
        return denoised


class X0Residual(Residual):
    """The pull on the prediction: `D + c1(t) * up(before - down(D))`.

    Of `D` it moves what the phase before has drawn, the low frequencies, and leaves what is finer alone. The sampler's
    `x` is never touched, so that every solver keeps its order.

    before: what the phase before ended with, at its own size.
    """

    def __init__(
        self,
        previous: torch.Tensor,
        noise: torch.Tensor,
        before: torch.Tensor,
        weights: Weights,
        *,
        wrap: bool = False,
    ):
        super().__init__(previous, noise)
        self.before = before
        self.weights = weights
        self.wrap = wrap

    def hold(self, t: float) -> float:
        return self.weights.c1(t)

    def corrected(self, denoised: torch.Tensor, t: float) -> torch.Tensor:
        weight = self.hold(t)
        if weight == 0:
            return denoised
        missing = self.before - shrink(denoised, self.before.shape[-2], self.before.shape[-1])
        finer = upsample(missing, denoised.shape[-2], denoised.shape[-1], wrap=self.wrap)
        return finer.mul_(weight).add_(denoised)


class SkipResidual(Residual):
    """One phase's skip residual (paper section 3.2): `x` is pulled towards the noised latent of the phase before.

    normalise: weigh the pull by the training timesteps since the last one, so that it does not depend on the step count.
    stochastic: the sampler puts noise of its own into `x`. Blending that with the phase's noise would leave
        `(1 - c1)^2 + c1^2` of its variance; so much more of the phase's noise goes in that none is lost.
    """

    def __init__(
        self,
        previous: torch.Tensor,
        noise: torch.Tensor,
        weights: Weights,
        *,
        normalise: bool = True,
        stochastic: bool = False,
    ):
        super().__init__(previous, noise)
        self.weights = weights
        self.normalise = normalise
        self.stochastic = stochastic
        self.last_t: float | None = None
        self.c1 = 0.0

    def pull_(self, x: torch.Tensor, t: float, alpha: float, sigma: float) -> None:
        """Applies the residual to the sampler's own tensor `x`, in place, at the start of the step at timestep `t`.

        In place because the sampler must step from the blended `x`: blending a copy would only change what the
        denoiser sees. A second call at the same `t` (a rejected step tried again) changes nothing.
        """
        last_t, self.last_t = self.last_t, t
        if last_t is None:
            # the phase starts at the noised latent itself, where the pull is the identity
            self.c1 = 0.0
        elif t == last_t:
            self.c1 = 0.0
        elif self.normalise:
            self.c1 = step_normalised(self.weights.c1(t), last_t - t)
        else:
            self.c1 = self.weights.c1(t)
        self.pull_again_(x, alpha, sigma)

    def pull_again_(self, x: torch.Tensor, alpha: float, sigma: float) -> None:
        """Applies the pull of the last `pull_` to another tensor of the same noise level (a corrected `x`)."""
        if self.c1 == 0:
            return
        noise = self.noise * self._noise_weight(x, sigma) if self.stochastic else self.noise.mul(self.c1 * sigma)
        x.mul_(1 - self.c1).add_(self.previous, alpha=self.c1 * alpha).add_(noise)

    def _noise_weight(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """How much of the phase's noise brings the blend back to noise level `sigma`, shaped `(batch, 1, 1, 1)`.

        `x` keeps `(1 - c1) * sigma` of a noise that shares the correlation `r` with the phase's; `w` of the latter makes
        the variance `(1 - c1)^2 sigma^2 + 2 (1 - c1) sigma r w + w^2`, which has to be `sigma^2`. Where the noises are
        one, `r = 1`, that is the authors' `c1 * sigma`. Signal and noise are independent, so that `r` can be measured.
        """
        own = 1 - self.c1
        shared = covariance(x, self.noise).div(covariance(self.noise, self.noise)).div(sigma).clamp(-1, 1).mul(own)
        return shared.square().add(1 - own**2).sqrt().sub(shared).mul(sigma)


def covariance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of two batches `(batch, channels, height, width)` over each image's values, shaped `(batch, 1, 1, 1)`."""
    axes = (1, 2, 3)
    return (one * other).mean(axes, keepdim=True) - one.mean(axes, keepdim=True) * other.mean(axes, keepdim=True)
