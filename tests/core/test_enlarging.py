"""From one phase's latent to the next one's first: across cells, or across the pixels of its picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import Enlarge, InLatent, InPixels, climb, plan_phases, upsample
from demofusion_lib.params import Params
from demofusion_lib.plan import Plan
from demofusion_lib.targets import LATENT_PX

from .support import draws

CELL = 4


def decode(latent: torch.Tensor) -> torch.Tensor:
    """A picture whose cells are flat squares of the first three channels, half as bright."""
    return latent[:, :3].mul(0.5).repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)


def encode(picture: torch.Tensor) -> torch.Tensor:
    """The means of those squares, and a fourth channel of nothing."""
    means = F.avg_pool2d(picture, CELL).mul(2)
    return torch.cat([means, torch.zeros_like(means[:, :1])], 1)


def in_pixels(wrap: bool = False) -> InPixels:
    return InPixels(decode, encode, CELL, wrap)


def by_hand(latent: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As a person with an image editor would."""
    picture = decode(latent).clamp(-1, 1)
    larger = F.interpolate(picture, size=(height * CELL, width * CELL), mode="bicubic").clamp(-1, 1)
    return encode(larger)


@pytest.mark.parametrize("size", [(10, 8), (15, 12), (12, 9)])
def test_it_is_the_picture_that_is_enlarged(size: tuple[int, int]) -> None:
    latent = draws(0, 2, 4, 5, 4)
    made = in_pixels()(latent, *size)
    torch.testing.assert_close(made, by_hand(latent, *size))
    assert (made - upsample(latent, *size))[:, :3].abs().max() > 0.1


def test_pictures_go_one_by_one_and_stay_as_they_were() -> None:
    seen = []

    def counting(latent: torch.Tensor) -> torch.Tensor:
        seen.append(len(latent))
        return latent[:, :3].mul(0.5).repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)

    latent = draws(0, 3, 4, 5, 4)
    before = latent.clone()
    InPixels(counting, encode, CELL)(latent, 10, 8)
    assert seen == [1, 1, 1] and torch.equal(latent, before)


def test_what_is_brighter_than_white_is_white() -> None:
    made = in_pixels()(torch.full((1, 4, 4, 4), 7.0), 8, 8)
    torch.testing.assert_close(made[:, :3], torch.full((1, 3, 8, 8), 2.0))


def test_a_seamless_picture_goes_on_at_its_opposite_edge() -> None:
    latent = draws(0, 1, 4, 4, 4)
    moved = in_pixels(wrap=True)(latent.roll((1, 2), (-2, -1)), 8, 8)
    torch.testing.assert_close(moved, in_pixels(wrap=True)(latent, 8, 8).roll((2, 4), (-2, -1)))
    assert not torch.allclose(in_pixels()(latent.roll(1, -1), 8, 8), in_pixels()(latent, 8, 8).roll(2, -1))


@pytest.mark.parametrize("enlarge", [InLatent(), InLatent(wrap=True), in_pixels()], ids=["latent", "wrap", "pixels"])
def test_every_phase_begins_from_the_one_before_it(enlarge: Enlarge) -> None:
    """And what holds it is that one as it was."""
    base, phases = draws(0, 2, 4, 6, 6), plan_phases((6, 6), (18, 18), "every")
    given = []

    def denoise(phase: object, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        given.append((previous, before))
        return previous + 1

    done = [latent for _, latent in climb(base, phases, denoise, enlarge=enlarge)]
    for phase, (previous, before), latent in zip(phases, given, [base, *done]):
        torch.testing.assert_close(before, latent)
        torch.testing.assert_close(previous, enlarge(latent, phase.height_lat, phase.width_lat))
    assert len(given) == 2


@pytest.mark.parametrize("wrap", [False, True])
def test_the_setting_says_which(wrap: bool) -> None:
    def plan(**settings: str) -> Plan:
        return Plan(
            Params.from_names({"preset": "none", **settings}),
            (8, 8),
            4,
            "sample_euler",
            lambda steps, start: [0.0],
            wrap=wrap,
        )

    assert plan().enlarge(decode, encode) == InLatent(wrap)
    assert plan(enlarge="pixels").enlarge(decode, encode) == InPixels(decode, encode, LATENT_PX, wrap)
