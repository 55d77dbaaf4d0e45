"""Every solver converges on a whole phase: the residual enters at step starts, and at a rate in time, not per step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.core import Weights, upsample

from .support import SCHEDULE, PhaseModel, build_engine, draws, gaussian_denoiser, one_phase

BASE = (8, 8)
PHASE = one_phase(BASE, 2)
STEPS = (10, 20, 40, 80)
FINE = 320
STD, MEAN = 0.7, 0.2
DENOISE = gaussian_denoiser(STD, MEAN)

Run = Callable[..., torch.Tensor]
"""`run(steps)`: the latent that a phase ends with."""


def phase_model(
    solver: str, steps: int, *, blur: float = 0.8, starts_everywhere: bool = False
) -> tuple[PhaseModel, torch.Tensor]:
    """All three mechanisms on an analytic Gaussian prior, and the latent that the phase starts from."""
    previous = upsample(draws(1, 1, 4, *BASE, dtype=torch.float64), PHASE.height_lat, PHASE.width_lat)
    noise = draws(2, *previous.shape, dtype=torch.float64)
    engine = build_engine(PHASE, previous, noise, window_lat=BASE, solver=solver, steps=steps, blur=blur)
    if starts_everywhere:
        engine.starts = itertools.repeat(True)
    return PhaseModel(engine, DENOISE), engine.residual.noised(1.0, SCHEDULE.ends[1])


def on_schedule(solver: str) -> Run:
    def run(steps: int, **options: bool) -> torch.Tensor:
        model, x = phase_model(solver, steps, **options)
        return getattr(sampling, solver)(model, x, SCHEDULE.sigmas(steps), disable=True)

    return run


def without_noise(solver: str) -> Run:
    """An ancestral solver at eta 0, where it solves the same equation as the deterministic ones."""

    def run(steps: int, **options: bool) -> torch.Tensor:
        model, x = phase_model(solver, steps, **options)
        return getattr(sampling, solver)(
            model, x, SCHEDULE.sigmas(steps), eta=0.0, noise_sampler=lambda sigma, below: 0.0, disable=True
        )

    return run


def dpm_fast(steps: int, **options: bool) -> torch.Tensor:
    """Ends at the lowest noise level; the step to none is the denoiser's answer, as on a schedule."""
    model, x = phase_model("sample_dpm_fast", steps, **options)
    return DENOISE(sampling.sample_dpm_fast(model, x, *SCHEDULE.ends, steps, disable=True), SCHEDULE.ends[0], [0])


def dpm_adaptive(steps: int, **options: bool) -> torch.Tensor:
    """The tolerance falls with the cube of the steps, as the error of a third-order step does."""
    model, x = phase_model("sample_dpm_adaptive", steps, **options)
    rtol = 0.05 * (10 / steps) ** 3
    x = sampling.sample_dpm_adaptive(model, x, *SCHEDULE.ends, rtol=rtol, atol=rtol / 6, disable=True)
    return DENOISE(x, SCHEDULE.ends[0], [0])


DETERMINISTIC = ("sample_euler", "sample_heun", "sample_dpm_2", "sample_lms", "sample_dpmpp_2m")
ANCESTRAL = (
    "sample_euler_ancestral",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_sde",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_3m_sde",
)
RUNS: dict[str, Run] = {
    **{name: on_schedule(name) for name in DETERMINISTIC},
    **{name: without_noise(name) for name in ANCESTRAL},
    "sample_dpm_fast": dpm_fast,
    "sample_dpm_adaptive": dpm_adaptive,
}
MULTI_STAGE = (
    "sample_heun",
    "sample_dpm_2",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_sde",
    "sample_dpm_fast",
    "sample_dpm_adaptive",
)


@cache
def reference() -> torch.Tensor:
    return on_schedule("sample_heun")(FINE)


def error(run: Run, steps: int, **options: bool) -> float:
    return float((run(steps, **options) - reference()).norm() / reference().norm())


@pytest.mark.parametrize("solver", RUNS)
def test_the_error_falls_with_each_doubling_of_the_steps(solver: str) -> None:
    errors = [error(RUNS[solver], steps) for steps in STEPS]
    assert all(finer < coarser for coarser, finer in itertools.pairwise(errors)), errors
    assert errors[-1] < errors[0] / 3 and errors[-1] < 0.03, errors


@pytest.mark.parametrize("solver", ["sample_heun", "sample_dpm_2", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde"])
def test_a_second_order_solver_stays_better_than_euler(solver: str) -> None:
    assert error(RUNS[solver], 40) < error(RUNS["sample_euler"], 40) / 3


@pytest.mark.parametrize("solver", MULTI_STAGE)
def test_pulling_at_midpoints_too_would_break_it(solver: str) -> None:
    """The midpoint's pull is undone by the solver's own arithmetic: the error stays, whatever the steps."""
    stuck = error(RUNS[solver], 40, starts_everywhere=True)
    assert stuck > 0.08 and stuck > 10 * error(RUNS[solver], 40)


def limit_by_hand(substeps: int = 40000) -> tuple[float, float, float]:
    """What a phase's latent tends to without blur, as shares of `previous`, of `noise`, and a constant.

    Where denoising is pointwise the fused answer is the denoiser's own, and every cell follows one linear equation:
    the probability flow `dx = (x - D(x)) / sigma * dsigma`, and a pull towards `previous + sigma * noise` that takes
    `1 - c1` of the difference in every 20 training timesteps.
    """
    times = np.linspace(999, 0, substeps + 1)
    sigmas = np.exp(np.interp(times, range(1000), SCHEDULE.log_sigmas))
    previous, noise, constant = 1.0, sigmas[0], 0.0
    for t, above, below in zip(times[1:], sigmas, sigmas[1:]):
        # the flow of a Gaussian scales the distance from its mean
        scale = math.sqrt((STD**2 + below**2) / (STD**2 + above**2))
        kept = (1 - Weights().c1(t)) ** (999 / substeps / 20)
        previous = kept * scale * previous + (1 - kept)
        noise = kept * scale * noise + (1 - kept) * below
        constant = kept * (scale * (constant - MEAN) + MEAN)
    shrunk = STD**2 / (STD**2 + sigmas[-1] ** 2)
    return shrunk * previous, shrunk * noise, shrunk * constant + (1 - shrunk) * MEAN


def test_the_limit_is_the_one_that_the_mechanisms_define() -> None:
    """Solvers could agree on a wrong limit: here it is computed without the engine."""
    model, start = phase_model("sample_heun", FINE, blur=0.0)
    residual = model.engine.residual
    x = sampling.sample_heun(model, start, SCHEDULE.sigmas(FINE), disable=True)
    previous, noise, constant = limit_by_hand()
    expected = previous * residual.previous + noise * residual.noise + constant
    assert float((x - expected).norm() / expected.norm()) < 2e-3
