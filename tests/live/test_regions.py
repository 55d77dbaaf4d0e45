"""Prompts for parts of the picture, in the real webui: identities that are true of any checkpoint, and one difference."""

from __future__ import annotations

from typing import Any

import pytest

from .client import FAINT, REQUEST, ROUNDING, WebUI, apart, mean_apart

BLUE = "blue house"
HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
LONG = ", ".join(["large house, small tree, green sky"] * 12)


def boxes(prompt: str, *places: list[float]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "box": place} for place in places]


@pytest.mark.parametrize("preset", ["none", "draft"])
def test_one_region_over_everything_is_the_same_bytes(webui: WebUI, preset: str) -> None:
    plain = webui.enlarge(preset=preset)
    whole = webui.enlarge(preset=preset, regions=boxes(REQUEST["prompt"], [0, 0, 1, 1]))
    assert whole.picture.tobytes() == plain.picture.tobytes()


@pytest.mark.parametrize("text", [BLUE, LONG, "[blue:green:0.5] house"])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_halves_of_one_prompt_are_that_prompt(webui: WebUI, sampler: str, text: str) -> None:
    fields = {"sampler_name": sampler, "batch_size": 2}
    halves, whole = (
        webui.enlarge(fields, **own) for own in ({"regions": boxes(text, *HALVES)}, {"phase_prompt": text})
    )
    for one, other in zip(halves.pictures, whole.pictures, strict=True):
        assert apart(one, other) <= ROUNDING


@pytest.mark.usefixtures("needs_response")
def test_a_region_is_drawn_where_it_is(webui: WebUI) -> None:
    """The plain run's other half stays nearer to it."""
    plain, left = webui.enlarge(), webui.enlarge(regions=boxes(BLUE, HALVES[0]))
    (width, height), half = plain.picture.size, plain.picture.size[0] // 4
    sides = [(0, 0, half, height), (width - half, 0, width, height)]
    near, far = (mean_apart(plain.picture.crop(side), left.picture.crop(side)) for side in sides)
    assert near > FAINT and near > 2 * far


@pytest.mark.once
def test_pasting_brings_them_back(webui: WebUI) -> None:
    answer = webui.enlarge(regions=boxes('a "b", c: d', *HALVES))
    assert webui.paste(answer.infotexts[0]).images == answer.images


@pytest.mark.once
def test_refused_by_name(webui: WebUI) -> None:
    for regions, told in (
        ("a", "no JSON, and no ADDCOL or ADDROW in it"),
        ("a AND b ADDCOL c", "allowed: one prompt, without AND"),
        ("a ADDCOL <lora:x:1>b", "extra networks hold for all of the picture"),
    ):
        answer = webui.try_draw({"enabled": True, "regions": regions})
        assert answer.status == 422 and told in answer.detail and "\n" not in answer.detail
