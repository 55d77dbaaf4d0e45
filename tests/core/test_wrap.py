"""A picture that goes on at its own opposite edge: windows, dilated sub-images, blur and enlargement know no edge."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import (
    BORDERS,
    InLatent,
    Layout,
    PhaseFusion,
    View,
    Weights,
    WindowGrid,
    climb,
    dilated_layout,
    gaussian_blur,
    plan_phases,
    statistics,
    step_generator,
    upsample,
    with_statistics,
)

from .support import SCHEDULE, PhaseModel, build_engine, draws, one_phase
from .test_fusion import GLOBAL, LOCAL, MIXED, SCALES, SHAPES, direct_blur
from .test_views import OVERLAPS, SIZES

SHIFTS = [(1, 0), (0, 5), (7, 11), (16, 12), (-3, 30)]


def tiled(x: torch.Tensor) -> torch.Tensor:
    """The picture as its user lays it out: three times beside and three times below itself, its own in the middle."""
    return x.repeat(1, 1, 3, 3)


def rolled(x: torch.Tensor, shift: tuple[int, int]) -> torch.Tensor:
    return x.roll(shift, (-2, -1))


def coverage(layout: Layout, height: int, width: int) -> torch.Tensor:
    """How many views of the first image show each cell."""
    plane = layout.pad(torch.zeros(1, 1, height, width))
    for view in layout.views[0]:
        plane[..., view.rows, view.cols] += 1
    return layout.gather(plane)


# Windows


@pytest.mark.parametrize(
    ("size_lat", "window_lat", "overlap", "windows", "deep"),
    [
        ((128, 128), (64, 64), 0.5, 16, 4),
        ((192, 192), (64, 64), 0.5, 36, 4),
        ((256, 128), (64, 32), 0.5, 64, 4),
        ((128, 128), (64, 64), 0.75, 64, 16),
        ((128, 192), (64, 64), 0, 6, 1),
        ((64, 128), (64, 64), 0.5, 8, 4),  # a target cropped to the window's height
        ((64, 128), (64, 64), 0, 4, 2),  # one window alone would have its ends meet unseen
    ],
)
def test_every_cell_is_covered_by_as_many_windows(
    size_lat: tuple[int, int], window_lat: tuple[int, int], overlap: float, windows: int, deep: int
) -> None:
    """Where the stride goes into the window and the picture. Without wrapping, corners have one where the middle has four."""
    grid = WindowGrid(*size_lat, window_lat, overlap, jitter=False, wrap=True)
    assert len(grid) == len(grid.views(step_generator(0, 2, 0))) == windows
    assert coverage(grid.layout([step_generator(0, 2, 0)]), *size_lat).unique().tolist() == [deep]


@pytest.mark.parametrize("jitter", [True, False])
def test_every_cell_is_covered_in_every_step(jitter: bool) -> None:
    for ((height, width), window), overlap in itertools.product(SIZES, OVERLAPS):
        grid = WindowGrid(height, width, window, overlap, jitter, wrap=True)
        native = min(window[0], height), min(window[1], width)
        for step in range(2 if jitter and len(grid) < 500 else 1):
            layout = grid.layout([step_generator(0, 2, step)])
            assert len(layout.views[0]) == len(grid)
            count = coverage(layout, height, width)
            assert count.shape[-2:] == (height, width)
            assert count.min() >= 1, (height, width, window, overlap, step)
            plane = layout.pad(torch.zeros(1, 1, height, width)).shape[-2:]
            assert {view.shape(*plane) for view in layout.views[0]} == {native}


def test_where_there_is_no_edge_its_border_means_nothing() -> None:
    for (size, window), jitter in itertools.product(SIZES, (True, False)):
        inside, paper = (WindowGrid(*size, window, 0.5, jitter, border, wrap=True) for border in BORDERS)
        assert len(inside) == len(paper)
        assert inside.layout([step_generator(0, 2, 0)]) == paper.layout([step_generator(0, 2, 0)])


def test_jittered_windows_go_all_around_and_are_told_where_they_begin_in_the_picture() -> None:
    """Every window moves by its whole range, the first and the last too; none is told a corner outside."""
    grid = WindowGrid(64, 96, (32, 24), wrap=True)
    assert grid.jitter_range_lat() == (4, 3)
    still = replace(grid, jitter=False).views(step_generator(0, 2, 0))
    moves: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in still]
    for step in range(300):
        for (down, across), view, at in zip(moves, grid.views(step_generator(0, 2, step)), still):
            top, left = view.corner_lat
            assert 0 <= top < 64 and 0 <= left < 96
            assert (view.rows.start, view.cols.start) == (top, left)
            down.add((top - at.corner_lat[0] + 32) % 64 - 32)
            across.add((left - at.corner_lat[1] + 48) % 96 - 48)
    assert all(down == set(range(-4, 5)) and across == set(range(-3, 4)) for down, across in moves)


def test_a_window_sees_the_true_neighbours_across_the_edge() -> None:
    """What it is given is cut from the picture laid out beside itself."""
    for ((height, width), window), overlap in itertools.product(SIZES, (0, 0.5, 0.75)):
        x = draws(1, 2, 3, height, width)
        grid = WindowGrid(height, width, window, overlap, wrap=True)
        layout = grid.layout([step_generator(seed, 2, 0) for seed in (0, 1)])
        plane, side_by_side = layout.pad(x), tiled(x)
        across = 0
        for row, views in enumerate(layout.views):
            for view in views:
                (top, left), (h, w) = view.corner_lat, view.shape(*plane.shape[-2:])
                expected = side_by_side[row, :, height + top : height + top + h, width + left : width + left + w]
                assert torch.equal(plane[row, :, view.rows, view.cols], expected)
                across += top + h > height or left + w > width
        assert across or not overlap


def test_what_windows_answer_across_the_edge_comes_back_to_the_other_side() -> None:
    x = draws(2, 1, 4, 20, 24)
    layout = WindowGrid(20, 24, (12, 10), wrap=True).layout([step_generator(0, 2, 0)])
    plane = layout.pad(x)
    assert torch.allclose(layout.gather(plane) / layout.gather(torch.ones_like(plane)), x, atol=1e-6)


# Dilated sub-images


@pytest.mark.parametrize("dilation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 16), (152, 104), (65, 97), (7, 31), (385, 562), (160, 96)])
def test_dilated_sub_images_show_every_cell_and_are_all_of_one_size(size: tuple[int, int], dilation: int) -> None:
    layout = dilated_layout(*size, dilation, batch=2, wrap=True)
    assert len(layout.views) == 2 and len(layout.views[1]) == dilation**2
    count = coverage(layout, *size)
    assert count.shape[-2:] == size and count.min() >= 1
    native = -(-size[0] // dilation), -(-size[1] // dilation)
    assert int(count.sum()) == dilation**2 * native[0] * native[1]
    plane = layout.pad(torch.zeros(1, 1, *size)).shape[-2:]
    assert {view.shape(*plane) for view in layout.views[0]} == {native}
    assert all(view.corner_lat is None for view in layout.views[0])


def steps_around(layout: Layout, height: int, width: int) -> set[int]:
    """How far apart in the picture neighbours within a sub-image are, those that meet at its own two ends too."""
    places = layout.pad(torch.arange(height).view(1, 1, -1, 1).expand(1, 1, height, width))
    rows = [places[0, 0, view.rows, 0] for view in layout.views[0]]
    return {int(step) for row in rows for step in (row.roll(-1) - row) % height}


@pytest.mark.parametrize(
    ("height", "dilation", "steps"),
    [
        (128, 2, {2}),
        (192, 3, {3}),
        (256, 4, {4}),
        (80, 1, {1}),
        (160, 3, {2, 3}),  # 2.5x; padding would leave one step of 1, where the ends meet
        (237, 4, {3, 4}),
        (480, 7, {6, 7}),
    ],
)
def test_a_dilated_sub_image_goes_on_at_its_own_opposite_edge(height: int, dilation: int, steps: set[int]) -> None:
    """Exactly where the size is a multiple, else no less evenly there than elsewhere."""
    assert steps_around(dilated_layout(height, 8, dilation, 1, wrap=True), height, 8) == steps


# Blur and enlargement


@pytest.mark.parametrize("std", [0.3, 0.8, 3.0])
@pytest.mark.parametrize("size", [3, 5, 7, 15])
def test_the_blur_goes_on_at_the_opposite_edge(size: int, std: float) -> None:
    for plane in (draws(4, 2, 4, 11, 17), draws(5, 1, 4, 5, 6)):
        height, width = plane.shape[-2:]
        middle = direct_blur(tiled(tiled(plane)), size, std)[..., 4 * height : 5 * height, 4 * width : 5 * width]
        assert torch.allclose(gaussian_blur(plane, size, std, wrap=True), middle, atol=1e-5)


@pytest.mark.parametrize("std", [0.0, 0.5])
def test_no_kernel_or_no_deviation_is_no_blur(std: float) -> None:
    plane = draws(5, 1, 4, 9, 9)
    assert gaussian_blur(plane, 1 if std else 5, std, wrap=True) is plane


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("base", [(16, 16), (19, 13), (8, 24), (2, 3)])
def test_enlarging_goes_on_at_the_opposite_edge(base: tuple[int, int], shift: tuple[int, int], scale: int) -> None:
    """The rolled picture enlarged is the enlarged one rolled."""
    x = draws(6, 2, 4, *base)
    size = base[0] * scale, base[1] * scale
    expected = rolled(upsample(x, *size, wrap=True), (shift[0] * scale, shift[1] * scale))
    assert torch.allclose(upsample(rolled(x, shift), *size, wrap=True), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (40, 37), (24, 61), (17, 16), (33, 50)])
def test_enlarging_is_bicubic_all_around(size: tuple[int, int]) -> None:
    """The middle of nine enlarged together; within the picture that is what it always was."""
    x = draws(7, 1, 4, 16, 16)
    height, width = size
    nine = F.interpolate(tiled(x), size=(3 * height, 3 * width), mode="bicubic")
    found = upsample(x, *size, wrap=True)
    assert found.is_contiguous() and found.shape[-2:] == size
    assert torch.allclose(found, nine[..., height : 2 * height, width : 2 * width], atol=1e-5)
    inner = (..., slice(10, height - 10), slice(10, width - 10))
    assert torch.allclose(found[inner], upsample(x, *size)[inner], atol=1e-5)
    assert not torch.allclose(found, upsample(x, *size), atol=0.01)


# The fused denoiser


def build_fusion(base: tuple[int, int], scale: float, images: int = 1, **options: object) -> PhaseFusion:
    phase = one_phase(base, scale)
    grid = WindowGrid(phase.height_lat, phase.width_lat, base, wrap=True)
    fusion = PhaseFusion(phase, grid, options.pop("weights", Weights()), wrap=True, **options)
    fusion.begin_step([step_generator(image, phase.number, 0) for image in range(images)])
    return fusion


def size_of(fusion: PhaseFusion) -> tuple[int, int]:
    return fusion.phase.height_lat, fusion.phase.width_lat


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("base", SHAPES)
def test_a_constant_comes_back_constant_everywhere(base: tuple[int, int], t: float) -> None:
    for scale in [*SCALES, 6]:
        fusion = build_fusion(base, scale)
        x = draws(1, 1, 4, *size_of(fusion))
        answer = fusion(x, [0], t, 0.0, lambda patches, *_: torch.full_like(patches, 3.0))
        assert answer.shape == x.shape
        assert torch.allclose(answer, torch.full_like(x, 3.0), atol=1e-6), (base, scale)


@pytest.mark.parametrize("skip", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("base", SHAPES)
def test_a_pointwise_linear_denoiser_comes_back_exactly(base: tuple[int, int], t: float, skip: float) -> None:
    for scale in SCALES:
        fusion = build_fusion(base, scale)
        x = draws(2, 1, 4, *size_of(fusion))
        answer = fusion(x, [0], t, skip, lambda patches, *_: skip * patches + 2)
        assert torch.allclose(answer, skip * x + 2, atol=1e-5), (base, scale)


def around(patches: torch.Tensor) -> torch.Tensor:
    """A network that looks at neighbours and goes on at the opposite edge, as the host makes its own do."""
    kernel = torch.tensor([[0.1, 0.3, 0.0], [0.2, 0.5, -0.4], [0.0, -0.2, 0.3]]).expand(4, 1, 3, 3)
    return torch.tanh(F.conv2d(F.pad(patches, (1, 1, 1, 1), mode="circular"), kernel, groups=4))


def pointwise_and_around(
    patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout
) -> torch.Tensor:
    """In a window a network without neighbours, which has no border; in a sub-image one that goes around."""
    return torch.tanh(2 * patches) if views[0].corner_lat else around(patches)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize(("base", "scale"), [((16, 16), 2), ((12, 18), 3), ((8, 24), 4), ((16, 20), 1.25)])
def test_rolling_the_latent_rolls_the_answer(
    base: tuple[int, int], scale: float, t: float, shift: tuple[int, int]
) -> None:
    """With other windows even: no cell of the picture is another's better."""
    fusion = build_fusion(base, scale, images=2, blur=1.3)
    x = draws(8, 2, 4, *size_of(fusion))
    answer = fusion(x, [0, 1], t, 1.0, pointwise_and_around)
    fusion.begin_step([step_generator(seed, 2, 9) for seed in (4, 5)])
    assert torch.allclose(
        fusion(rolled(x, shift), [0, 1], t, 1.0, pointwise_and_around), rolled(answer, shift), atol=1e-4
    )


def with_border(patches: torch.Tensor) -> torch.Tensor:
    """A network that takes what lies beyond its window for zeros, as models do."""
    kernel = torch.tensor([[0.1, 0.3, 0.0], [0.2, 0.5, -0.4], [0.0, -0.2, 0.3]]).expand(4, 1, 3, 3)
    return torch.tanh(F.conv2d(patches, kernel, padding=1, groups=4))


@pytest.mark.parametrize("shift", SHIFTS)
def test_rolling_latent_and_windows_together_rolls_the_answer(shift: tuple[int, int]) -> None:
    """Windows have borders then; where the picture's own edge lies does not matter."""
    fusion = build_fusion((16, 12), 2.5, images=2)
    height, width = size_of(fusion)
    x = draws(9, 2, 4, height, width)

    def predict(patches: torch.Tensor, *_: object) -> torch.Tensor:
        return with_border(patches)

    answer = fusion(x, [0, 1], LOCAL, 1.0, predict)

    def moved(view: View) -> View:
        top, left = (view.rows.start + shift[0]) % height, (view.cols.start + shift[1]) % width
        return View(slice(top, top + 16), slice(left, left + 12), (top, left))

    fusion.local = replace(fusion.local, views=[[moved(view) for view in views] for views in fusion.local.views])
    assert torch.allclose(fusion(rolled(x, shift), [0, 1], LOCAL, 1.0, predict), rolled(answer, shift), atol=1e-5)


def test_the_local_path_by_hand() -> None:
    """Every window cut from the picture laid out beside itself, every answer added up where it belongs."""
    fusion = build_fusion((16, 12), 2.5)
    height, width = size_of(fusion)
    x = draws(10, 1, 4, height, width)
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    for view in fusion.local.views[0]:
        top, left = view.corner_lat
        rows, cols = (
            [(first + i) % length for i in range(n)] for first, n, length in ((top, 16, height), (left, 12, width))
        )
        answer = with_border(x[:, :, rows][..., cols])
        for (i, row), (j, col) in itertools.product(enumerate(rows), enumerate(cols)):
            total[..., row, col] += answer[..., i, j]
            count[..., row, col] += 1
    found = fusion(x, [0], LOCAL, 1.0, lambda patches, *_: with_border(patches))
    assert torch.allclose(found, total / count, atol=1e-5)


@pytest.mark.parametrize("skip", [1.0, 0.35, 0.0])
@pytest.mark.parametrize(("base", "scale"), [((16, 16), 2), ((12, 18), 3)])
def test_the_global_path_by_hand(base: tuple[int, int], scale: int, skip: float) -> None:
    """A strided part of a picture that goes around goes around itself: `D(g) + skip * (x - g)`, part by part."""
    fusion = build_fusion(base, scale, blur=1.3)
    x = 3 * draws(11, 1, 4, *size_of(fusion)) + 1
    height, width = size_of(fusion)
    g = direct_blur(tiled(x), 2 * scale - 1, 1.3)[..., height : 2 * height, width : 2 * width]
    g = with_statistics(g, *statistics(x))
    expected = torch.empty_like(x)
    for i, j in itertools.product(range(scale), range(scale)):
        part = g[..., i::scale, j::scale]
        expected[..., i::scale, j::scale] = around(part) + skip * (x[..., i::scale, j::scale] - part)
    found = fusion(x, [0], GLOBAL, skip, lambda patches, *_: around(patches))
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_latent_is_left_as_it_was() -> None:
    fusion = build_fusion((16, 16), 2.5)
    x = draws(14, 1, 4, *size_of(fusion))
    before = x.clone()
    for t in (LOCAL, MIXED, GLOBAL):
        fusion(x, [0], t, 1.0, pointwise_and_around)
    assert torch.equal(x, before)


# A whole climb


def climbed(base: torch.Tensor, noises: dict[int, torch.Tensor], wrap: bool) -> torch.Tensor:
    """Three phases of eight Euler steps: the last latent."""
    window = (base.shape[-2], base.shape[-1])

    def denoise_phase(phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        engine = build_engine(phase, previous, noises[phase.number], window_lat=window, steps=8, wrap=wrap)
        model = PhaseModel(engine, lambda patches, sigma, rows: 0.6 * torch.tanh(patches) / (1 + 0.1 * sigma))
        sigmas = SCHEDULE.sigmas(8).float()
        x = engine.residual.noised(1.0, float(sigmas[0]))
        for sigma, below in itertools.pairwise(sigmas):
            x = x + (x - model(x, sigma[None])) / sigma * (below - sigma)
        return x

    phases = plan_phases(window, (window[0] * 3, window[1] * 3), "every")
    return list(climb(base, phases, denoise_phase, enlarge=InLatent(wrap)))[-1][1]


def test_a_rolled_base_climbs_to_the_rolled_picture() -> None:
    """Enlargement, residual, both paths and statistics together; the noise is rolled as well."""
    base = draws(15, 1, 4, 12, 10)
    noises = {number: draws(number, 1, 4, 12 * number, 10 * number) for number in (2, 3)}
    rolled_noises = {number: rolled(noise, (5 * number, -2 * number)) for number, noise in noises.items()}
    moved = climbed(rolled(base, (5, -2)), rolled_noises, wrap=True)
    assert torch.allclose(moved, rolled(climbed(base, noises, wrap=True), (15, -6)), atol=1e-3)
    edged = climbed(rolled(base, (5, -2)), rolled_noises, wrap=False)
    assert not torch.allclose(edged, rolled(climbed(base, noises, wrap=False), (15, -6)), atol=0.05)
