"""Every solver converges on a whole phase: the residual enters at step starts, and leaves the solver its order."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from k_diffusion import sampling

from demofusion_lib.core import upsample

from .support import SCHEDULE, PhaseModel, build_engine, draws, gaussian_denoiser, one_phase

BASE = (8, 8)
PHASE = one_phase(BASE, 2)
STEPS = (10, 20, 40, 80)
FINE = 1280
STD = 0.7


def phase_start() -> tuple[torch.Tensor, torch.Tensor]:
    """The upsampled latent of the phase before, and the phase's noise."""
    previous = upsample(draws(1, 1, 4, *BASE, dtype=torch.float64), PHASE.height_lat, PHASE.width_lat)
    return previous, draws(2, *previous.shape, dtype=torch.float64)


def phase_model(solver: str, steps: int) -> tuple[PhaseModel, torch.Tensor]:
    """All three mechanisms on an analytic Gaussian prior, and the latent that the phase starts from."""
    previous, noise = phase_start()
    engine = build_engine(PHASE, previous, noise, window_lat=BASE, solver=solver, steps=steps)
    start = engine.residual.noised(1.0, SCHEDULE.ends[1])
    return PhaseModel(engine, gaussian_denoiser(STD, mean=0.2)), start


def no_noise(sigma: torch.Tensor, sigma_next: torch.Tensor) -> float:
    return 0.0


def on_schedule(solver: str, **options: object) -> Callable[[int], torch.Tensor]:
    def run(steps: int) -> torch.Tensor:
        model, x = phase_model(solver, steps)
        return getattr(sampling, solver)(model, x, SCHEDULE.sigmas(steps), disable=True, **options)

    return run


def without_noise(solver: str) -> Callable[[int], torch.Tensor]:
    return on_schedule(solver, eta=0.0, noise_sampler=no_noise)


def dpm_fast(steps: int) -> torch.Tensor:
    model, x = phase_model("sample_dpm_fast", steps)
    return sampling.sample_dpm_fast(model, x, *SCHEDULE.ends, steps, disable=True)


def dpm_adaptive(steps: int) -> torch.Tensor:
    """The tolerance falls with the cube of the steps, as the error of one third-order step does."""
    model, x = phase_model("sample_dpm_adaptive", steps)
    rtol = 0.05 * (10 / steps) ** 3
    return sampling.sample_dpm_adaptive(model, x, *SCHEDULE.ends, rtol=rtol, atol=rtol / 6, disable=True)


RUNS = {
    **{name: on_schedule(f"sample_{name}") for name in ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")},
    **{
        name: without_noise(f"sample_{name}")
        for name in (
            "euler_ancestral",
            "dpm_2_ancestral",
            "dpmpp_2s_ancestral",
            "dpmpp_sde",
            "dpmpp_2m_sde",
            "dpmpp_3m_sde",
        )
    },
    "dpm_fast": dpm_fast,
    "dpm_adaptive": dpm_adaptive,
}


@cache
def reference() -> torch.Tensor:
    return on_schedule("sample_heun")(FINE)


def errors(run: Callable[[int], torch.Tensor]) -> list[float]:
    exact = reference()
    return [float((run(steps) - exact).norm() / exact.norm()) for steps in STEPS]


if __name__ == "__main__":
    import time

    torch.set_num_threads(1)
    a = time.time()
    reference()
    print(time.time() - a)
    for n, r in RUNS.items():
        a = time.time()
        e = errors(r)
        print(n, ["%.5f" % v for v in e], ["%.2f" % (b / c) for b, c in zip(e, e[1:])], "%.2fs" % (time.time() - a))
