"""Which evaluations begin a step, checked against k-diffusion's own solvers at work."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.core import CORRECTED, SOLVERS, degenerate_step, first_sigma, is_stochastic, step_starts

from .support import SCHEDULE, draws, gaussian_denoiser

K_DIFFUSION = {name for name in dir(sampling) if name.startswith("sample_")}
FROM_SIGMAS = sorted(K_DIFFUSION - {"sample_dpm_fast", "sample_dpm_adaptive"})
NOISY = {"sample_euler", "sample_heun", "sample_dpm_2"}  # those with `s_churn`


class Tracer:
    """A model and a callback that note which evaluations a solver makes at a step's start.

    There the model gets the very tensor that the solver reports as its state, in its callback before it goes on from
    it, or as what it begins with; at a midpoint it gets a tensor that is never reported.
    """

    def __init__(self) -> None:
        self.denoise = gaussian_denoiser(1.0)
        self.evaluated: list[tuple[torch.Tensor, float]] = []
        self.states: list[torch.Tensor] = []

    def model(self, x: torch.Tensor, sigma: torch.Tensor, **extra: object) -> torch.Tensor:
        self.evaluated.append((x, float(sigma[0])))
        return self.denoise(x, float(sigma[0]), [0])

    def run(self, sample: Callable[..., torch.Tensor], *args: object, **options: object) -> list[bool]:
        x = draws(1, 1, 4, 4, 4) * SCHEDULE.ends[1]
        self.states.append(x)
        sample(self.model, x, *args, callback=lambda step: self.states.append(step["x"]), disable=True, **options)
        return [any(x is state for state in self.states) for x, _ in self.evaluated]


def assert_agrees(solver: str, steps: int, traced: list[bool]) -> None:
    assert list(itertools.islice(step_starts(solver, steps), len(traced))) == traced


def test_every_k_diffusion_solver_is_known() -> None:
    assert K_DIFFUSION <= SOLVERS


@pytest.mark.parametrize("solver", FROM_SIGMAS)
@pytest.mark.parametrize("steps", [2, 3, 7, 12])
def test_starts_of_the_solvers_on_a_schedule(solver: str, steps: int) -> None:
    tracer, sigmas = Tracer(), SCHEDULE.sigmas(steps).float()
    traced = tracer.run(getattr(sampling, solver), sigmas)
    assert_agrees(solver, steps, traced)
    assert sum(traced) == steps
    assert [sigma for (_, sigma), start in zip(tracer.evaluated, traced) if start] == sigmas[:-1].tolist()


@pytest.mark.parametrize("solver", sorted(NOISY))
def test_churn_does_not_move_the_starts(solver: str) -> None:
    assert_agrees(solver, 6, Tracer().run(getattr(sampling, solver), SCHEDULE.sigmas(6).float(), s_churn=3.0))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("solver", [name for name in FROM_SIGMAS if is_stochastic(name, eta=1.0)])
def test_eta_does_not_move_the_starts(solver: str, eta: float) -> None:
    assert not degenerate_step(solver, eta)
    assert_agrees(solver, 6, Tracer().run(getattr(sampling, solver), SCHEDULE.sigmas(6).float(), eta=eta))


@pytest.mark.parametrize("solver", [name for name in FROM_SIGMAS if is_stochastic(name, eta=1.0)])
def test_an_eta_that_moves_the_starts_is_called_degenerate(solver: str) -> None:
    steps, eta = 20, 1.8
    traced = Tracer().run(getattr(sampling, solver), SCHEDULE.sigmas(steps).float(), eta=eta)
    moved = list(itertools.islice(step_starts(solver, steps), len(traced))) != traced
    assert moved == degenerate_step(solver, eta)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_starts_of_dpm_fast(eta: float) -> None:
    for steps in range(1, 26):
        tracer = Tracer()
        traced = tracer.run(sampling.sample_dpm_fast, *SCHEDULE.ends, steps, eta=eta)
        assert list(step_starts("sample_dpm_fast", steps)) == traced
        assert len(traced) == steps


@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"rtol": 0.001}, {"h_init": 4.0, "rtol": 0.001}])
def test_starts_of_dpm_adaptive(options: dict[str, float]) -> None:
    assert_agrees("sample_dpm_adaptive", 10, Tracer().run(sampling.sample_dpm_adaptive, *SCHEDULE.ends, **options))


def test_a_step_that_dpm_adaptive_rejects_begins_again_with_the_same_latent() -> None:
    tracer = Tracer()
    traced = tracer.run(sampling.sample_dpm_adaptive, *SCHEDULE.ends, rtol=0.001, h_init=4.0)
    starts = [evaluation for evaluation, start in zip(tracer.evaluated, traced) if start]
    repeated = [a[0] is b[0] for a, b in itertools.pairwise(starts) if a[1] == b[1]]
    assert repeated and all(repeated)


def test_starts_of_the_hosts_own_solvers() -> None:
    assert list(itertools.islice(step_starts("plms", 4), 6)) == [True, False, True, True, True, True]
    assert list(itertools.islice(step_starts("restart_sampler", 4), 5)) == [True, False, True, False, True]
    for solver in ("ddim", "ddim_cfgpp", "unipc", "sample_lcm"):
        assert list(itertools.islice(step_starts(solver, 4), 5)) == [True] * 5


def test_unknown_solvers_are_refused() -> None:
    """None may silently run with starts that are not its own."""
    with pytest.raises(ValueError, match=r"solver is 'sample_new', allowed: .*sample_euler"):
        step_starts("sample_new", 10)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("solver", sorted(K_DIFFUSION))
def test_stochastic_is_who_lets_noise_into_the_latent(solver: str, eta: float) -> None:
    """Two runs that differ in the sampler's noise alone end apart, or they do not."""
    function = getattr(sampling, solver)
    names = inspect.signature(function).parameters
    options = {"eta": eta} if "eta" in names else {}
    args = {
        "sample_dpm_fast": (*SCHEDULE.ends, 6),
        "sample_dpm_adaptive": SCHEDULE.ends,
    }.get(solver, (SCHEDULE.sigmas(6).float(),))
    ends = []
    for shift in (0.0, 1.0):
        torch.manual_seed(0)
        noise = {"noise_sampler": lambda sigma, below, shift=shift: shift} if "noise_sampler" in names else {}
        x = draws(1, 1, 4, 4, 4) * SCHEDULE.ends[1]
        ends.append(function(Tracer().model, x, *args, disable=True, **options, **noise))
    assert torch.equal(*ends) is not is_stochastic(solver, eta=eta)


@pytest.mark.parametrize("solver", sorted(NOISY))
def test_churn_makes_a_solver_stochastic(solver: str) -> None:
    assert is_stochastic(solver, churn=0.5) and not is_stochastic(solver, churn=0.0)
    assert not is_stochastic(solver, eta=1.0)


def test_the_hosts_stochastic_solvers() -> None:
    assert is_stochastic("sample_lcm") and is_stochastic("restart_sampler")
    for solver in ("ddim", "ddim_cfgpp"):
        assert is_stochastic(solver, eta=0.1) and not is_stochastic(solver)
    assert not is_stochastic("plms", eta=1.0) and not is_stochastic("unipc", eta=1.0)


def test_corrected_solvers_are_known_ones() -> None:
    assert sorted(CORRECTED) == ["unipc"] and CORRECTED <= SOLVERS


def test_runs_begin_at_the_schedules_first_level_or_the_models_highest() -> None:
    for solver in SOLVERS:
        own_schedule = solver in {"sample_dpm_fast", "sample_dpm_adaptive"}
        assert first_sigma(solver, [10.0, 1.0], 14.6) == (14.6 if own_schedule else 10.0)
