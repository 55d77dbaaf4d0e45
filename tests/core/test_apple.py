"""Apple's GPUs have no float64: the engine asks for none, and comes to the CPU's values."""

from __future__ import annotations

import pytest
import torch

from demofusion_lib.core import (
    PhaseEngine,
    PhaseFusion,
    SkipResidual,
    Weights,
    WindowGrid,
    plan_phases,
    step_generator,
    step_starts,
)

from ..apple import Far, apple


def drawn(latent: torch.Tensor, noise: torch.Tensor, border: str, stochastic: bool) -> list[torch.Tensor]:
    """What three steps of a phase make of its start, windows and sub-images halved by the model."""
    (phase,) = plan_phases((8, 8), (20, 16), "direct")
    grid = WindowGrid(20, 16, (8, 8), 0.5, True, border)
    residual = SkipResidual(latent, noise, Weights(), stochastic=stochastic)
    fusion = PhaseFusion(phase, grid, Weights(), blur=0.8, batch=4)
    engine = PhaseEngine(residual, fusion, step_starts("sample_euler", 3), lambda step: [step_generator(1, 2, step)])
    answers = []
    for t in (900.0, 500.0, 100.0):
        x = latent.clone()
        engine.before(x, t, 1.0, 2.0)
        answers.append(fusion(x, [0], t, 0.5, lambda patches, rows, views, layout: patches * 0.5))
    return answers


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("border", ["inside", "paper"])
def test_the_engine(border: str, stochastic: bool) -> None:
    latent, noise = torch.randn(2, 1, 4, 20, 16, generator=torch.Generator().manual_seed(1))
    expected = drawn(latent, noise, border, stochastic)
    with apple():
        answers = drawn(Far(latent), Far(noise), border, stochastic)
    assert all(isinstance(answer, Far) for answer in answers)
    assert all(torch.equal(answer.near, other) for answer, other in zip(answers, expected))
