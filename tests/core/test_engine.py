"""Whole runs through the engine: batches, seeds, and what it leaves alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.core import Phase, PhaseEngine, climb, plan_phases, statistics, step_generator

from .support import SCHEDULE, PhaseModel, build_engine, draws, network_denoiser, one_phase

BASE = (10, 7)
TARGET = (27, 19)  # a fractional last phase, whose dilated sub-images need padding
SEEDS = (3, 14, 159, 2653)
STEPS = 4


def noise_of(seeds: Sequence[int], phase: int, step: int, shape: Sequence[int]) -> torch.Tensor:
    """Each image's from a generator of its own, as the host draws it."""
    return torch.stack([draws(1000 * seed + 100 * phase + step, *shape) for seed in seeds])


def base_of(seeds: Sequence[int]) -> torch.Tensor:
    """Base images that differ in brightness and contrast too."""
    images = noise_of(seeds, 1, 0, (4, *BASE))
    return torch.stack([image * (0.5 + seed % 5) + seed % 3 for image, seed in zip(images, seeds)])


def run(images: Sequence[int], solver: str = "sample_euler", *, border: str = "inside") -> dict[int, torch.Tensor]:
    """Two phases for these of the four images; the latent that each phase ends with, by its number."""
    seeds = [SEEDS[image] for image in images]
    network = network_denoiser(images=len(SEEDS))
    stochastic = solver == "sample_euler_ancestral"

    def denoise_phase(phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        engine = build_engine(
            phase,
            previous,
            noise_of(seeds, phase.number, 0, previous.shape[1:]),
            window_lat=BASE,
            solver=solver,
            steps=STEPS,
            seeds=seeds,
            batch=5,
            border=border,
            stochastic=stochastic,
        )
        steps = itertools.count(1)
        sigmas = SCHEDULE.sigmas(STEPS).float()
        options = {}
        if stochastic:
            options["noise_sampler"] = lambda *_: noise_of(seeds, phase.number, next(steps), previous.shape[1:])
        model = PhaseModel(engine, lambda patches, sigma, rows: network(patches, sigma, [images[row] for row in rows]))
        start = engine.residual.noised(1.0, float(sigmas[0]))
        return getattr(sampling, solver)(model, start, sigmas, disable=True, **options)

    phases = plan_phases(BASE, TARGET, "every")
    return {phase.number: latent for phase, latent in climb(base_of(seeds), phases, denoise_phase)}


@pytest.mark.parametrize("border", ["inside", "paper"])
@pytest.mark.parametrize("solver", ["sample_euler", "sample_heun", "sample_euler_ancestral"])
def test_a_batch_of_four_equals_four_single_runs(solver: str, border: str) -> None:
    """Windows, statistics, residual and renormalisation are each image's own."""
    together = run(range(4), solver, border=border)
    assert list(together) == [2, 3]
    for image in range(4):
        for number, latent in run([image], solver, border=border).items():
            assert torch.allclose(together[number][image], latent[0], rtol=1e-5, atol=1e-5)


def test_the_images_of_a_batch_differ() -> None:
    latents = run(range(4))[3]
    for one, other in itertools.combinations(latents, 2):
        assert (one - other).abs().mean() > 0.1


def test_the_same_seed_gives_the_same_picture_bit_for_bit() -> None:
    for solver in ("sample_heun", "sample_euler_ancestral"):
        torch.manual_seed(1)
        first = run([1], solver)
        torch.manual_seed(2)
        torch.randn(5)
        second = run([1], solver)
        assert all(torch.equal(first[number], second[number]) for number in (2, 3))


def test_random_numbers_come_from_the_generators_alone() -> None:
    before = torch.get_rng_state()
    for solver in ("sample_dpmpp_2m", "sample_euler_ancestral"):  # those that draw nothing themselves
        run([0], solver)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_phase_ends_with_the_statistics_of_the_base() -> None:
    anchor = statistics(base_of(SEEDS))
    for latent in run(range(4)).values():
        for ours, expected in zip(statistics(latent), anchor):
            assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)


class Counting(PhaseModel):
    """Counts what the network is asked for."""

    def __init__(self, engine: PhaseEngine):
        self.patches: list[int] = []
        super().__init__(engine, self.count)

    def count(self, patches: torch.Tensor, sigma: float, rows: Sequence[int]) -> torch.Tensor:
        self.patches.append(len(patches))
        return 0.9 * patches


def engine_of(solver: str, *, border: str = "inside") -> PhaseEngine:
    phase = one_phase((8, 8), 2)
    return build_engine(
        phase, draws(1, 1, 4, 16, 16), draws(2, 1, 4, 16, 16), window_lat=(8, 8), solver=solver, batch=4, border=border
    )


def test_a_run_costs_its_windows_and_sub_images_and_no_more() -> None:
    """Nine windows and four sub-images an evaluation; at the lowest noise level the global path has no weight."""
    model = Counting(engine_of("sample_euler"))
    sampling.sample_euler(model, model.engine.residual.noised(1.0, 14.0), SCHEDULE.sigmas(6).float(), disable=True)
    assert sum(model.patches) == 5 * (9 + 4) + 9
    assert max(model.patches) <= 4


def test_windows_are_drawn_at_step_starts_and_shared_by_the_steps_evaluations() -> None:
    engine = engine_of("sample_heun", border="paper")
    drawn = []
    for evaluation in range(8):
        engine.before(draws(evaluation, 1, 4, 16, 16), 900 - 100 * (evaluation // 2), 1.0, 5.0)
        drawn.append(list(engine.fusion.local.views[0]))
    assert drawn[0::2] == drawn[1::2]
    assert all(a != b for a, b in itertools.combinations(drawn[0::2], 2))
    grid = engine.fusion.grid
    assert drawn[0::2] == [grid.views(step_generator(0, 2, step)) for step in range(4)]


def test_each_evaluation_between_step_starts_leaves_the_latent_alone() -> None:
    engine = engine_of("sample_dpm_2")
    engine.before(draws(1, 1, 4, 16, 16), 900, 1.0, 9.0)
    engine.before(draws(2, 1, 4, 16, 16), 850, 1.0, 8.0)
    engine.before(draws(3, 1, 4, 16, 16), 800, 1.0, 6.0)
    midpoint = draws(4, 1, 4, 16, 16)
    engine.before(midpoint, 750, 1.0, 5.0)
    assert torch.equal(midpoint, draws(4, 1, 4, 16, 16))
    start = draws(5, 1, 4, 16, 16)
    engine.before(start, 700, 1.0, 4.0)
    assert not torch.equal(start, draws(5, 1, 4, 16, 16))


def test_more_evaluations_than_announced_are_steps_of_their_own() -> None:
    """A solver that evaluates once more than its pattern has must not stop the run."""
    engine = engine_of("sample_dpm_fast")
    engine.starts = iter([True, False])
    for t in (900, 850, 800, 750):
        engine.before(draws(1, 1, 4, 16, 16), t, 1.0, 5.0)
    assert engine.step == 2
