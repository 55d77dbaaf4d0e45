"""Where a solver will evaluate the model, checked against k-diffusion's own solvers at work."""

from __future__ import annotations

import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.core import SOLVERS, evaluated_sigmas, evaluated_timesteps, is_countable

from .support import SCHEDULE, draws, gaussian_denoiser
from .test_solvers import FROM_SIGMAS

KARRAS = sampling.get_sigmas_karras(9, *SCHEDULE.ends)


def at_work(solver: str, *args: object, **options: object) -> list[float]:
    """The levels of a run's evaluations."""
    seen, denoise = [], gaussian_denoiser(1.0)

    def model(x: torch.Tensor, sigma: torch.Tensor, **extra: object) -> torch.Tensor:
        seen.append(float(sigma[0]))
        return denoise(x, seen[-1], [0])

    getattr(sampling, solver)(model, draws(1, 1, 4, 4, 4) * SCHEDULE.ends[1], *args, disable=True, **options)
    return seen


@pytest.mark.parametrize("solver", FROM_SIGMAS)
@pytest.mark.parametrize("sigmas", [SCHEDULE.sigmas(n).float() for n in (2, 3, 7, 20)] + [KARRAS], ids=len)
def test_every_solver_on_a_schedule(solver: str, sigmas: torch.Tensor) -> None:
    foretold = evaluated_sigmas(solver, sigmas.tolist(), SCHEDULE.ends)
    assert foretold == pytest.approx(at_work(solver, sigmas), rel=1e-5)


@pytest.mark.parametrize("solver", ["sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde"])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_eta_moves_the_midpoints(solver: str, eta: float) -> None:
    sigmas = SCHEDULE.sigmas(6).float()
    foretold = evaluated_sigmas(solver, sigmas.tolist(), SCHEDULE.ends, eta=eta)
    assert foretold == pytest.approx(at_work(solver, sigmas, eta=eta), rel=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dpm_fast(eta: float) -> None:
    for steps in range(1, 26):
        foretold = evaluated_sigmas("sample_dpm_fast", [1.0] * steps + [0.0], SCHEDULE.ends, eta=eta)
        assert foretold == pytest.approx(at_work("sample_dpm_fast", *SCHEDULE.ends, steps, eta=eta), rel=1e-4)


def test_dpm_adaptive_alone_can_not_be_counted() -> None:
    assert [solver for solver in sorted(SOLVERS) if not is_countable(solver)] == ["sample_dpm_adaptive"]
    levels = evaluated_sigmas("sample_dpm_adaptive", [1.0, 0.0], SCHEDULE.ends)
    assert levels == sorted(levels, reverse=True) and levels[0] == pytest.approx(SCHEDULE.ends[1])


def test_plms_evaluates_once_more_in_its_first_step() -> None:
    assert evaluated_timesteps("plms", [751, 501, 251]) == [751, 501, 501, 251]
    assert evaluated_timesteps("plms", [751]) == [751]
    assert evaluated_timesteps("ddim", [751, 501, 251]) == [751, 501, 251]


def test_solvers_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="solver is 'ddim', allowed: .*sample_euler"):
        evaluated_sigmas("ddim", [1.0, 0.0], SCHEDULE.ends)
    with pytest.raises(ValueError, match="solver is 'sample_new', allowed"):
        evaluated_sigmas("sample_new", [1.0, 0.0], SCHEDULE.ends)
    with pytest.raises(ValueError, match="solver is 'sample_euler', allowed: ddim"):
        evaluated_timesteps("sample_euler", [1])
