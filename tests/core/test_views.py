"""Where the model looks: counts, coverage, jitter and borders of the windows, and the dilated sub-images."""

from __future__ import annotations

import itertools

import pytest
import torch

from demofusion_lib.core import BORDERS, Layout, View, WindowGrid, dilated_layout, step_generator

# latent (height, width) and window (height, width); odd sizes, portrait, a side no larger than the window
SIZES = [
    ((128, 128), (64, 64)),
    ((304, 208), (152, 104)),
    ((98, 146), (65, 97)),
    ((65, 97), (65, 97)),
    ((97, 65), (64, 64)),
    ((35, 200), (32, 32)),
    ((33, 47), (16, 16)),
    ((31, 20), (7, 5)),
    ((9, 9), (3, 2)),
    ((8, 40), (16, 16)),
]
OVERLAPS = [0, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9]


def generator(step: int, seed: int = 0) -> torch.Generator:
    return step_generator(seed, 2, step)


@pytest.mark.parametrize(
    ("size_lat", "window_lat", "count"),
    [
        ((256, 256), (128, 128), 9),  # 1024 px x2
        ((128, 128), (64, 64), 9),  # 512 px x2
        ((512, 512), (128, 128), 49),  # 1024 px x4
        ((416, 608), (104, 152), 49),  # 1216x832 px x4, windows of the base's shape
        ((608, 416), (152, 104), 49),
        ((96, 96), (64, 64), 4),  # 512 px x1.5
        ((64, 64), (64, 64), 1),
    ],
)
@pytest.mark.parametrize("border", BORDERS)
def test_window_counts(size_lat: tuple[int, int], window_lat: tuple[int, int], count: int, border: str) -> None:
    grid = WindowGrid(*size_lat, window_lat, border=border)
    assert len(grid) == len(grid.views(generator(0))) == count


def test_counts_grow_with_the_overlap_alone() -> None:
    """The stride follows the window, whatever its shape."""
    for (size, window), border in itertools.product(SIZES, BORDERS):
        counts = [len(WindowGrid(*size, window, overlap, border=border)) for overlap in OVERLAPS]
        assert counts == sorted(counts)
    assert len(WindowGrid(256, 256, (128, 128), 0)) == 4
    assert len(WindowGrid(256, 256, (128, 128), 0.75)) == 25


def coverage(layout: Layout, height: int, width: int) -> torch.Tensor:
    """How many windows of the first image cover each latent cell."""
    count = layout.pad(torch.zeros(1, 1, height, width))
    for view in layout.views[0]:
        count[..., view.rows, view.cols] += 1
    return layout.crop(count)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("jitter", [True, False])
def test_every_cell_is_covered_in_every_step(jitter: bool, border: str) -> None:
    for ((height, width), window), overlap in itertools.product(SIZES, OVERLAPS):
        grid = WindowGrid(height, width, window, overlap, jitter, border)
        for step in range(6):
            count = coverage(grid.layout([generator(step)]), height, width)
            assert count.shape[-2:] == (height, width)
            assert count.min() >= 1, (height, width, window, overlap, step)


@pytest.mark.parametrize("jitter", [True, False])
def test_inside_stays_inside(jitter: bool) -> None:
    for ((height, width), window), overlap in itertools.product(SIZES, OVERLAPS):
        grid = WindowGrid(height, width, window, overlap, jitter, "inside")
        native = min(window[0], height), min(window[1], width)
        layout = grid.layout([generator(step) for step in range(6)])
        assert layout.padding == (0, 0, 0, 0)
        for view in itertools.chain(*layout.views):
            assert view.rows.start >= 0 and view.rows.stop <= height
            assert view.cols.start >= 0 and view.cols.stop <= width
            assert (view.rows.stop - view.rows.start, view.cols.stop - view.cols.start) == native
            assert view.corner_lat == (view.rows.start, view.cols.start)


def test_paper_overhangs_by_at_most_the_jitter_range() -> None:
    """Corners count from the padded edge, as the authors tell them to SDXL."""
    for ((height, width), window), overlap in itertools.product(SIZES, OVERLAPS):
        if window[0] > height or window[1] > width:
            continue
        grid = WindowGrid(height, width, window, overlap, border="paper")
        reach_y, reach_x = grid.jitter_range_lat()
        layout = grid.layout([generator(step) for step in range(6)])
        assert layout.padding == (reach_y, reach_x, reach_y, reach_x)
        for view in itertools.chain(*layout.views):
            assert view.rows.start >= 0 and view.rows.stop <= height + 2 * reach_y
            assert view.cols.start >= 0 and view.cols.stop <= width + 2 * reach_x
            assert view.shape(10**6, 10**6) == window
            assert view.corner_lat == (view.rows.start, view.cols.start)


def test_paper_does_overhang() -> None:
    tops = {
        view.rows.start
        for step in range(30)
        for view in WindowGrid(64, 64, (32, 32), border="paper").views(generator(step))
    }
    assert min(tops) == 0 and max(tops) == 64 - 32 + 2 * 4


@pytest.mark.parametrize("border", BORDERS)
def test_jitter_reaches_a_quarter_of_the_overlap_to_either_side(border: str) -> None:
    grid = WindowGrid(64, 64, (32, 24), border=border)
    assert grid.jitter_range_lat() == (4, 3)
    still = WindowGrid(64, 64, (32, 24), jitter=False, border=border).views(generator(0))
    middle = next(i for i, view in enumerate(still) if 0 < view.rows.start < 32 and 0 < view.cols.start < 40)
    margin = grid.layout([generator(0)]).padding
    seen: tuple[set[int], set[int]] = (set(), set())
    for step in range(200):
        view = grid.views(generator(step))[middle]
        for axis in (0, 1):
            seen[axis].add(view.corner_lat[axis] - margin[axis] - still[middle].corner_lat[axis])
    assert seen == (set(range(-4, 5)), set(range(-3, 4)))


def test_without_jitter_windows_stay_put() -> None:
    grid = WindowGrid(64, 96, (32, 32), jitter=False)
    assert grid.views(generator(0)) == grid.views(generator(1))
    assert {view.corner_lat for view in grid.views(generator(0))} == set(
        itertools.product((0, 16, 32), (0, 16, 32, 48, 64))
    )


@pytest.mark.parametrize("border", BORDERS)
def test_jitter_is_new_in_every_step_and_the_same_for_the_same_step(border: str) -> None:
    grid = WindowGrid(256, 256, (64, 64), border=border)
    drawn = [grid.views(generator(step)) for step in range(10)]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert drawn == [grid.views(generator(step)) for step in range(10)]


def test_each_window_has_a_jitter_of_its_own_along_each_axis() -> None:
    """One shift for the whole grid would only move the seams, all alike."""
    still = WindowGrid(256, 256, (64, 64), jitter=False).views(generator(0))
    moved = WindowGrid(256, 256, (64, 64)).views(generator(0))
    shifts = [(m.rows.start - s.rows.start, m.cols.start - s.cols.start) for m, s in zip(moved, still)]
    inner = [shift for shift, view in zip(shifts, still) if 0 not in view.corner_lat and 192 not in view.corner_lat]
    assert len(set(inner)) > 20
    assert sum(vertical != horizontal for vertical, horizontal in inner) > len(inner) / 2


def test_step_generators_depend_on_seed_phase_and_step() -> None:
    keys = [(seed, phase, step) for seed in (-1, 0, 1, 2**32, 2**64 + 1) for phase in (2, 3) for step in (0, 1, 11)]
    keys += [(1, 11, 1), (11, 1, 1), (1, 1, 11)]
    first = [torch.rand(4, generator=step_generator(*key)).tolist() for key in keys]
    assert first == [torch.rand(4, generator=step_generator(*key)).tolist() for key in keys]
    assert len({tuple(draw) for draw in first}) == len(keys)


def test_step_generators_are_the_same_on_every_machine() -> None:
    drawn = torch.rand(3, generator=step_generator(1234, 2, 7), dtype=torch.float64)
    assert drawn.tolist() == pytest.approx([0.07431648181180284, 0.6868258863151238, 0.4238750968549373], abs=1e-15)


def test_images_of_a_batch_draw_for_themselves() -> None:
    grid = WindowGrid(128, 128, (64, 64))
    batch = grid.layout([generator(3, seed) for seed in (5, 6, 7)])
    alone = [grid.layout([generator(3, seed)]).views[0] for seed in (5, 6, 7)]
    assert list(batch.views) == alone
    assert alone[0] != alone[1] != alone[2]


def test_drawing_windows_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    WindowGrid(128, 128, (64, 64)).layout([generator(0)])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("overlap", [-0.1, 1, 1.5, float("nan")])
def test_an_impossible_overlap_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match=f"overlap is {overlap}, allowed: 0 to below 1"):
        WindowGrid(64, 64, (32, 32), overlap)


def test_an_unknown_border_is_refused() -> None:
    with pytest.raises(ValueError, match="border is 'outside', allowed: inside, paper"):
        WindowGrid(64, 64, (32, 32), border="outside")


@pytest.mark.parametrize("dilation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 16), (152, 104), (65, 97), (7, 31), (385, 562)])
def test_dilated_sub_images_cover_every_cell_once_and_are_all_of_one_size(size: tuple[int, int], dilation: int) -> None:
    layout = dilated_layout(*size, dilation, batch=2)
    assert len(layout.views) == 2 and len(layout.views[1]) == dilation**2
    assert torch.equal(coverage(layout, *size), torch.ones(1, 1, *size))
    padded = layout.pad(torch.zeros(1, 1, *size)).shape[-2:]
    native = {view.shape(*padded) for view in layout.views[0]}
    assert native == {(-(-size[0] // dilation), -(-size[1] // dilation))}
    assert all(view.corner_lat is None for view in layout.views[0])


def test_dilated_sub_images_are_padded_with_zeros_at_the_top_and_left() -> None:
    plane = torch.ones(1, 1, 5, 7)
    padded = dilated_layout(5, 7, 3, batch=1).pad(plane)
    assert padded.shape[-2:] == (6, 9)
    assert padded[0, 0, :1].sum() == 0 and padded[0, 0, :, :2].sum() == 0
    assert torch.equal(padded[..., 1:, 2:], plane)


def test_view_shapes_match_what_they_cut() -> None:
    plane = torch.zeros(10, 13)
    for view in [
        View(slice(2, 7), slice(0, 20)),
        View(slice(1, None, 3), slice(2, None, 4)),
        View(slice(8, 14), slice(0, 1)),
    ]:
        assert view.shape(10, 13) == tuple(plane[view.rows, view.cols].shape)
