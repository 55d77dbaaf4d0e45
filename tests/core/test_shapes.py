"""Of how many sizes the model's calls are: what is compiled or captured for one is prepared anew for every other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from demofusion_lib.core import Layout, Low, View, WindowBatch
from demofusion_lib.core.batching import FEWEST, call_size
from demofusion_lib.plan import Plan

from .support import draws
from .test_plan import plan

NATIVE = 8

SHAPES = {
    # local windows of an evaluation: (2s - 1)^2, twice, and s^2 sub-images, twice
    ("paper", 2): {2: {9, 8}},
    ("paper", 3): {2: {9, 8}, 3: {10, 9}},
    ("paper", 4): {2: {9, 8}, 3: {10, 9}, 4: {14, 16}},
    # 9, 16, 25 and 121 windows, each for prompt and negative prompt
    ("fine", 2): {2: {9}},
    ("fine", 3): {2: {9}, 3: {16}},
    ("fine", 4): {2: {9}, 3: {10}},
    ("fine", 8): {2: {9}, 3: {10}, 4: {11}},
    ("fast", 2): {2: {9}},
    ("fast", 3): {2: {9}, 3: {16}},
    ("fast", 4): {2: {9}, 3: {10}},
    ("fast", 8): {2: {9}, 3: {10}, 4: {11}},
    # the prompt alone, whose 25 windows have no divisor worth while; two rows of the base's size in a call of their own
    ("draft", 2): {2: {9, 2}},
    ("draft", 3): {2: {9, 2}, 3: {16, 2}},
    ("draft", 4): {2: {9, 2}, 3: {13, 12, 2}},
    ("draft", 8): {2: {9, 2}, 3: {13, 12, 2}, 4: {11, 2}},
}


def called(made: Plan, batch: WindowBatch) -> dict[int, list[torch.Size]]:
    """The shapes of a run's calls, by phase: prompt and negative prompt in one call of the host's."""
    shapes: dict[int, list[torch.Size]] = {}
    for phase in made.phases:
        x, before = draws(1, 1, 4, phase.height_lat, phase.width_lat), draws(2, 1, 4, NATIVE, NATIVE)
        engine = made.engine(phase, x, before, x, [0], stochastic=False, batch=batch)
        seen = shapes.setdefault(phase.number, [])

        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            seen.append(patches.shape)  # noqa: B023  called at once
            return patches * 0.5

        def low(rows: Sequence[int]) -> torch.Tensor:
            seen.append(torch.Size((len(rows), 4, NATIVE, NATIVE)))  # noqa: B023
            return torch.zeros(len(rows), 4, NATIVE, NATIVE)

        guiding: Low = low
        for t in made.phase_levels:
            engine.before(x, t, 1.0, 1.0)
            engine.evaluation([0, 0], [1.0, None], t)(x.repeat(2, 1, 1, 1), 0, 1.0, predict, low=guiding)
    return shapes


@pytest.mark.parametrize(("preset", "scale"), SHAPES)
def test_shapes_of_a_preset(preset: str, scale: int) -> None:
    made = plan((NATIVE, NATIVE), steps=3, preset=preset, scale=scale)
    shapes = called(made, WindowBatch(16))
    assert {shape[1:] for seen in shapes.values() for shape in seen} == {(4, NATIVE, NATIVE)}
    assert {phase: {shape[0] for shape in seen} for phase, seen in shapes.items()} == SHAPES[preset, scale]
    rows = {phase: sum(shape[0] for shape in seen) for phase, seen in shapes.items()}
    assert rows == {phase.number: made.evaluations(phase) for phase in made.phases}


def test_guidance_that_ends_makes_no_other_size() -> None:
    for batch, expected in ((5, {5}), (16, {13, 12}), (25, {25}), (64, {25})):
        shapes = called(plan((NATIVE, NATIVE), steps=3, preset="fast", scale=4, guidance_until=300), WindowBatch(batch))
        assert {shape[0] for shape in shapes[3]} == expected


def cut(count: int, alike: int, most: int) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(call_size(count - sum(sizes), alike, most))
    return sizes


def test_every_count_and_every_batch() -> None:
    """All alike, no smaller than is reasonable; else the fewest calls, of two sizes that follow each other."""
    for count in range(1, 300):
        for most in (1, 2, 3, 4, 7, 8, 16, 64):
            sizes = cut(count, count, most)
            assert sum(sizes) == count and max(sizes) <= most
            divides = [size for size in range(min(most, FEWEST), most + 1) if count % size == 0]
            if divides:
                assert set(sizes) == {max(divides)}
            else:
                assert len(sizes) == -(-count // most) and max(sizes) - min(sizes) <= 1


def test_with_and_without_the_negative_prompt_two_sizes_are_enough() -> None:
    for windows in range(1, 150):
        for most in (1, 2, 3, 4, 7, 8, 13, 16, 64):
            without, both = cut(windows, windows, most), cut(2 * windows, windows, most)
            assert sum(both) == 2 * sum(without) == 2 * windows and max(both) <= most
            assert len({*without, *both}) <= 2
            assert windows < most or max(both) - min(both) <= 1


@pytest.mark.parametrize(("count", "alike", "sizes"), [
    (18, 9, [9, 9]), (9, 9, [9]), (50, 25, [13, 12, 13, 12]), (25, 25, [13, 12]), (8, 8, [8]), (242, 121, [11] * 22),
    (98, 98, [14] * 7), (14, 18, [9, 5]),  # what measuring has left of 18
])  # fmt: skip
def test_sizes_of_the_presets(count: int, alike: int, sizes: list[int]) -> None:
    assert cut(count, alike, 16) == sizes
