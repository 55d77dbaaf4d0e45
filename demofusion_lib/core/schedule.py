"""The cosine weights of the three mechanisms (paper section 3.4; the formulas are those the authors run)."""

from __future__ import annotations

import math
from dataclasses import dataclass

TRAINING_TIMESTEPS = 1000
NEGLIGIBLE = 1e-8
"""A path of less weight changes no bit of a float32 sum, and is not worth a model's evaluations. Without a bound a rounding
error in the last timestep, which is 0, would decide whether it is run."""
REFERENCE_STEP = TRAINING_TIMESTEPS / 50  # the spacing of the 50 steps that the authors tuned `a1` for


def cosine_factor(t: float) -> float:
    """`cf`: 1 at full noise (`t` = 1000), 0 at none; `t` is a training timestep in [0, 1000]."""
    t = min(max(t, 0.0), TRAINING_TIMESTEPS)
    return (1 + math.cos(math.pi * (TRAINING_TIMESTEPS - t) / TRAINING_TIMESTEPS)) / 2


HELD = 0.65
"""Where the residual weighs less than this, a phase draws: above, what a step has drawn the residual takes back."""


@dataclass(frozen=True)
class Weights:
    """The three exponents, each 0 or more: of the residual, the global path's share and its blur.

    gate: a path of less weight is left out, and the other one counts alone.
    """

    a1: float = 3.0
    a2: float = 1.0
    a3: float = 1.0
    gate: float = 0.0

    def c1(self, t: float) -> float:
        """How far `x` is pulled towards the noised latent of the phase before."""
        return cosine_factor(t) ** self.a1

    def c2(self, t: float) -> float:
        """The global path's share of the denoised prediction; exactly 0 or 1 where the other path is all that counts."""
        c2, gate = cosine_factor(t) ** self.a2, max(self.gate, NEGLIGIBLE)
        return 0.0 if c2 < gate else 1.0 if c2 > 1 - gate else c2

    def c3(self, t: float) -> float:
        """What the blur's standard deviation is multiplied by."""
        return 0.99 * cosine_factor(t) ** self.a3 + 0.01

    @property
    def start(self) -> float:
        """The timestep at which the residual weighs `HELD`: a phase that begins there loses next to nothing.

        1000 where there is no residual, as nothing holds the phase then.
        """
        if math.isinf(self.a1):
            return TRAINING_TIMESTEPS
        if self.a1 == 0:
            return 0.0
        return TRAINING_TIMESTEPS * (1 - math.acos(2 * HELD ** (1 / self.a1) - 1) / math.pi)


def step_normalised(c1: float, elapsed_timesteps: float) -> float:
    """`c1` for a step that spans `elapsed_timesteps` training timesteps, keeping the strength of the authors' 50 steps.

    Pulling once a step makes 20 steps hold on to the phase before far less than 50 do; the pull that is left
    over after the whole run, `prod(1 - c1)`, does not depend on the number of steps in this form.
    """
    return 1 - (1 - c1) ** (max(elapsed_timesteps, 0.0) / REFERENCE_STEP)
