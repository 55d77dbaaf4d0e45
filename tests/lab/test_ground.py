"""The two grounds differ in kind alone, and the judge of them is held on the true distribution."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.ground import (
    BRUSHED_BELOW,
    FAINT_DB,
    INSIDE,
    PATCH_PX,
    TRUE_POWER,
    WHOLE,
    judge_ground,
    summary,
)
from lab.scenes import GROUND, GROUNDS, WEAVE_PX, draw_scene, render, texture


def plane(kind: str, height: int = 128, width: int = 192, seed: int = 1) -> torch.Tensor:
    """A texture of variance 1/4 alone, `(height, width)`."""
    scene = replace(draw_scene(torch.Generator().manual_seed(seed)), ground=kind)
    return texture(scene, torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5)


def as_picture(pattern: torch.Tensor) -> torch.Tensor:
    return (GROUND + 0.1 * pattern).expand(3, -1, -1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", GROUNDS)
def test_both_textures_have_the_same_moments_and_frequency(kind: str, seed: int) -> None:
    pattern = plane(kind, seed=seed)
    assert float(pattern.mean()) == pytest.approx(0, abs=1e-5)
    assert float(pattern.square().mean()) == pytest.approx(0.25, abs=1e-5)
    power = torch.fft.fft2(pattern).abs().square()
    rows, cols = torch.fft.fftfreq(128)[:, None], torch.fft.fftfreq(192)[None]
    there = (rows.abs() == 1 / WEAVE_PX) & (cols.abs() == 1 / WEAVE_PX)
    assert float(power[there].sum() / power.sum()) == pytest.approx(1, abs=1e-5)
    strongest = power[there] / power.sum()
    expected = {"woven": [0.25] * 4, "brushed": [0.5, 0.5, 0, 0]}[kind]
    assert sorted(strongest.tolist(), reverse=True) == pytest.approx(expected, abs=1e-4)


def test_without_a_word_the_ground_is_woven_and_the_prompt_is_silent() -> None:
    scene = draw_scene(torch.Generator().manual_seed(1), colour="red", shape="disc")
    woven = replace(scene, ground="woven")
    assert (scene.prompt, woven.prompt) == ("a red disc", "a red disc, woven")
    assert torch.equal(render(scene), render(woven))
    brushed = render(replace(scene, ground="brushed"))
    sky = slice(0, int(scene.horizon) - 1)
    assert torch.equal(brushed[:, sky], render(scene)[:, sky]) and not torch.equal(brushed, render(scene))


def test_the_thresholds_stand() -> None:
    assert (FAINT_DB, BRUSHED_BELOW, WHOLE, INSIDE, PATCH_PX) == (-6.0, 0.25, 0.9, 0.995, 2 * WEAVE_PX)
    assert pytest.approx(0.1**2 / 4) == TRUE_POWER


@pytest.mark.parametrize(("scale", "count"), [(1, 40), (2, 12), (4, 4)])
@pytest.mark.parametrize("size_px", [(256, 256), (192, 288)])
def test_true_grounds_are_told_apart(scale: int, count: int, size_px: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(70 + scale)
    for number in range(count):
        scene = replace(draw_scene(generator, size_px), ground=GROUNDS[number % 2])
        found = judge_ground(render(scene, scale))
        assert found.patches >= 15 * scale**2
        assert found.shares == {kind: float(kind == scene.ground) for kind in GROUNDS}
        assert abs(found.contrast_db) < 0.1 and found.rest_db < -30


def test_an_enlarged_ground_is_neither() -> None:
    """Its period is twice the true one."""
    for kind in GROUNDS:
        large = torch.nn.functional.interpolate(as_picture(plane(kind))[None], scale_factor=2, mode="bicubic")[0]
        found = judge_ground(large)
        assert max(found.shares.values()) == 0 and found.contrast_db < -20
        assert abs(found.rest_db) < 0.5


def test_a_patchwork_is_counted_by_its_parts() -> None:
    both = torch.cat((plane("woven"), plane("brushed")), 1)
    found = judge_ground(as_picture(both))
    assert found.shares["woven"] == pytest.approx(0.5, abs=0.05) == found.shares["brushed"]
    assert not found.shows("woven") and not found.shows("brushed")


@pytest.mark.parametrize(("kind", "strength"), [("woven", 0.45), ("brushed", 0.45)])
def test_a_faint_ground_is_neither(kind: str, strength: float) -> None:
    found = judge_ground(as_picture(strength * plane(kind)))
    assert max(found.shares.values()) == 0
    assert found.contrast_db == pytest.approx(20 * math.log10(strength), abs=0.01)


def test_a_mixture_is_what_it_has_more_of() -> None:
    """In power: gratings whose phases differ by a right angle add up so."""
    steps = torch.arange(192)[None] + torch.arange(128)[:, None] + 0.5
    for woven in (0.1, 0.4, 0.6, 0.9):
        scene = replace(draw_scene(torch.Generator().manual_seed(1)), ground="woven")
        turn = 2 * math.pi / WEAVE_PX
        one = (steps + sum(scene.weave) + 0.5) * turn  # the weave's own first grating is -cos(one) / 2
        pattern = math.sqrt(woven) * plane("woven") + math.sqrt((1 - woven) / 2) * torch.sin(one)
        found = judge_ground(as_picture(pattern))
        assert found.contrast_db == pytest.approx(0, abs=0.05)
        assert found.shares["woven" if woven > 0.5 else "brushed"] == 1


def test_the_wrong_diagonal_is_neither() -> None:
    assert max(judge_ground(as_picture(plane("brushed").flip(1))).shares.values()) == 0


def test_no_ground_at_all() -> None:
    found = judge_ground(torch.ones(3, 64, 64))
    assert found.patches == 0 and math.isnan(found.shares["woven"]) and not found.shows("woven")


def test_the_summary_counts_pictures_and_patches() -> None:
    woven, brushed = (judge_ground(as_picture(plane(kind))) for kind in GROUNDS)
    found = summary(
        [woven, woven, brushed, judge_ground(torch.ones(3, 64, 64))], ["woven", "brushed", "brushed", "woven"]
    )
    assert found["whole"] == 0.5  # a picture without a ground is not right
    assert found["right"] == pytest.approx(2 / 3) and found["wrong"] == pytest.approx(1 / 3)
