"""Our solvers against k-diffusion's own functions, of which the webui's samplers are made."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.standalone.brownian import Brownian
from demofusion_lib.standalone.names import SAMPLERS
from demofusion_lib.standalone.solving import SOLVERS, Run, exponential, karras

LOW, HIGH = 0.03, 14.6
SHAPE = (2, 4, 6, 5)


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Of two points, smoothly: no solver is exact on it."""
    return torch.tanh(x / (sigma**2 + 0.3)) * 1.5 + 0.1 * torch.sin(3 * x / (1 + sigma))


class Recorded:
    """Noise that is the same for the same question, and the questions, `(sigma, following)`."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def __call__(self, sigma: Any, following: Any) -> torch.Tensor:
        self.asked.append((float(sigma), float(following)))
        return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(len(self.asked)))


def start() -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * HIGH


def theirs(name: str, sigmas: torch.Tensor, steps: int, eta: float, noise: Recorded) -> torch.Tensor:
    function = getattr(sampling, name)

    def model(x: torch.Tensor, sigma: torch.Tensor, **extra: object) -> torch.Tensor:
        x.mul_(0.999)  # as the residual does, in place
        return denoise(x, float(sigma.flatten()[0]))

    takes = inspect.signature(function).parameters
    named: dict[str, Any] = {"disable": True}
    named |= {key: value for key, value in (("eta", eta), ("noise_sampler", noise)) if key in takes}
    if "n" in takes:
        return function(model, start(), LOW, HIGH, steps, **named)
    return function(model, start(), *([LOW, HIGH] if "sigma_min" in takes else [sigmas.double()]), **named)


def ours(name: str, sigmas: torch.Tensor, steps: int, eta: float, noise: Recorded) -> torch.Tensor:
    def model(x: torch.Tensor, sigma: float) -> torch.Tensor:
        x.mul_(0.999)
        return denoise(x, sigma)

    return SOLVERS[name](Run(model, sigmas.tolist(), (LOW, HIGH), steps, noise, eta), start())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [4, 9, 12])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_it_answers_what_k_diffusion_answers(name: str, steps: int, eta: float) -> None:
    sigmas = karras(steps, LOW, HIGH)
    asked, known = Recorded(), Recorded()
    made, expected = ours(name, sigmas, steps, eta, asked), theirs(name, sigmas, steps, eta, known)
    assert float((made - expected).norm() / expected.norm()) < 1e-4  # some of theirs reckon in single precision
    if eta == 0:
        return
    assert len(known.asked) - len(asked.asked) in (0, 1), (
        asked.asked[-3:],
        known.asked[-3:],
    )  # of no weight at the end
    if asked.asked:
        assert torch.allclose(torch.tensor(asked.asked), torch.tensor(known.asked)[: len(asked.asked)], rtol=1e-3)


def test_there_is_a_solver_for_every_sampler() -> None:
    assert {s.solver for s in SAMPLERS.values()} == {*SOLVERS, "ddim", "unipc"}


@pytest.mark.parametrize("steps", [1, 2, 11])
def test_noise_levels(steps: int) -> None:
    assert torch.allclose(karras(steps, LOW, HIGH), sampling.get_sigmas_karras(steps, LOW, HIGH), rtol=1e-3)
    expected = sampling.get_sigmas_exponential(steps, LOW, HIGH)
    assert torch.allclose(exponential(steps, LOW, HIGH), expected, rtol=1e-3)
    assert torch.allclose(expected, sampling.get_sigmas_polyexponential(steps, LOW, HIGH), rtol=1e-3)


def test_the_path_is_brownian() -> None:
    """Stretches of it are independent, each with its length for a variance, and a whole is its parts."""
    like = torch.zeros(3, 1, 120, 120)
    path = Brownian(like, 0.1, 10.1, [1, 2, 3])
    levels = [10.1, 6.0, 5.99, 2.0, 0.3, 0.1]
    noises = [path(a, b) for a, b in pairwise(levels)]
    for noise in noises:
        assert noise.shape == like.shape and abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    for i, one in enumerate(noises):
        for other in noises[:i]:
            assert abs(float((one * other).mean())) < 0.02
    whole = sum(noise * math.sqrt(a - b) for noise, (a, b) in zip(noises, pairwise(levels)))
    assert torch.allclose(path(10.1, 0.1) * math.sqrt(10), whole, atol=1e-4)


def test_the_path_is_the_image_s_own_and_the_same_in_other_steps() -> None:
    like = torch.zeros(2, 4, 8, 8)
    path, again = Brownian(like, 0.1, 10.1, [5, 6]), Brownian(like[:1], 0.1, 10.1, [6])
    path(10.1, 7.0)
    path(7.0, 4.0)
    assert torch.allclose(path(4.0, 1.0)[1:], again(4.0, 1.0), atol=1e-5)
    assert not torch.allclose(path(4.0, 1.0)[:1], again(4.0, 1.0), atol=1e-1)
