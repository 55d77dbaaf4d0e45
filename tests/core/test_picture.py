"""A given picture: through which phases it is climbed, what strength does to them, and what holds the result to it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import Strength, Weights, held, plan_picture, window_size
from demofusion_lib.core.enlarging import FromPicture, InLatent, InPixels


@pytest.mark.parametrize(
    ("picture", "target", "window"),
    [
        ((64, 64), (128, 128), (64, 64)), ((64, 96), (256, 384), (64, 96)), ((64, 97), (128, 194), (48, 80)),
        ((128, 128), (256, 256), (64, 64)), ((375, 250), (750, 500), (80, 56)), ((12, 12), (48, 48), (48, 48)),
        ((12, 12), (96, 96), (64, 64)), ((20, 10), (160, 80), (91, 45)), ((512, 64), (512, 64), (184, 24)),
    ],
    ids=str,
)  # fmt: skip
def test_windows_have_the_native_area(
    picture: tuple[int, int], target: tuple[int, int], window: tuple[int, int]
) -> None:
    assert window_size(picture, target, 64) == window


@pytest.mark.parametrize(
    ("picture", "window", "target", "sizes", "dilations"),
    [
        ((64, 64), (64, 64), (256, 256), [(128, 128), (256, 256)], [2, 4]),
        ((128, 128), (64, 64), (256, 256), [(256, 256)], [4]),
        ((12, 12), (64, 64), (96, 96), [(64, 64), (96, 96)], [1, 2]),
        ((12, 12), (48, 48), (48, 48), [(48, 48)], [1]),
        ((128, 128), (64, 64), (128, 128), [], []),
        ((12, 12), (12, 12), (12, 12), [], []),
    ],
    ids=str,
)
def test_a_picture_is_climbed_from_its_own_size(
    picture: tuple[int, int], window: tuple[int, int], target: tuple[int, int],
    sizes: list[tuple[int, int]], dilations: list[int],
) -> None:  # fmt: skip
    phases = plan_picture(picture, window, target, "doubling")
    assert [(phase.height_lat, phase.width_lat) for phase in phases] == sizes
    assert [phase.dilation for phase in phases] == dilations
    assert [phase.number for phase in phases] == list(range(2, len(sizes) + 2))
    assert {phase.last for phase in phases} <= {len(sizes) + 1}


def test_strength_moves_start_residual_and_hold_one_way() -> None:
    strengths = [Strength(value / 20) for value in range(21)]
    for start in (None, 601.0):
        starts = [s.start_t(start) for s in strengths[:-1]]
        assert starts == sorted(starts) and len(set(starts)) == len(starts) and starts[0] == 2
    exponents = [s.weights(Weights(a1=3.0)).a1 for s in strengths]
    holds = [s.hold for s in strengths]
    assert exponents == sorted(set(exponents)) and holds == sorted(set(holds), reverse=True)
    assert (holds[0], holds[-1], exponents[-1]) == (1, 0, 3)
    assert strengths[-1].start_t(None) is None and strengths[-1].start_t(601.0) == 601
    assert Strength(0.5).start_t(601.0) == 300.5


def test_there_are_no_more_steps_than_timesteps() -> None:
    assert [Strength(0.001).steps(5, t) for t in (2.0, 3.7, 100.0)] == [2, 3, 5]
    assert Strength(1.0).steps(5, 3.0) == 5 and Strength(0.001).steps(1, 2.0) == 1


def test_what_is_held_has_the_pictures_means_and_its_own_detail() -> None:
    generator = torch.Generator().manual_seed(1)
    given = torch.full((1, 3, 8, 8), 0.25)
    detail = torch.randn(1, 3, 16, 16, generator=generator)
    detail -= F.interpolate(F.avg_pool2d(detail, 2), scale_factor=2, mode="nearest")
    drawn = detail - 0.75
    assert torch.allclose(held(drawn, given, 1.0), detail + 0.25, atol=1e-5)
    assert torch.allclose(held(drawn, given, 0.5), detail - 0.25, atol=1e-5)
    assert held(drawn, given, 0.0) is drawn


def test_pixels_of_the_picture_are_enlarged_once_and_what_is_drawn_after_that() -> None:
    picture, base = torch.rand(1, 3, 16, 16) - 0.5, torch.zeros(2, 4, 2, 2)
    seen = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        return torch.ones(1, 4, pixels.shape[-2] // 8, pixels.shape[-1] // 8)

    def decode(latent: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 3, 8 * latent.shape[-2], 8 * latent.shape[-1]), 0.75)

    enlarge = FromPicture(base, picture, InPixels(decode, encode, 8))
    assert enlarge(base, 4, 4).shape == (2, 4, 4, 4)
    assert torch.equal(seen[0], F.interpolate(picture, scale_factor=2, mode="bicubic"))
    enlarge(torch.zeros(1, 4, 2, 2), 4, 4)
    assert torch.allclose(seen[1], torch.tensor(0.75))
    plain = FromPicture(base, picture, InLatent())
    assert torch.equal(plain(base, 4, 4), torch.zeros(2, 4, 4, 4)) and len(seen) == 2
