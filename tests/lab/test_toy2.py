"""The second toy: its network against the density that it answers for, its words, and the judge of its texture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from setuptools.config.pyprojecttoml import read_configuration

from demofusion_lib.core import upsample
from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.prompts import encode
from lab import toy2
from lab.toy2 import load_toy2
from lab.toy2.exact import (
    NATIVE_LAT,
    RIGHT,
    SPREAD,
    TEXTURE,
    cosines,
    denoised_scene,
    denoised_texture,
    drawn_texture,
    scene_power,
)
from lab.toy2.judge import Subject2, judge_texture

ROOT = Path(__file__).parents[2]
STRENGTH = 0.6
TRUE_RIGHT = (RIGHT + SPREAD**2) / (1 + 2 * SPREAD**2)
"""Of the power: what lies about a texture's own value lies in both channels alike."""


def log_density(x: torch.Tensor, sigma: float, woven: float, shared: bool) -> torch.Tensor:
    """Of `x (2, cells)`, written out point by point, but for a constant."""
    variance = (SPREAD * STRENGTH) ** 2 + sigma**2
    points = STRENGTH * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=x.dtype)
    near = -(x[None] - points[:, :, None]).square().sum(1) / (2 * variance)
    kinds = near.unflatten(0, (2, 2)).logsumexp(1)
    prior = torch.tensor([woven, 1 - woven], dtype=x.dtype).log()
    return (prior + kinds.sum(1)).logsumexp(0) if shared else (prior[:, None] + kinds).logsumexp(0).sum()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sigma", [0.2, 0.7, 3.0])
@pytest.mark.parametrize("woven", [RIGHT, 0.5])
def test_the_textures_answer_is_the_posterior_mean(sigma: float, woven: float, shared: bool) -> None:
    """Tweedie: `E[x0 | x] = x + sigma^2 * grad log p(x)`."""
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(log_density(x, sigma, woven, shared), x)
    expected = (x + sigma**2 * slope).detach().reshape(1, 2, 3, 4)
    share = torch.tensor([woven], dtype=torch.float64)
    found = denoised_texture(x.detach().reshape(1, 2, 3, 4), sigma, STRENGTH, share, shared)
    assert torch.allclose(found, expected, atol=1e-9)


def test_the_scenes_answer_errs_as_little_as_can_be() -> None:
    """By the mean of `S sigma^2 / (S + sigma^2)`, where `S` is the variance of a cosine."""
    down, across = cosines(NATIVE_LAT), cosines(24)
    assert torch.allclose(down @ down.T, torch.eye(NATIVE_LAT), atol=1e-5)
    assert float(scene_power(NATIVE_LAT, NATIVE_LAT).mean()) == pytest.approx(1)
    power, generator = scene_power(NATIVE_LAT, 24), torch.Generator().manual_seed(2)
    scenes = down.T @ (torch.randn(400, 1, NATIVE_LAT, 24, generator=generator) * power.sqrt()) @ across
    for sigma in (0.3, 2.0):
        noised = scenes + sigma * torch.randn(scenes.shape, generator=generator)
        error = float((denoised_scene(noised, sigma) - scenes).square().mean())
        assert error == pytest.approx(float((power * sigma**2 / (power + sigma**2)).mean()), rel=0.02)


@pytest.mark.parametrize(
    ("prompt", "woven"),
    [("a plain, woven", RIGHT), ("a Brushed plain", 1 - RIGHT), ("", 0.5), ("woven and brushed", 0.5), ("interwoven", 0.5)],
)  # fmt: skip
def test_it_reads_its_word(prompt: str, woven: float) -> None:
    context = encode(load_toy2(STRENGTH), [prompt, ""]).context
    assert context[0].unique().tolist() == pytest.approx([woven])
    assert context[1].unique().tolist() == [0.5]


def drawn(guidance: float, prompt: str = "a plain, woven", steps: int = 40) -> torch.Tensor:
    params = Params.from_names({"enabled": True, "scale": 1})
    order = Order([prompt] * 4, range(4), 256, 256, params, steps=steps, guidance=guidance)
    return next(iter(Drawing(load_toy2(STRENGTH), order).phases())).latent


def test_without_guidance_it_draws_the_distribution_and_with_it_the_word() -> None:
    """To the standard error of 4096 cells, three times, and what 40 steps of Euler make of it."""
    for guidance, low, high in ((1.0, TRUE_RIGHT - 0.03, TRUE_RIGHT + 0.03), (3.0, 0.9, 0.96)):
        textures = drawn(guidance)[:, TEXTURE]
        found = [judge_texture(one, 1, STRENGTH, "woven") for one in textures]
        assert low < sum(one.right for one in found) / 4 < high
        assert all(abs(one.contrast_db) < 0.8 for one in found)
    silent = [judge_texture(one, 1, STRENGTH, "woven").right for one in drawn(1.0, "a plain")[:, TEXTURE]]
    assert sum(silent) / 4 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_true_texture_is_judged_as_it_is(scale: int) -> None:
    for number in (0, 1):
        subject = Subject2(number)
        found = judge_texture(subject.true(scale, STRENGTH), scale, STRENGTH, subject.kind)
        assert found.right == pytest.approx(TRUE_RIGHT, abs=0.06 / scale)
        assert abs(found.contrast_db) < 0.3
        assert math.isnan(found.coarse) if scale == 1 else found.coarse == pytest.approx(TRUE_RIGHT, abs=0.06)


def test_an_enlarged_texture_is_coarse() -> None:
    small = drawn_texture((32, 32), STRENGTH, 1.0, torch.Generator().manual_seed(3))[None]
    blocks = judge_texture(torch.nn.functional.interpolate(small, scale_factor=2)[0], 2, STRENGTH, "woven")
    assert math.isnan(blocks.right) and blocks.contrast_db < -80 and blocks.coarse > 0.9
    assert judge_texture(upsample(small, 64, 64)[0], 2, STRENGTH, "woven").contrast_db < -6


def test_one_kind_a_picture_if_it_is_shared() -> None:
    for seed in range(4):
        one = drawn_texture((32, 32), STRENGTH, 0.5, torch.Generator().manual_seed(seed), shared=True)
        right = judge_texture(one, 1, STRENGTH, "woven").right
        assert min(right, 1 - right) == pytest.approx(SPREAD**2 / (1 + 2 * SPREAD**2), abs=0.02)


def test_neighbours_differ() -> None:
    assert [Subject2(number).prompt for number in (0, 1, 2)] == ["a plain, woven", "a plain, brushed", "a plain, woven"]


def test_the_package_does_not_carry_it() -> None:
    setuptools = read_configuration(ROOT / "pyproject.toml", expand=False)["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["demofusion_lib*"]
    assert not Path(toy2.__file__).is_relative_to(ROOT / "demofusion_lib")
