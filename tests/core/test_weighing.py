"""How windows count where they overlap: profiles, what they sum up to, and what comes of two windows that disagree."""

from __future__ import annotations

import math

import pytest
import torch

from demofusion_lib.core import WINDOW_WEIGHTS, Layout, PhaseFusion, View, Weights, WindowGrid, step_generator
from demofusion_lib.core.weighing import FLOOR, WindowWeights, profile

from .support import draws, one_phase

ALONE = Weights(a2=math.inf)


def build_fusion(kind: str, base: tuple[int, int], scale: float, **options: object) -> PhaseFusion:
    phase = one_phase(base, scale)
    grid = WindowGrid(phase.height_lat, phase.width_lat, base, **options)
    wrap = bool(options.get("wrap"))
    fusion = PhaseFusion(phase, grid, ALONE, window_weight=kind, wrap=wrap)
    fusion.begin_step([step_generator(1, 2, 3)])
    return fusion


def test_profiles() -> None:
    assert torch.equal(profile("flat", 5, True, True), torch.ones(5))
    sin2 = profile("sin2", 4, True, True)
    expected = [FLOOR + (1 - FLOOR) * math.sin(math.pi * u) ** 2 for u in (0.125, 0.375, 0.625, 0.875)]
    assert sin2.tolist() == pytest.approx(expected, rel=1e-6)
    gaussian = profile("gaussian", 4, True, True)
    assert gaussian.tolist() == pytest.approx([math.exp(-18 * (u - 0.5) ** 2) for u in (0.125, 0.375, 0.625, 0.875)])
    for kind in ("sin2", "gaussian"):
        whole = profile(kind, 64, True, True)
        assert FLOOR <= float(whole.min()) < 0.02 and float(whole.max()) > 0.99
        assert torch.allclose(whole, whole.flip(0))
    with pytest.raises(ValueError, match="window weight is 'round', allowed: flat, sin2, gaussian"):
        profile("round", 4, True, True)


@pytest.mark.parametrize("kind", ["sin2", "gaussian"])
def test_where_the_picture_ends_nothing_falls(kind: str) -> None:
    left, both = profile(kind, 9, False, True), profile(kind, 9, True, True)
    assert torch.equal(left[5:], both[5:]) and float(left[:5].min()) == float(both.max())
    assert torch.equal(profile(kind, 9, False, False), torch.ones(9))


@pytest.mark.parametrize("kind", WINDOW_WEIGHTS)
@pytest.mark.parametrize(
    "options", [{}, {"overlap": 0.0}, {"overlap": 0.25}, {"border": "paper"}, {"wrap": True}], ids=str
)
@pytest.mark.parametrize("base", [(16, 16), (19, 13), (5, 3)])
def test_a_pointwise_denoiser_comes_back(kind: str, base: tuple[int, int], options: dict[str, object]) -> None:
    for scale in (1.25, 2, 3.7):
        fusion = build_fusion(kind, base, scale, **options)
        x = draws(1, 1, 4, fusion.phase.height_lat, fusion.phase.width_lat)
        answer = fusion(x, [0], 500.0, 1.0, lambda patches, rows, views, layout: torch.tanh(patches))
        assert torch.allclose(answer, torch.tanh(x), atol=1e-5), scale


def test_two_windows_that_disagree_are_weighed() -> None:
    """On the strip that both cover, by their weights there; beyond it each alone."""
    fusion = build_fusion("sin2", (8, 8), 1.5, overlap=0.5, jitter=False)
    x = draws(1, 1, 4, 12, 12)
    answers = {0: 1.0, 4: 3.0}

    def predict(patches: torch.Tensor, rows: object, views: list[View], layout: Layout) -> torch.Tensor:
        return torch.stack([torch.full_like(p, answers[v.cols.start]) for p, v in zip(patches, views)])

    row = fusion(x, [0], 500.0, 1.0, predict)[0, 0, 3]
    left, right = profile("sin2", 8, False, True), profile("sin2", 8, True, False)
    strip = (left[4:] * 1.0 + right[:4] * 3.0) / (left[4:] + right[:4])
    assert torch.allclose(row, torch.cat([torch.ones(4), strip, torch.full((4,), 3.0)]), atol=1e-6)
    assert bool((row.diff() >= -1e-6).all()) and float(row.diff().max()) < 1.0  # flat weights jump by 1


@pytest.mark.parametrize("kind", ["sin2", "gaussian"])
def test_weights_in_half_precision_sum_up_to_something(kind: str) -> None:
    """At no overlap four windows' corners meet, where each weighs least."""
    layout = build_fusion(kind, (16, 16), 2, overlap=0.0, jitter=False).local
    assert layout is not None
    weights = WindowWeights(kind, layout, (32, 32), torch.zeros(1, dtype=torch.float16))
    total = torch.zeros(1, 32, 32)
    for view in layout.views[0]:
        total[:, view.rows, view.cols] += weights(view).float()
    assert float(total.min()) > 5e-5  # float16 is exact to a thousandth above
