"""Guidance in windows, as a low-pass difference and not at all, as a host that makes its own of the rows sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import (
    Evaluation,
    Guidance,
    Layout,
    PhaseFusion,
    View,
    Weights,
    WindowGrid,
    shrink,
    shrunk_noise,
    step_generator,
)

from .support import draws, one_phase

BASE, SCALE = (8, 8), 2
GUIDANCE = 4.0
PROMPTS = [[3.0], [5.0, -1.0], [2.0]]
"""What each prompt of each image answers."""
WEIGHTS = [[1.0], [0.6, 1.4], [1.0]]
NEGATIVES = [1.0, 0.5, -2.0]
OWNERS = [0, 1, 1, 2, 0, 1, 2]
SHARES = [1.0, 0.3, 0.7, 1.0, None, None, None]
CONSTANTS = [3.0, 5.0, -1.0, 2.0, 1.0, 0.5, -2.0]


class Asked:
    """A host whose model answers a constant for each row, and at the base's size too."""

    def __init__(self, guidance: Guidance, t: float, wrap: bool = False):
        phase = one_phase(BASE, SCALE)
        grid = WindowGrid(phase.height_lat, phase.width_lat, BASE, wrap=wrap)
        fusion = PhaseFusion(phase, grid, Weights(a2=math.inf), wrap=wrap)
        fusion.begin_step([step_generator(image, 2, 0) for image in range(3)])
        self.evaluation = Evaluation(fusion, guidance, OWNERS, SHARES, t, wrap)
        self.windows, self.low_rows = 0, 0

    def __call__(self, calls: Sequence[int]) -> torch.Tensor:
        x, first, answers = draws(1, 7, 4, 16, 16), 0, []
        for count in calls:
            answers.append(self.call(x[first : first + count], first))
            first += count
        return torch.cat(answers)

    def call(self, x: torch.Tensor, first: int) -> torch.Tensor:
        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            assert all(torch.equal(p, x[r, :, v.rows, v.cols]) for p, r, v in zip(patches, rows, views))
            self.windows += len(patches)
            return torch.stack([torch.full_like(p, CONSTANTS[first + r]) for p, r in zip(patches, rows)])

        def low(rows: Sequence[int]) -> torch.Tensor:
            self.low_rows += len(rows)
            return torch.stack([torch.full((4, *BASE), CONSTANTS[first + r]) for r in rows])

        return self.evaluation(x, first, 1.0, predict, low=low)


def guided(rows: torch.Tensor) -> list[float]:
    """As the host combines them: `AND` prompts by their weights."""
    negatives, first, values = rows[4:], 0, []
    for image, weights in enumerate(WEIGHTS):
        total = negatives[image].clone()
        for weight in weights:
            total += weight * GUIDANCE * (rows[first] - negatives[image])
            first += 1
        assert float((total - total.flatten()[0]).abs().max()) < 1e-4
        values.append(float(total.flatten()[0]))
    return values


def mean(image: int) -> float:
    weights = WEIGHTS[image]
    return sum(w * p for w, p in zip(weights, PROMPTS[image])) / sum(weights)


ONE_CALL, PROMPTS_FIRST, SINGLY = [7], [4, 3], [1] * 7


@pytest.mark.parametrize("calls", [ONE_CALL, PROMPTS_FIRST, [2, 2, 3], SINGLY], ids=str)
def test_without_guidance_the_prompts_mean_is_left(calls: list[int]) -> None:
    for kind in ("windows", "low-pass"):
        asked = Asked(Guidance(kind, until=500), 499.0)
        assert guided(asked(calls)) == pytest.approx([mean(image) for image in range(3)], abs=1e-4)
        assert asked.windows == 4 * 9 and asked.low_rows == 0


@pytest.mark.parametrize("calls", [ONE_CALL, PROMPTS_FIRST, [2, 2, 3], SINGLY], ids=str)
def test_a_constant_difference_guides_the_same_from_the_bases_size(calls: list[int]) -> None:
    windows, low = Asked(Guidance(), 500.0), Asked(Guidance("low-pass"), 500.0)
    expected = [
        n + sum(w * GUIDANCE * (p - n) for w, p in zip(weights, prompts))
        for n, weights, prompts in zip(NEGATIVES, WEIGHTS, PROMPTS)
    ]
    assert guided(windows(calls)) == pytest.approx(expected, abs=1e-4)
    assert windows.windows == 7 * 9 and windows.low_rows == 0
    assert guided(low(calls)) == pytest.approx(expected, abs=1e-4)
    assert low.windows == 4 * 9 and low.low_rows == 7


def test_the_difference_is_enlarged() -> None:
    """What the base's size shows of it, and no more."""
    phase = one_phase(BASE, SCALE)
    fusion = PhaseFusion(phase, WindowGrid(16, 16, BASE), Weights(a2=math.inf))
    fusion.begin_step([step_generator(0, 2, 0)])
    evaluation = Evaluation(fusion, Guidance("low-pass"), [0, 0], [1.0, None], 500.0)
    x, differing = draws(1, 2, 4, 16, 16), draws(2, 2, 4, *BASE)
    rows = evaluation(x, 0, 1.0, lambda patches, *_: patches, low=lambda rows: differing[list(rows)])
    assert torch.allclose(rows[0], x[0], atol=1e-6)
    finer = F.interpolate((differing[0] - differing[1])[None], scale_factor=2, mode="bicubic")[0]
    assert torch.allclose(rows[0] - rows[1], finer, atol=1e-5)


def test_rows_are_those_that_are_counted() -> None:
    for guidance, t in ((Guidance(), 1.0), (Guidance("low-pass"), 1.0), (Guidance("low-pass", 300), 200.0)):
        phase = one_phase(BASE, SCALE)
        fusion = PhaseFusion(phase, WindowGrid(16, 16, BASE), Weights(a2=math.inf))
        fusion.begin_step([step_generator(0, 2, 0)])
        evaluation, seen = Evaluation(fusion, guidance, [0, 0], [1.0, None], t), []

        def predict(patches: torch.Tensor, *_: object, seen: list[int] = seen) -> torch.Tensor:
            seen.append(len(patches))
            return patches

        def low(rows: Sequence[int], seen: list[int] = seen) -> torch.Tensor:
            seen.append(len(rows))
            return torch.zeros(len(rows), 4, *BASE)

        evaluation(draws(1, 2, 4, 16, 16), 0, 1.0, predict, low=low)
        assert sum(seen) == guidance.rows(9, 2, t)
    assert Guidance("low-pass").rows(9, 1, 500) == 9  # nothing to guide by


def test_a_negative_row_that_comes_first_is_asked() -> None:
    asked = Asked(Guidance("low-pass"), 500.0)
    x = draws(1, 7, 4, 16, 16)
    assert torch.allclose(asked.call(x[4:5], 4), torch.full((1, 4, 16, 16), 1.0))


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance is 'none', allowed: windows, low-pass"):
        Guidance("none")


@pytest.mark.parametrize(
    ("size", "target"), [((64, 64), (32, 32)), ((96, 64), (32, 32)), ((50, 70), (32, 40)), ((9, 9), (9, 9))]
)
def test_what_shrinking_leaves_of_noise(size: tuple[int, int], target: tuple[int, int]) -> None:
    measured = float(shrink(draws(3, 64, 4, *size), *target).std())
    assert measured == pytest.approx(shrunk_noise(size, target), rel=0.02)
    if size == (64, 64):
        assert shrunk_noise(size, target) == 0.5
