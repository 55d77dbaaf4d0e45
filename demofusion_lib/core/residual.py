"""The skip residual: at the start of every step, `x` is pulled towards the noised latent of the phase before."""

from __future__ import annotations

import torch

from .schedule import Weights, step_normalised


class SkipResidual:
    """One phase's skip residual (paper section 3.2).

    `x = alpha * x0 + sigma * noise` throughout: `alpha` is 1 in k-diffusion's variance-exploding form,
    `sqrt(alphas_cumprod)` in the variance-preserving one.

    previous, noise: `(batch, channels, height, width)`: the upsampled latent of the phase before, the phase's one noise.
    normalise: weigh the pull by the training timesteps since the last one, so that it does not depend on the step count.
    stochastic: the sampler puts noise of its own into `x`. Blending that with the phase's noise would leave
        `(1 - c1)^2 + c1^2` of its variance; the loss is measured against the last denoised estimate, and restored.
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
        self.previous = previous
        self.noise = noise
        self.weights = weights
        self.normalise = normalise
        self.stochastic = stochastic
        self.denoised: torch.Tensor | None = None
        self.last_t: float | None = None
        self.c1 = 0.0

    def noised(self, alpha: float, sigma: float) -> torch.Tensor:
        """The latent of the phase before at the given noise level: also what the phase starts from."""
        return self.previous.mul(alpha).add(self.noise, alpha=sigma)

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
        if self.stochastic and self.denoised is not None:
            x.copy_(self._restored_blend(x, alpha, sigma))
        else:
            x.mul_(1 - self.c1).add_(self.noised(alpha, sigma), alpha=self.c1)

    def _restored_blend(self, x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        """The blend, its noise amplified so that the image has the variance of the blended signal at noise level `sigma`.

        The blend of signals is `(1 - c1) * x0 + c1 * previous`, and noise is independent of both, so that this variance
        follows from the image's own and its covariance with `previous`. What is amplified is all but the signal as far
        as it is known, `(1 - c1) * denoised + c1 * previous`.
        """
        assert self.denoised is not None
        c1, previous = self.c1, self.previous.mul(alpha)
        known = self.denoised.mul(alpha).lerp_(previous, c1)
        rest = torch.lerp(x, self.noised(alpha, sigma), c1).sub_(known)
        own = covariance(x, x) - sigma**2
        wanted = (
            (1 - c1) ** 2 * own + 2 * c1 * (1 - c1) * covariance(x, previous) + c1**2 * covariance(previous, previous)
        )
        wanted = wanted + sigma**2
        # known + gain * rest has the wanted variance: a quadratic in the gain
        a, b, c = covariance(rest, rest), covariance(known, rest), covariance(known, known) - wanted
        root = (b.square() - a * c).clamp(min=0).sqrt()
        gain = torch.where(a.gt(0), (root - b) / a, torch.ones_like(a))
        return known.add_(rest.mul_(gain))


def covariance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of two batches `(batch, channels, height, width)` over each image's values, shaped `(batch, 1, 1, 1)`."""
    axes = (1, 2, 3)
    return (one * other).mean(axes, keepdim=True) - one.mean(axes, keepdim=True) * other.mean(axes, keepdim=True)
