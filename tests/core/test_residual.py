"""The skip residual: where it enters, how strongly, and that it leaves the noise level alone."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.core import (
    PhaseEngine,
    PhaseFusion,
    SkipResidual,
    Weights,
    WindowGrid,
    X0Residual,
    shrink,
    step_normalised,
    step_starts,
    upsample,
)

from .support import SCHEDULE, PhaseModel, build_engine, draws, gaussian_denoiser, one_phase

SHAPE = (1, 4, 12, 10)
NOISE_TOLERANCE = 0.03


def residual(**options: bool) -> SkipResidual:
    return SkipResidual(draws(1, *SHAPE), draws(2, *SHAPE), Weights(), **options)


def test_the_noised_latent_in_both_forms() -> None:
    pull = residual()
    assert torch.allclose(pull.noised(1.0, 7.0), draws(1, *SHAPE) + 7 * draws(2, *SHAPE))
    assert torch.allclose(pull.noised(0.6, 0.8), 0.6 * draws(1, *SHAPE) + 0.8 * draws(2, *SHAPE))


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 5.0), (0.6, 0.8)])
def test_the_pull_is_the_papers_blend_in_place(alpha: float, sigma: float) -> None:
    pull, x = residual(normalise=False), draws(3, *SHAPE)
    before, storage = x.clone(), x.data_ptr()
    pull.pull_(x, 720, alpha, sigma)
    pull.pull_(x, 700, alpha, sigma)
    c1 = Weights().c1(700)
    assert torch.allclose(x, (1 - c1) * before + c1 * pull.noised(alpha, sigma), atol=1e-6)
    assert x.data_ptr() == storage


def test_the_phase_starts_at_the_noised_latent_without_a_pull() -> None:
    """There the pull is the identity, up to rounding and to noise of another draw."""
    pull, x = residual(normalise=False), draws(3, *SHAPE)
    before = x.clone()
    pull.pull_(x, 999, 1.0, 14.0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("stochastic", [True, False])
def test_a_rejected_step_is_not_pulled_again(normalise: bool, stochastic: bool) -> None:
    pull, x = residual(normalise=normalise, stochastic=stochastic), draws(3, *SHAPE)
    pull.pull_(x, 720, 1.0, 5.0)
    before = x.clone()
    pull.pull_(x, 720, 1.0, 5.0)
    assert pull.c1 == 0 and torch.equal(x, before)


def test_50_uniform_steps_take_the_authors_weight() -> None:
    pull = residual()
    pull.pull_(draws(3, *SHAPE), 981, 1.0, 9.0)
    for t in range(961, 0, -20):
        pull.pull_(draws(3, *SHAPE), t, 1.0, 5.0)
        assert pull.c1 == pytest.approx(Weights().c1(t), rel=1e-9)


def leftover(steps: int, **options: bool) -> float:
    """What is left of the `x` of timestep 600 when the run ends."""
    pull = SkipResidual(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), Weights(), **options)
    x = torch.ones(1, dtype=torch.float64)
    for i in range(round(600 * steps / 1000) + 1):
        pull.pull_(x, 600 - i * 1000 / steps, 1.0, 1.0)
    return float(x)


def test_the_strength_does_not_depend_on_the_number_of_steps() -> None:
    by_steps = [math.log(leftover(steps)) for steps in (20, 50, 100)]
    assert by_steps == pytest.approx([by_steps[1]] * 3, rel=0.25)
    assert leftover(50) == pytest.approx(leftover(50, normalise=False), rel=1e-9)


def test_the_authors_form_is_at_hand() -> None:
    """Once a step whatever its length: 20 steps keep far more than 50."""
    assert leftover(20, normalise=False) > 2 * leftover(50, normalise=False)


def test_uneven_steps_are_weighed_by_their_length() -> None:
    pull = residual()
    for t, elapsed in ((800, None), (790, 10), (700, 90), (650, 50)):
        pull.pull_(draws(3, *SHAPE), t, 1.0, 5.0)
        assert pull.c1 == (0 if elapsed is None else pytest.approx(step_normalised(Weights().c1(t), elapsed)))


def test_climbing_back_in_noise_is_not_pulled() -> None:
    """Restart goes up again; the steps that follow it down are weighed as any."""
    pull, x = residual(), draws(3, *SHAPE)
    pull.pull_(x, 400, 1.0, 1.0)
    before = x.clone()
    pull.pull_(x, 600, 1.0, 2.0)
    assert torch.equal(x, before)
    pull.pull_(x, 580, 1.0, 1.9)
    assert pull.c1 == pytest.approx(Weights().c1(580))


# -- where it enters a run


@pytest.mark.parametrize("solver", ["sample_euler", "sample_heun", "sample_dpm_2", "sample_dpmpp_2m", "sample_lms"])
def test_once_a_step_on_the_samplers_own_tensor(solver: str) -> None:
    phase = one_phase((8, 8), 2)
    engine = build_engine(phase, draws(1, 1, 4, 16, 16), draws(2, 1, 4, 16, 16), window_lat=(8, 8), solver=solver)
    pull_, pulled, steps = engine.residual.pull_, [], []

    def noted(x: torch.Tensor, t: float, *rest: object) -> None:
        pulled.append((x, t))
        pull_(x, t, *rest)

    engine.residual.pull_ = noted
    sigmas = SCHEDULE.sigmas(6).float()
    start = engine.residual.noised(1, float(sigmas[0]))
    model = PhaseModel(engine, gaussian_denoiser(1.0))
    getattr(sampling, solver)(model, start, sigmas, callback=steps.append, disable=True)
    assert len(pulled) == len(steps) == 6
    for (x, t), step in zip(pulled, steps):
        assert x is step["x"]
        assert t == pytest.approx(SCHEDULE.t(float(step["sigma"])), abs=0.01)


def test_the_sampler_steps_from_the_pulled_latent() -> None:
    """Blending only what the denoiser sees is the commonest mistake: Euler would then go on from its own `x`."""
    phase = one_phase((8, 8), 2)
    previous, noise = draws(1, 1, 4, 16, 16), draws(2, 1, 4, 16, 16)
    engine = build_engine(phase, previous, noise, window_lat=(8, 8), normalise=False)
    sigmas = SCHEDULE.sigmas(5).float()
    start = previous + sigmas[0] * noise + draws(3, 1, 4, 16, 16)
    # the network answers nothing but zeros, so that an Euler step is `x * sigma_next / sigma`
    model = PhaseModel(engine, lambda patches, sigma, rows: torch.zeros_like(patches), skip=0.0)
    reached = sampling.sample_euler(model, start.clone(), sigmas[:-1], disable=True)
    x = start
    for step, (sigma, below) in enumerate(itertools.pairwise(sigmas[:-1])):
        c1 = Weights().c1(SCHEDULE.t(float(sigma))) if step else 0
        x = (1 - c1) * x + c1 * (previous + sigma * noise)
        x = x * below / sigma
    assert torch.allclose(reached, x, atol=1e-4)


def test_a_corrected_latent_gets_the_same_pull_once() -> None:
    """UniPC goes on from another `x` than it evaluated."""
    phase = one_phase((8, 8), 2)
    previous, noise = draws(1, 1, 4, 16, 16), draws(2, 1, 4, 16, 16)
    engine = build_engine(phase, previous, noise, window_lat=(8, 8), solver="unipc")
    engine.before(draws(3, 1, 4, 16, 16), 700, 0.5, 0.8)
    first = draws(4, 1, 4, 16, 16)
    engine.before(first, 650, 0.6, 0.7)
    c1 = step_normalised(Weights().c1(650), 50)
    for x, once in ((draws(5, 1, 4, 16, 16), True), (draws(6, 1, 4, 16, 16), False)):
        before = x.clone()
        engine.corrected(x)
        expected = (1 - c1) * before + c1 * (0.6 * previous + 0.7 * noise) if once else before
        assert torch.allclose(x, expected, atol=1e-6)


# -- the noise level, on a Gaussian prior

BASE = (64, 64)
LARGE = (1, 4, 128, 128)
PHASE = one_phase(BASE, 2)
WHOLE, RIGHT_HALF = slice(None), slice(64, None)
STOCHASTIC = (
    "sample_euler_ancestral",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_sde",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_3m_sde",
)


@cache
def independent_draws(count: int) -> list[torch.Tensor]:
    """Unit noises without any correlation between them, so that their moments are the theory's."""
    plane = torch.linalg.qr(draws(9, math.prod(LARGE), count, dtype=torch.float64)).Q * math.sqrt(math.prod(LARGE))
    return [column.reshape(LARGE) for column in plane.T]


def noise_levels(
    steps: int, std: torch.Tensor, *, part: slice = WHOLE, likeness: float = 0.0, stochastic: bool = True
) -> list[float]:
    """After each step's pull, the noise level of `x` in a part of the picture, as a multiple of `sigma`.

    The prior is `x0 ~ N(0, std^2)`. `x` at a step's start and at the step before are two points of one forward
    diffusion, as an exact stochastic sampler leaves them; the phase before is another draw, correlated with this one by
    `likeness`, and its noise has been replaced meanwhile.
    """
    clean, noise, renewed, phase_noise, before = independent_draws(5)
    x0, previous = std * clean, std * (likeness * clean + math.sqrt(1 - likeness**2) * before)
    sigmas = SCHEDULE.sigmas(steps)[:-1].tolist()
    levels = []
    for above, sigma in itertools.pairwise(sigmas):
        engine = build_engine(PHASE, previous, phase_noise, window_lat=BASE, stochastic=stochastic)
        t_above, t = SCHEDULE.t(above), SCHEDULE.t(sigma)
        x = x0 + sigma * noise
        x_above = x + math.sqrt(above**2 - sigma**2) * renewed
        engine.before(x_above, t_above, 1.0, above)
        engine.before(x, t, 1.0, sigma)
        c1 = step_normalised(Weights().c1(t), t_above - t)
        signal = (1 - c1) * x0 + c1 * previous
        levels.append(math.sqrt(float(x[..., part].var() - signal[..., part].var())) / sigma)
    return levels


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_the_noise_level_stays_sigma(steps: int, std: float) -> None:
    levels = noise_levels(steps, torch.tensor(std))
    assert max(abs(level - 1) for level in levels) < NOISE_TOLERANCE, [f"{level:.3f}" for level in levels]


@pytest.mark.parametrize("likeness", [0.0, 0.9])
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_the_noise_level_stays_sigma_in_a_flat_part_of_the_picture(steps: int, std: float, likeness: float) -> None:
    """A flat sky on the right, detail on the left: what is lost on one side must not come back on the other."""
    uneven = torch.full(LARGE[-1:], std)
    uneven[RIGHT_HALF] = 0
    levels = noise_levels(steps, uneven, part=RIGHT_HALF, likeness=likeness)
    assert max(abs(level - 1) for level in levels) < NOISE_TOLERANCE, [f"{level:.3f}" for level in levels]


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_blending_two_independent_noises_would_not_keep_it(steps: int) -> None:
    """What the measure above tells apart: the authors' blend, on a sampler that has replaced the phase's noise."""
    assert min(noise_levels(steps, torch.tensor(1.0), stochastic=False)) < 0.8


def test_while_the_phases_own_noise_is_in_the_latent_the_pull_is_the_authors_blend() -> None:
    clean, phase_noise, before = independent_draws(3)
    pulled = []
    for stochastic in (True, False):
        pull = SkipResidual(before, phase_noise, Weights(), stochastic=stochastic)
        x = clean + 3 * phase_noise
        pull.pull_(x, 700, 1.0, 4.0)
        pull.pull_(x, 640, 1.0, 3.0)
        pulled.append(x)
    assert torch.allclose(*pulled, atol=1e-4)


def test_how_much_of_the_noise_is_new_is_each_images_own() -> None:
    """In a batch of images that have kept none, some and all of the phase's noise."""
    clean, phase_noise, renewed, before = independent_draws(4)
    kept = (0.0, 0.5, 1.0)
    latents = [clean + 3 * (share * phase_noise + math.sqrt(1 - share**2) * renewed) for share in kept]

    def pulled(images: list[torch.Tensor]) -> torch.Tensor:
        ones = torch.ones(len(images), 1, 1, 1)
        pull = SkipResidual(before * ones, phase_noise * ones, Weights(), stochastic=True)
        x = torch.cat(images)
        pull.pull_(x, 700, 1.0, 4.0)
        pull.pull_(x, 640, 1.0, 3.0)
        return x

    assert torch.allclose(pulled(latents), torch.cat([pulled([latent]) for latent in latents]), atol=1e-5)


class MeasuredPulls:
    """Before and after each pull: how much of the phase before is in `x`, and the variance of the rest."""

    def __init__(self, engine: PhaseEngine, previous: torch.Tensor):
        self.engine = engine
        self.previous = previous.double()
        self.pull_ = engine.residual.pull_
        self.ratios: list[float] = []
        self.shares: list[float] = []
        engine.residual.pull_ = self.measured

    def split(self, x: torch.Tensor) -> tuple[float, float]:
        x = x.double()
        share = float((x * self.previous).mean() / self.previous.square().mean())
        return share, float((x - share * self.previous).square().mean())

    def measured(self, x: torch.Tensor, t: float, alpha: float, sigma: float, *rest: object) -> None:
        """Of a rest of variance `b + sigma^2`, `b` of it signal that the sampler drew, `(1 - c1)^2 b + sigma^2` is due."""
        _, before = self.split(x)
        self.pull_(x, t, alpha, sigma, *rest)
        share, after = self.split(x)
        kept = (1 - self.engine.residual.c1) ** 2
        self.ratios.append(math.sqrt(max(after - kept * (before - sigma**2), 0)) / sigma)
        self.shares.append(share)


def stochastic_run(solver: str, steps: int, *, stochastic: bool = True, std: float = 1.0) -> MeasuredPulls:
    """A whole phase of one of k-diffusion's stochastic samplers on the exact denoiser of `N(0, std^2)`."""
    clean, noise = (plane.float() for plane in independent_draws(2))
    engine = build_engine(
        PHASE, std * clean, noise, window_lat=BASE, solver=solver, steps=steps, blur=0, stochastic=stochastic
    )
    measured = MeasuredPulls(engine, std * clean)
    sigmas = SCHEDULE.sigmas(steps).float()
    generator = torch.Generator().manual_seed(7)
    getattr(sampling, solver)(
        PhaseModel(engine, gaussian_denoiser(std)),
        engine.residual.noised(1.0, float(sigmas[0])),
        sigmas,
        noise_sampler=lambda sigma, below: torch.randn(LARGE, generator=generator),
        disable=True,
    )
    return measured


@pytest.mark.parametrize(
    ("solver", "steps", "std"),
    [(solver, steps, 1.0) for solver in STOCHASTIC for steps in (10, 20)]
    + [("sample_euler_ancestral", steps, std) for steps in (10, 20, 50) for std in (0.5, 2.0)],
)
def test_a_stochastic_sampler_keeps_its_noise_level_in_a_whole_phase(solver: str, steps: int, std: float) -> None:
    ratios = stochastic_run(solver, steps, std=std).ratios
    assert len(ratios) == steps
    assert max(abs(ratio - 1) for ratio in ratios) < NOISE_TOLERANCE, [f"{ratio:.3f}" for ratio in ratios]


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_a_stochastic_sampler_holds_on_to_the_phase_before_as_the_blend_does(solver: str) -> None:
    """No more than its latent is ever in `x`, and as much of it at the end."""
    pull, blend = (stochastic_run(solver, 20, stochastic=stochastic).shares for stochastic in (True, False))
    assert max(pull) < 1.15
    assert pull == pytest.approx(blend, abs=0.06)


def test_a_stochastic_samplers_strength_does_not_depend_on_the_number_of_steps() -> None:
    shares = [stochastic_run("sample_euler_ancestral", steps).shares[-1] for steps in (10, 20, 40)]
    assert shares == pytest.approx([shares[1]] * 3, abs=0.03)


def x0_residual(before: torch.Tensor, a1: float = 1.0, **options: bool) -> X0Residual:
    previous = upsample(before, before.shape[-2] * 2, before.shape[-1] * 2)
    return X0Residual(previous, torch.zeros_like(previous), before, Weights(a1), **options)


@pytest.mark.parametrize("t", [900.0, 500.0, 100.0])
def test_a_prediction_is_held_in_what_the_phase_before_shows(t: float) -> None:
    """By the residual's weight there; what has no part in a block's mean is left alone."""
    before, weight = torch.full((2, 4, 6, 5), 2.0), Weights(1.0).c1(t)
    fine = torch.tensor([1.0, -1.0]).repeat(6)[:, None] * torch.ones(2, 4, 12, 10)
    held = x0_residual(before).corrected(fine + 5.0, t)
    assert torch.allclose(held, fine + 5 + weight * (2 - 5), atol=1e-6)
    assert torch.allclose(shrink(held, 6, 5), torch.full_like(before, 5 - 3 * weight), atol=1e-6)


def test_a_prediction_that_shows_what_the_phase_before_does_is_left_as_it_is() -> None:
    denoised = draws(4, 1, 4, 12, 10)
    assert torch.allclose(x0_residual(shrink(denoised, 6, 5)).corrected(denoised, 700.0), denoised, atol=1e-6)
    nothing = x0_residual(draws(5, 1, 4, 6, 5), a1=math.inf)
    assert nothing.corrected(denoised, 700.0) is denoised


def test_the_sampler_keeps_its_x() -> None:
    x = draws(6, 1, 4, 12, 10)
    pull = x0_residual(draws(5, 1, 4, 6, 5))
    pull.pull_(x, 900.0, 1.0, 5.0)
    pull.pull_again_(x, 1.0, 5.0)
    assert torch.equal(x, draws(6, 1, 4, 12, 10))
    assert torch.allclose(pull.noised(0.5, 2.0), pull.previous * 0.5)


def test_a_seamless_picture_is_held_around_its_edges() -> None:
    before, denoised = draws(5, 1, 4, 6, 5), draws(4, 1, 4, 12, 10)
    pull, turn = x0_residual(before, wrap=True), (2, 4)
    turned = x0_residual(before.roll(turn, (2, 3)), wrap=True)
    held = pull.corrected(denoised, 700.0).roll((4, 8), (2, 3))
    assert torch.allclose(turned.corrected(denoised.roll((4, 8), (2, 3)), 700.0), held, atol=1e-5)


def test_a_prediction_of_the_noise_is_held_alike() -> None:
    before, x, eps, (alpha, sigma) = draws(5, 1, 4, 6, 5), draws(1, 1, 4, 12, 10), draws(2, 1, 4, 12, 10), (0.6, 0.8)
    phase = one_phase((6, 5), 2)
    fusion = PhaseFusion(phase, WindowGrid(12, 10, (6, 5)), Weights())
    engine = PhaseEngine(x0_residual(before), fusion, step_starts("ddim", 4), lambda step: [])
    held = engine.after_denoised((x - sigma * eps) / alpha, 700.0)
    assert torch.allclose((x - sigma * engine.after_eps(eps, x, 700.0, alpha, sigma)) / alpha, held, atol=1e-5)
    paper = PhaseEngine(residual(), fusion, step_starts("ddim", 4), lambda step: [])
    assert paper.after_eps(eps, x, 700.0, alpha, sigma) is eps
