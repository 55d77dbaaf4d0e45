"""The detector's thresholds are held on the true distribution; nothing a method draws had a part in them."""

from __future__ import annotations

import pytest
import torch

from lab.detector import NEIGHBOURS_PX, SATURATION, SMALLEST_PX, find_objects, native_area_px, shows_one
from lab.scenes import NATIVE_PX, draw_scene, render

SIZES = {"square": (256, 256), "wide": (256, 384), "3:2": (192, 288)}


def test_the_thresholds_stand() -> None:
    assert (SATURATION, SMALLEST_PX, NEIGHBOURS_PX) == (0.3, 250, 3)
    assert SMALLEST_PX * 5 < native_area_px() < SMALLEST_PX * 7


@pytest.mark.parametrize(("scale", "count"), [(1, 60), (2, 24), (4, 6)])
@pytest.mark.parametrize("size", SIZES)
def test_true_scenes_show_one_object_of_their_colour(scale: int, count: int, size: str) -> None:
    generator = torch.Generator().manual_seed(90 + scale)
    for _ in range(count):
        scene = draw_scene(generator, SIZES[size])
        found = find_objects(render(scene, scale))
        assert shows_one(found, scene.colour)
        assert found[0].area_px >= 0.95 * (scale * min(SIZES[size]) / NATIVE_PX) ** 2 * native_area_px()


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_grain_and_softness_change_nothing(noise: float) -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(12):
        scene = draw_scene(generator)
        picture = render(scene, 2)
        soft = torch.nn.functional.avg_pool2d(picture[None], 3, 1, 1, count_include_pad=False)[0]
        grainy = (soft + noise * torch.randn(picture.shape, generator=generator)).clamp(0, 1)
        assert shows_one(find_objects(grainy), scene.colour)


def test_repeated_objects_are_counted() -> None:
    """Small ones in a large picture, as windows draw them that know nothing of each other."""
    generator = torch.Generator().manual_seed(5)
    tiles = [[render(draw_scene(generator)) for _ in range(2)] for _ in range(2)]
    picture = torch.cat([torch.cat(row, 2) for row in tiles], 1)
    assert len(find_objects(picture)) == 4
    assert not shows_one(find_objects(picture))


def test_another_colour_is_not_the_prompts() -> None:
    scene = draw_scene(torch.Generator().manual_seed(6), colour="green")
    found = find_objects(render(scene))
    assert shows_one(found) and not shows_one(found, "red")
    assert not shows_one(find_objects(torch.full((3, 128, 128), 0.5)))
