"""Where the model looks: whoever adds a map of the picture's size to its answers adds the same to the whole picture's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import (
    Evaluation,
    Guidance,
    Layout,
    Looking,
    Phase,
    PhaseFusion,
    View,
    Weights,
    WindowGrid,
    dilated_layout,
    look,
    looking,
    shrink,
    step_generator,
)

from .support import draws, one_phase

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
LOCAL, MIXED, GLOBAL = 0.0, 500.0, 999.0
WEIGHTS = Weights(a2=0.5)
SHAPES = [((12, 8), 2.0), ((8, 12), 2.5), ((8, 8), 3.0)]
OWNERS, SHARES = [0, 0, 1, 0, 1], [0.4, 0.6, 1.0, None, None]
KERNEL = draws(3, 4, 3, 8, 8)
"""A ControlNet that is a known linear map of its hint."""


def linear(hint: torch.Tensor) -> torch.Tensor:
    return F.conv2d(hint, KERNEL, stride=8)


def fusion_of(phase: Phase, base: tuple[int, int], border: str = "inside", wrap: bool = False) -> PhaseFusion:
    grid = WindowGrid(phase.height_lat, phase.width_lat, base, border=border, wrap=wrap)
    fusion = PhaseFusion(phase, grid, WEIGHTS, blur=0.8, batch=3, wrap=wrap)
    fusion.begin_step([step_generator(image, 2, 0) for image in range(2)])
    return fusion


class Asked:
    """A model that answers `skip * x` and the linear map of the plane's part, in one call or in several."""

    def __init__(
        self, fusion: PhaseFusion, planes: torch.Tensor, skip: float, how: str, guidance: Guidance | None = None
    ):
        self.fusion, self.planes, self.skip, self.how = fusion, planes, skip, how
        self.guidance = guidance or Guidance()
        self.seen: list[Looking] = []

    def predict(self, patches: torch.Tensor, *_: Any) -> torch.Tensor:
        now = looking()
        assert now is not None
        self.seen.append(now)
        return patches * self.skip + linear(now.cut(self.planes, now.images, self.how))

    def __call__(self, x: torch.Tensor, t: float, calls: Sequence[int] = (5,)) -> torch.Tensor:
        evaluation, first, answers = Evaluation(self.fusion, self.guidance, OWNERS, SHARES, t, self.fusion.wrap), 0, []
        for count in calls:
            part = x[first : first + count]
            answers.append(evaluation(part, first, self.skip, self.predict, low=self.low(part), base_lat=(8, 8)))
            first += count
        return torch.cat(answers)

    def low(self, x: torch.Tensor) -> Any:
        return lambda rows: self.predict(shrink(x, 8, 8))


def case(base: tuple[int, int], scale: float) -> tuple[Phase, torch.Tensor, torch.Tensor]:
    """A phase, five rows of two images, and a plane of pixels for each image."""
    phase = one_phase(base, scale)
    size = phase.height_lat, phase.width_lat
    return phase, draws(1, 5, 4, *size), draws(2, 2, 3, 8 * size[0], 8 * size[1])


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("skip", [1.0, 0.3, 0.0], ids=["denoised of epsilon", "of v", "epsilon"])
@pytest.mark.parametrize("edges", [("inside", False), ("paper", False), ("inside", True)], ids=str)
@pytest.mark.parametrize(("base", "scale"), SHAPES)
def test_a_linear_map_of_each_part_is_that_of_the_whole_plane(
    base: tuple[int, int], scale: float, edges: tuple[str, bool], skip: float, t: float
) -> None:
    phase, x, planes = case(base, scale)
    asked = Asked(fusion_of(phase, base, *edges), planes, skip, "cells")
    expected = skip * x + linear(planes)[OWNERS]
    assert float((asked(x, t, [3, 2]) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize(("base", "scale"), SHAPES)
def test_a_small_picture_has_its_pixels_where_its_cells_are(base: tuple[int, int], scale: float, t: float) -> None:
    """By hand: the same map of a plane whose every pixel is the mean of as many around it as one stands for."""
    phase, x, planes = case(base, scale)
    s, asked = phase.dilation, Asked(fusion_of(phase, base), planes, 1.0, "mean")
    reach = 4 * (s - 1)
    coarse = KERNEL.repeat_interleave(s, -2).repeat_interleave(s, -1) / s**2
    blurred = F.conv2d(F.pad(planes, [reach] * 4, mode="replicate"), coarse, stride=8)
    c2 = WEIGHTS.c2(t)
    expected = x + (1 - c2) * linear(planes)[OWNERS] + c2 * blurred[OWNERS]
    assert float((asked(x, t) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def now_of(phase: Phase, views: Sequence[View], layout: Layout, shrunk: tuple[int, int] | None = None) -> Looking:
    many = len(views)
    return Looking(phase, 500.0, [0] * many, [0] * many, [False] * many, views, layout, shrunk)


def dilated(phase: Phase, wrap: bool = False) -> Looking:
    layout = dilated_layout(phase.height_lat, phase.width_lat, phase.dilation, 1, wrap=wrap)
    return now_of(phase, layout.views[0], layout)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("scale", [2.0, 2.5, 3.0, 4.0])
def test_lines_stay_lines_and_labels_labels(scale: float, wrap: bool) -> None:
    """In every sub-image, where its cells say; a row of pixels of every `s` is seen once."""
    phase = one_phase((8, 8), scale)
    now, side = dilated(phase, wrap), 8 * phase.height_lat
    lines = torch.zeros(1, 1, side, side)
    lines[..., side // 2, :] = 1
    for part in now.cut(lines, how="max"):
        assert part.max() == 1 and set(part.unique().tolist()) == {0.0, 1.0}
        middle = float(part[0, :, 0].nonzero().float().mean())
        assert abs(middle - side / phase.dilation / 2) <= 9
    labels = draws(5, 1, 1, side, side).mul(5).round()
    assert set(now.cut(labels, how="nearest").unique().tolist()) <= set(labels.unique().tolist())


@pytest.mark.parametrize("how", ["mean", "max", "nearest"])
def test_windows_are_cut_alike_whatever_dilated_sub_images_get(how: str) -> None:
    phase = one_phase((8, 8), 2.0)
    layout = WindowGrid(16, 16, (8, 8), border="paper").layout([step_generator(0, 2, 0)])
    now, plane = now_of(phase, layout.views[0], layout), draws(1, 1, 3, 128, 128)
    assert torch.equal(now.cut(plane, how=how), now.cut(plane))
    padded = F.pad(plane, [8 * n for n in (layout.padding[1], layout.padding[3], layout.padding[0], layout.padding[2])])
    for part, (top, left, bottom, right) in zip(now.cut(plane), now.boxes):
        y, x = 8 * (top + layout.padding[0]), 8 * (left + layout.padding[1])
        assert torch.equal(part, padded[0, :, y : y + 8 * (bottom - top), x : x + 8 * (right - left)])


def test_the_shrunk_whole() -> None:
    phase = one_phase((8, 8), 3.0)
    now, plane = now_of(phase, [View(slice(None), slice(None))], Layout([]), (8, 8)), draws(1, 1, 1, 192, 192)
    assert now.kind == "shrunk" and now.shape_lat == (8, 8) and now.boxes == [(0, 0, 24, 24)]
    assert torch.allclose(now.cut(plane), F.avg_pool2d(plane, 3), atol=1e-6)
    assert torch.equal(now.cut(plane, how="max"), F.max_pool2d(plane, 3))
    assert torch.equal(now.cut(plane, how="nearest"), plane[..., 1::3, 1::3])


def test_every_call_of_an_evaluation_knows_its_rows() -> None:
    """Prompts and negatives, in their images, also where the low-pass guidance asks for the whole."""
    phase, x, planes = case((8, 8), 2.0)
    for guidance, kinds in (
        (Guidance(), {"window", "dilated"}),
        (Guidance("low-pass"), {"window", "dilated", "shrunk"}),
    ):
        asked = Asked(fusion_of(phase, (8, 8)), planes, 1.0, "cells", guidance)
        asked(x, MIXED, [3, 2])
        assert {now.kind for now in asked.seen} == kinds
        assert {now.size_lat for now in asked.seen} == {(16, 16)} and {now.t for now in asked.seen} == {MIXED}
        assert {now.shape_lat for now in asked.seen} == {(8, 8)}
        told = {(row, image, no) for now in asked.seen for row, image, no in zip(now.rows, now.images, now.negative)}
        assert told == {(0, 0, False), (1, 0, False), (2, 1, False), (0, 0, True), (1, 1, True)}


def test_what_is_asked_for_again_is_the_same_place() -> None:
    phase, x, _ = case((8, 8), 2.0)
    fusion, places = fusion_of(phase, (8, 8)), []

    def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
        return torch.stack(
            [patch * float("nan" if view.corner_lat == (0, 0) else 1) for patch, view in zip(patches, views)]
        )

    def rescue(patches: torch.Tensor, *_: Any) -> torch.Tensor:
        now = looking()
        assert now is not None
        places.extend(zip(now.images, now.boxes))
        assert torch.equal(patches, now.cut(x, now.rows))
        return patches

    evaluation = Evaluation(fusion, Guidance(), OWNERS, SHARES, LOCAL)
    evaluation(x, 0, 1.0, predict, rescue=rescue, low=lambda rows: x, base_lat=(8, 8))
    assert places == [(owner, (0, 0, 8, 8)) for owner in OWNERS]
    assert looking() is None


def test_outside_of_a_call_there_is_nothing_to_know() -> None:
    phase = one_phase((8, 8), 2.0)
    outer, inner = dilated(phase), now_of(phase, [View(slice(0, 8), slice(0, 8), (0, 0))], Layout([]))
    assert looking() is None
    with look(outer):
        with pytest.raises(ZeroDivisionError), look(inner):
            assert looking() is inner
            raise ZeroDivisionError
        assert looking() is outer
    assert looking() is None


def test_what_does_not_fit_is_said() -> None:
    now = dilated(one_phase((8, 12), 2.0))
    for shape in ((1, 3, 128, 191), (1, 3, 256, 192), (3, 128, 192), (1, 3, 8, 12), (1, 3, 0, 0)):
        assert not now.fits(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"shape is .* allowed: \(n, channels, k \* 16, k \* 24\)"):
            now.cut(torch.zeros(shape))
    with pytest.raises(ValueError, match="how is 'median', allowed: cells, mean"):
        now.cut(torch.zeros(1, 3, 128, 192), how="median")
    with pytest.raises(ValueError, match="3 rows"):
        now.cut(torch.zeros(3, 3, 128, 192))


class UNet:
    def forward(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        return x * 0.5

    def __call__(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        return self.forward(x, *args)


def test_the_example_of_the_page_adds_its_map_to_the_whole_picture() -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 20
    names: dict[str, Any] = {}
    exec(example, names)
    unet, picture = UNet(), draws(4, 1, 4, 8, 8)
    follows = names["Follows"](unet, picture)
    phase, x, _ = case((8, 8), 2.5)
    expected = x * 0.5 + F.interpolate(picture, (20, 20))
    fusion = fusion_of(phase, (8, 8))
    for t in (LOCAL, MIXED, GLOBAL):
        evaluation = Evaluation(fusion, Guidance(), OWNERS, SHARES, t)
        answer = evaluation(x, 0, 0.5, lambda patches, *_: unet(patches), low=lambda rows: x, base_lat=(8, 8))
        assert float((answer - expected).abs().max()) < 1e-5
    assert torch.equal(unet(x), expected)
    follows.remove()
    assert torch.equal(unet(x), x * 0.5)
