"""The scenes: one picture at any scale, but for the weave, whose period is in rendered pixels."""

import pytest
import torch
import torch.nn.functional as F

from lab.data import draw_batch, draw_picture
from lab.scenes import COLOURS, NATIVE_PX, SHAPES, WEAVE_PX, draw_scene, render

TRAINED_ON = (
    ("a red square", True, 0.2260034, 0.2924633, 0.2638227),
    ("a green square", True, 0.1872297, 0.2794637, 0.1017238),
    ("a green disc", False, 0.3642556, 0.3606682, 0.2494935),
    ("a yellow disc", False, 0.6, 0.36, 0.2182581),
    ("a red square", False, 0.3046251, 0.2685602, 0.5613365),
    ("a green disc", True, 0.2052105, 0.2679882, 0.7211716),
)
"""The toy's first training pictures: prompt, whole or not, mean, mean square, and the generator's next draw."""


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size_px", [(256, 256), (256, 384), (384, 256)])
def test_a_window_is_a_part_of_the_whole(shape, size_px):
    scene = draw_scene(generator(), size_px, shape=shape)
    whole = render(scene, 2)
    assert whole.shape == (3, 2 * size_px[0], 2 * size_px[1])
    assert torch.equal(render(scene, 2, (40, 100), (128, 96)), whole[:, 40:168, 100:196])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_render_shrinks_to_the_native_one(shape):
    """Above the horizon, where there is no weave; an edge's pixel may be shaded a little differently."""
    for seed in range(5):
        scene = draw_scene(generator(seed), shape=shape)
        shrunk = F.avg_pool2d(render(scene, 4)[None], 4)[0]
        sky = slice(0, int(scene.horizon) - 1)
        difference = (shrunk - render(scene))[:, sky].abs()
        assert float(difference.mean()) < 1e-3
        assert float(difference.max()) < 0.2


@pytest.mark.parametrize("scale", [1, 3])
def test_the_weave_keeps_its_period_in_pixels(scale):
    scene = draw_scene(generator(3))
    bottom = render(scene, scale)[0, -2 * WEAVE_PX :, : 4 * WEAVE_PX]
    assert torch.allclose(bottom[:WEAVE_PX], bottom[WEAVE_PX:], atol=1e-4)
    assert torch.allclose(bottom[:, :WEAVE_PX], bottom[:, WEAVE_PX : 2 * WEAVE_PX], atol=1e-4)
    assert float(bottom.std()) > 0.03


def test_the_object_is_what_the_prompt_says():
    for colour, paint in COLOURS.items():
        for shape in SHAPES:
            scene = draw_scene(generator(7), colour=colour, shape=shape)
            assert scene.prompt == f"a {colour} {shape}"
            y, x = (int(value) for value in scene.centre)
            picture = render(scene)
            assert picture[:, y, x].tolist() == [1, 1, 1]  # the core
            beside = picture[:, y, x + int(0.4 * scene.radius)]
            assert torch.allclose(beside, torch.tensor(paint), atol=1e-5)
            covered = float((picture - torch.tensor(paint)[:, None, None]).abs().amax(0).lt(0.01).sum())
            area = {"disc": 3.1416, "square": 4 * 0.85**2, "triangle": 1.299}[shape] - 3.1416 * 0.3**2
            assert covered == pytest.approx(area * scene.radius**2, rel=0.08)


def test_a_window_outside_is_refused():
    with pytest.raises(ValueError, match="leaves the render"):
        render(draw_scene(generator()), 2, (400, 0), (128, 128))


def test_training_pictures():
    pictures, prompts = draw_batch(generator(), 200, 64)
    assert pictures.shape == (200, 3, 64, 64)
    assert float(pictures.min()) >= -1 and float(pictures.max()) <= 1
    assert 0.04 < prompts.count("") / 200 < 0.18
    assert len(set(prompts)) == 1 + len(COLOURS) * len(SHAPES)
    again, same = draw_batch(generator(), 200, 64)
    assert torch.equal(again, pictures) and same == prompts
    native, _ = draw_batch(generator(2), 2)
    assert native.shape == (2, 3, NATIVE_PX, NATIVE_PX)


@pytest.mark.parametrize("number", range(len(TRAINED_ON)))
def test_the_pictures_that_the_toy_was_trained_on_stay(number):
    drawn = generator(2 * 1_000_003 + number)
    picture, prompt, whole = draw_picture(drawn)
    levels = [float(picture.double().mean()), float(picture.double().square().mean())]
    assert (prompt, whole) == TRAINED_ON[number][:2]
    assert [*levels, float(torch.rand((), generator=drawn))] == pytest.approx(TRAINED_ON[number][2:], abs=2e-6)
