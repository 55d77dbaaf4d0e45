"""Seamless pictures ("Tiling") with the toy: judged all around, by the objects in them and by what their edges show."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from lab.detector import SATURATION, find_objects
from lab.scenes import NATIVE_PX

from .client import WebUI, apart
from .test_toy import FIELDS, toy

__all__ = ["toy"]
SEEDS = (3, 4, 5)
"""Their base images show nothing coloured in the outer tenths, so that whatever does later is a stray."""
ROUGH = 1.5
"""How much steeper than the mean the step across the join may be: 4.7 where seed 3's windows were each a torus."""


def heeds_it(webui: WebUI) -> None:
    plain, seamless = (webui.draw(steps=2, tiling=on).picture for on in (False, True))
    if apart(plain, seamless) == 0:
        pytest.skip("the webui itself draws no seamless pictures, as Forge does not")


def drawn(webui: WebUI, seed: int, **settings: object) -> torch.Tensor:
    fields = {**FIELDS, "seed": seed, "tiling": True}
    heeds_it(webui)
    answer = webui.enlarge(fields, **settings) if settings else webui.draw(**fields)
    assert "Tiling: True" in answer.infotexts[0]
    return to_tensor(answer.picture.convert("RGB"))


def objects_around(picture: torch.Tensor) -> int:
    """An object that the edge cuts is one: whole in the picture rolled by half, down, across or both."""
    height, width = picture.shape[-2:]
    shifts = itertools.product((0, height // 2), (0, width // 2))
    return min(len(find_objects(picture.roll(shift, (-2, -1)))) for shift in shifts)


def coloured_px(picture: torch.Tensor) -> int:
    """In the outer tenths, left and right."""
    tenth = picture.shape[-1] // 10
    coloured = (picture.amax(0) - picture.amin(0)).gt(SATURATION)
    return int(coloured[:, :tenth].sum() + coloured[:, -tenth:].sum())


def step_across(picture: torch.Tensor) -> float:
    """From the last column to the first, against the mean between neighbouring columns."""
    grey = picture.mean(0)
    steps = (grey - grey.roll(1, -1)).abs().mean(0)
    return float(steps[0] / steps[1:].mean())


def assert_seamless(picture: torch.Tensor, base: torch.Tensor) -> None:
    assert coloured_px(base) == 0 and objects_around(base) == 1
    assert objects_around(picture) == 1
    assert coloured_px(picture) == 0
    assert step_across(picture) < ROUGH


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_strays_to_the_edge_and_the_edge_does_not_show(toy: WebUI, seed: int) -> None:
    picture = drawn(toy, seed, scale=2)
    assert picture.shape[-2:] == (2 * NATIVE_PX, 2 * NATIVE_PX)
    assert_seamless(picture, drawn(toy, seed))


def test_nor_where_the_dilation_does_not_go_into_the_size(toy: WebUI) -> None:
    """80 latent cells in steps of 3."""
    picture = drawn(toy, SEEDS[1], scale=2.5, plan="direct")
    assert picture.shape[-2:] == (640, 640)
    assert_seamless(picture, drawn(toy, SEEDS[1]))


def test_the_next_picture_has_edges_again(toy: WebUI) -> None:
    """And a seamless one without us is the webui's, before and after."""
    heeds_it(toy)
    plain, seamless = ({**FIELDS, "seed": 3, "steps": 4, "tiling": on} for on in (False, True))
    before = toy.draw(**plain).images, toy.draw(**seamless).images
    toy.enlarge(seamless)
    assert (toy.draw(**plain).images, toy.draw(**seamless).images) == before
    assert before[0] != before[1]
