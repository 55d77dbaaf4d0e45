"""The engine at work on the analytic model: phase 1 by a k-diffusion sampler, the phases after it by the engine in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from k_diffusion import sampling  # type: ignore[import-untyped]

from bench.analytic import CropPrior, NoiseSchedule
from demofusion_lib.core import Layout, Phase, View, Weights, climb, evaluated_sigmas, is_stochastic, step_generator
from demofusion_lib.params import Params
from demofusion_lib.plan import Plan

SAMPLERS = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde")
PHASE_NOISE, SAMPLER_NOISE = -1, -2  # beside the steps 0, 1, 2, ... in `step_generator`


@dataclass(frozen=True)
class Run:
    """How every phase of a picture is sampled. `sampler` is one of `SAMPLERS`."""

    schedule: NoiseSchedule
    sampler: str
    steps: int
    seed: int

    @property
    def solver(self) -> str:
        return f"sample_{self.sampler}"

    @property
    def stochastic(self) -> bool:
        return is_stochastic(self.solver, eta=1.0)

    @property
    def first_sigma(self) -> float:
        return float(self.schedule.sigmas(self.steps)[0])

    def levels_t(self, steps: int, start: float | None = None) -> list[float]:
        """The training timestep of each evaluation. Every phase goes over the whole schedule here."""
        assert start is None
        sigmas = self.schedule.sigmas(steps).tolist()
        return [self.schedule.t(s) for s in evaluated_sigmas(self.solver, sigmas, (sigmas[-2], sigmas[0]))]

    def noise(self, shape: Sequence[int], phase: int) -> torch.Tensor:
        """The phase's one noise, of unit deviation."""
        return torch.randn(tuple(shape), generator=step_generator(self.seed, phase, PHASE_NOISE))

    def sample(self, model: Any, x: torch.Tensor, phase: int) -> torch.Tensor:
        """From `x`, noised to the schedule's first level, to the clean picture."""
        extra = {}
        if self.stochastic:
            generator = step_generator(self.seed, phase, SAMPLER_NOISE)
            extra = {"noise_sampler": lambda sigma, next_sigma: torch.randn(x.shape, generator=generator)}
        return getattr(sampling, self.solver)(model, x, self.schedule.sigmas(self.steps), disable=True, **extra)


@dataclass(frozen=True)
class Drawn:
    """A finished phase: its picture `(1, channels, size, size)` and what it took."""

    number: int
    picture: torch.Tensor
    evaluations: int
    seconds: float

    @property
    def size(self) -> int:
        return self.picture.shape[-1]


def draw_base(run: Run, native: CropPrior) -> Drawn:
    """Phase 1, no engine in it."""
    evaluations, begun = 0, perf_counter()

    def model(x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        return native.denoise(x, float(sigmas[0]))

    noise = run.noise((1, native.channels, native.window, native.window), 1)
    picture = run.sample(model, noise.mul(run.first_sigma), 1)
    return Drawn(1, picture, evaluations, perf_counter() - begun)


class PhaseModel:
    """What the sampler calls in one phase: the engine around the analytic model."""

    def __init__(
        self, run: Run, prior: CropPrior, phase: Phase, previous: torch.Tensor, before: torch.Tensor,
        params: Params, weights: Weights,
    ):  # fmt: skip
        plan = Plan(params, (prior.window, prior.window), run.steps, run.solver, run.levels_t, passes=1)
        noise = run.noise(previous.shape, phase.number)
        self.schedule = run.schedule
        self.prior = prior
        self.engine = plan.engine(
            phase, previous, before, noise, [run.seed], stochastic=run.stochastic, weights=weights
        )
        self.evaluations = 0

    def __call__(self, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        sigma = float(sigmas[0])
        t = self.schedule.t(sigma)

        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            self.evaluations += len(patches)
            return self.prior.denoise(patches, sigma)

        self.engine.before(x, t, 1.0, sigma)
        return self.engine.fusion(x, [0], t, 1.0, predict)


def enlarge(run: Run, prior: CropPrior, base: torch.Tensor, params: Params, weights: Weights) -> Iterator[Drawn]:
    """The phases after the first, each as soon as it is finished. `weights` stand in for those of `params`."""
    evaluations, begun = 0, perf_counter()

    def denoise_phase(phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        nonlocal evaluations, begun
        begun = perf_counter()
        model = PhaseModel(run, prior, phase, previous, before, params, weights)
        picture = run.sample(model, model.engine.residual.noised(1.0, run.first_sigma), phase.number)
        evaluations = model.evaluations
        return picture

    _, phases = params.phases((base.shape[-2], base.shape[-1]))
    for phase, picture in climb(base, phases, denoise_phase):
        yield Drawn(phase.number, picture, evaluations, perf_counter() - begun)
