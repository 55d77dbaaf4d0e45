"""The second toy: what it is trained on, and that the first is untouched by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from setuptools.config.pyprojecttoml import read_configuration

from lab import toy2
from lab.data import draw_grounded_picture, draw_picture
from lab.ground import judge_ground
from lab.scenes import GROUND, GROUNDS, draw_scene, texture
from lab.toy import new_unet, new_vae
from lab.toy2.__main__ import first_toy
from lab.toy2.judge import Subject2

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FIRST_TOYS = (
    ("a red square", True, 0.2260034, 0.2924633, 0.2638227),
    ("a green square", True, 0.1872297, 0.2794637, 0.1017238),
    ("a green disc", False, 0.3642556, 0.3606682, 0.2494935),
    ("a yellow disc", False, 0.6, 0.36, 0.2182581),
    ("a red square", False, 0.3046251, 0.2685602, 0.5613365),
    ("a green disc", True, 0.2052105, 0.2679882, 0.7211716),
)
"""The pictures that it was trained on, recorded before there was a second: prompt, whole or not, mean, mean square, and the
generator's next draw."""


@pytest.mark.parametrize("number", range(len(FIRST_TOYS)))
def test_the_first_toys_pictures_are_what_they_were(number: int) -> None:
    generator = torch.Generator().manual_seed(2 * 1_000_003 + number)
    picture, prompt, whole = draw_picture(generator)
    levels = [float(picture.double().mean()), float(picture.double().square().mean())]
    assert (prompt, whole) == FIRST_TOYS[number][:2]
    assert [*levels, float(torch.rand((), generator=generator))] == pytest.approx(FIRST_TOYS[number][2:], abs=2e-6)


def test_the_prompt_tells_the_truth_in_two_thirds() -> None:
    right, silent, seen = 0, 0, dict.fromkeys(GROUNDS, 0)
    for number in range(400):
        picture, prompt, _ = draw_grounded_picture(torch.Generator().manual_seed(number))
        silent += not prompt
        found = judge_ground(picture / 2 + 0.5)
        if prompt and found.patches:
            shown = max(found.shares, key=lambda kind: found.shares[kind])
            assert found.shows(shown)
            seen[shown] += 1
            right += prompt.endswith(shown)
    assert 0.11 < silent / 400 < 0.19
    assert 0.58 < right / sum(seen.values()) < 0.75
    assert min(seen.values()) > 0.4 * sum(seen.values())


def test_its_textures_are_in_step_with_the_latent() -> None:
    """At every place that is a multiple of a cell the pattern is one and the same, or its reverse; in crops, too."""
    seen = 0
    for number in range(60):
        picture, _, _ = draw_grounded_picture(torch.Generator().manual_seed(number))
        colour = (picture.amax(0) - picture.amin(0)).unfold(0, 16, 8).unfold(1, 16, 8).flatten(0, 1)
        cells = picture[0].unfold(0, 16, 8).unfold(1, 16, 8).flatten(0, 1) - (2 * GROUND - 1)
        ground = (colour.amax((1, 2)) < 1e-3) & (cells.abs().amax((1, 2)) < 0.21) & (cells.mean((1, 2)).abs() < 1e-4)
        for cell in cells[ground][:40]:
            alike = [float((cell * sign - own).abs().max()) for own in patterns() for sign in (1, -1)]
            assert min(alike) < 1e-3
            seen += 1
    assert seen > 1000


def patterns() -> list[torch.Tensor]:
    """One period of each texture from a cell's corner on, `(16, 16)`."""
    place = torch.arange(16) + 0.5
    scenes = [replace(draw_scene(torch.Generator()), ground=kind, weave=(6.5, 6.5)) for kind in GROUNDS]
    return [0.2 * texture(scene, place[:, None], place[None]) for scene in scenes]


def test_training_starts_from_the_whole_first_toy() -> None:
    parts = first_toy()
    for name, network in (("unet", new_unet()), ("vae", new_vae())):
        network.load_state_dict(parts[name])
    assert set(parts) == {"unet", "vae", "text"}
    assert all(tensor.dtype == torch.float32 for part in parts.values() for tensor in part.values())


def test_the_package_does_not_carry_it() -> None:
    setuptools = read_configuration(ROOT / "pyproject.toml", expand=False)["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["demofusion_lib*"]
    assert not any("toy2" in name for names in setuptools["package-data"].values() for name in names)
    assert not toy2.TOY2_FILE.is_relative_to(ROOT / "demofusion_lib")


def test_neighbours_differ_in_their_ground() -> None:
    assert [Subject2(number).prompt for number in (0, 1, 2, 8)] == [
        "a red disc, woven",
        "a red disc, brushed",
        "a green disc, woven",
        "a red square, woven",
    ]
