"""Statistics from a sample, tile by tile: close to the exact picture, and no step where tiles meet."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from demofusion_lib.vae import decode, encode, estimated
from lab.scenes import draw_scene, render

from .support import ROOMY, diffusers_vae, ldm_vae, make_circular, noise, psnr, toy_vae, undivided, undivided_moments

estimate = functools.partial(decode, mode="estimated", memory=ROOMY)


@functools.cache
def scene(seed: int) -> torch.Tensor:
    """A latent of 48 cells: a scene as the toy's VAE keeps it."""
    generator = torch.Generator().manual_seed(seed)
    image = render(draw_scene(generator), 1.5)[None] * 2 - 1
    return encode(toy_vae(), image, memory=ROOMY)[:, :4]


@functools.cache
def truth(seed: int) -> torch.Tensor:
    return decode(toy_vae(), scene(seed), mode="exact", memory=ROOMY)


def few_patches(monkeypatch: pytest.MonkeyPatch, count: int = 24) -> None:
    """So few that they leave most of these small pictures out, as the usual number does of large ones."""
    monkeypatch.setattr(estimated, "PATCHES", count)


def test_trained_weights_stay_within_40_db(monkeypatch: pytest.MonkeyPatch) -> None:
    few_patches(monkeypatch)
    made = estimate(toy_vae(), scene(3))
    assert 40 < psnr(made, truth(3)) < 90


def steps(picture: torch.Tensor) -> torch.Tensor:
    """The mean step from each row to the next."""
    return (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean((0, 1, 3))


def test_borders_leave_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same picture, steps over rows that are borders, and over rows that are none."""
    few_patches(monkeypatch)
    small, whole = (estimate(toy_vae(), scene(3), tile_lat=tile_lat) for tile_lat in (24, 64))
    borders = torch.tensor([small.shape[2] // 2 - 1])
    ratio = steps(small) / steps(whole)
    assert float(ratio[borders].mean() / ratio.mean()) == pytest.approx(1, abs=0.01)
    assert psnr(small, whole) > 100  # the same wherever the borders are


@pytest.mark.parametrize("size", [(1, 4, 12, 30), (2, 4, 25, 9), (1, 4, 1, 3)])
@pytest.mark.parametrize("make", [diffusers_vae, ldm_vae], ids=["diffusers", "ldm"])
def test_a_sample_of_everything_gives_nearly_the_exact_picture(make: Any, size: tuple[int, ...]) -> None:
    vae, latent = make(), noise(*size)
    assert psnr(estimate(vae, latent, tile_lat=8), undivided(vae, latent)) > 40


def test_one_patch_that_is_the_whole_picture_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing but the sample is estimated: halos, borders and zeros beyond the picture are exact."""
    monkeypatch.setattr(estimated, "CORE", 1000)
    vae, latent = diffusers_vae(), noise(1, 4, 21, 34)
    assert psnr(estimate(vae, latent, tile_lat=8), undivided(vae, latent)) > 100
    image = noise(1, 3, 160, 208)
    made = encode(vae, image, mode="estimated", memory=ROOMY, tile_lat=8)
    assert psnr(made, undivided_moments(vae, image)) > 100


def test_a_picture_whose_edges_meet() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 20, 33)
    make_circular(vae)
    made, whole = estimate(vae, latent, tile_lat=8), undivided(vae, latent)
    assert psnr(made, whole) > 40
    assert psnr(made[..., :24, :], whole[..., :24, :]) > 40 and psnr(made[..., -24:], whole[..., -24:]) > 40


@pytest.mark.parametrize("size", [(1, 3, 200, 130), (2, 3, 67, 301)])
def test_encodes(size: tuple[int, ...]) -> None:
    vae, image = diffusers_vae(), noise(*size)
    made = encode(vae, image, mode="estimated", memory=ROOMY, tile_lat=8)
    assert psnr(made, undivided_moments(vae, image)) > 40


def test_the_same_picture_twice_and_progress() -> None:
    vae, latent, told = diffusers_vae(), noise(1, 4, 30, 30), []
    made = estimate(vae, latent, tile_lat=8, on_tile=lambda *count: told.append(count))
    assert told == [(number + 1, len(told)) for number in range(len(told))]
    assert torch.equal(made, estimate(vae, latent, tile_lat=8))
