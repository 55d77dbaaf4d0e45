"""The cosine weights, and what keeps the residual's strength at any number of steps."""

from __future__ import annotations

import math

import pytest

from demofusion_lib.core import Weights, cosine_factor, step_normalised


def leftover(steps: int, weights: Weights, *, normalise: bool, after: float) -> float:
    """`prod(1 - c1)`: what is left at the end of a signal drawn at timestep `after`."""
    spacing = 1000 / steps
    times = [after - spacing * (i + 1) for i in range(int(after / spacing))]
    pulls = [weights.c1(t) for t in times]
    return math.prod(1 - (step_normalised(c1, spacing) if normalise else c1) for c1 in pulls)


@pytest.mark.parametrize(
    ("t", "factor"), [(1000, 1), (750, 0.5 + 0.125**0.5), (500, 0.5), (250, 0.5 - 0.125**0.5), (0, 0)]
)
def test_the_cosine_falls_from_1_at_full_noise_to_0_at_none(t: float, factor: float) -> None:
    """Half a wave: with the published summaries' whole one the pull would come back at the end."""
    assert cosine_factor(t) == pytest.approx(factor, abs=1e-12)


def test_the_ends_are_exact() -> None:
    """So that a path of no weight is known for one."""
    assert cosine_factor(0) == 0 and cosine_factor(1000) == 1
    assert cosine_factor(-1e-4) == 0 and cosine_factor(1000.5) == 1


def test_weights_are_powers_of_the_cosine() -> None:
    weights, cf = Weights(3, 0.5, 2), 0.25
    t = 1000 * (1 - math.acos(2 * cf - 1) / math.pi)
    assert weights.c1(t) == pytest.approx(cf**3)
    assert weights.c2(t) == pytest.approx(cf**0.5)
    assert weights.c3(t) == pytest.approx(0.99 * cf**2 + 0.01)


def test_defaults_are_the_authors() -> None:
    assert Weights() == Weights(a1=3, a2=1, a3=1)


def test_weights_fall_towards_the_end() -> None:
    weights = Weights()
    for weight in (weights.c1, weights.c2, weights.c3):
        values = [weight(t) for t in range(1000, -1, -10)]
        assert values == sorted(values, reverse=True)
    assert weights.c1(0) == weights.c2(0) == 0 and weights.c3(0) == 0.01


def test_exponent_0_is_full_weight_everywhere() -> None:
    assert [Weights(0, 0, 0).c1(t) for t in (0, 500, 1000)] == [1, 1, 1]
    assert [Weights(0, 0, 0).c2(t) for t in (0, 500, 1000)] == [1, 1, 1]


def test_at_50_uniform_steps_the_normalised_pull_is_the_authors() -> None:
    for t in range(980, 0, -20):
        assert step_normalised(Weights().c1(t), 20) == pytest.approx(Weights().c1(t), rel=1e-12)


def test_no_time_no_pull() -> None:
    assert step_normalised(0.7, 0) == 0
    assert step_normalised(0.7, -30) == 0
    assert step_normalised(1.0, 20) == 1
    assert step_normalised(0.0, 20) == 0


def test_two_half_steps_pull_as_one() -> None:
    one, half = step_normalised(0.3, 40), step_normalised(0.3, 20)
    assert 1 - one == pytest.approx((1 - half) ** 2)


@pytest.mark.parametrize("after", [500.0, 600.0, 700.0])
def test_what_a_phase_draws_itself_is_kept_alike_at_any_number_of_steps(after: float) -> None:
    by_steps = [math.log(leftover(n, Weights(), normalise=True, after=after)) for n in (20, 50, 100)]
    assert by_steps == pytest.approx([by_steps[1]] * 3, rel=0.25)


def test_without_normalisation_20_steps_keep_far_more_than_50() -> None:
    kept = {n: leftover(n, Weights(), normalise=False, after=600) for n in (20, 50, 100)}
    assert kept[20] > 2 * kept[50] and kept[50] > 2 * kept[100]


def test_what_is_drawn_early_does_not_reach_the_end() -> None:
    """Measured bounds of the authors' 50 steps, on which a late start rests."""
    times = range(981, 0, -20)
    for start, bound in ((741, 0.01), (661, 0.10)):
        assert math.prod(1 - Weights().c1(t) for t in times if t < start) < bound
    assert math.prod(1 - Weights().c1(t) for t in times if t < 601) > 0.10


def test_a_path_below_the_gate_is_left_out() -> None:
    gated, plain = Weights(gate=0.1), Weights()
    shares = [(plain.c2(t), gated.c2(t)) for t in range(0, 1001, 5)]
    assert {got for share, got in shares if share < 0.1} == {0.0}
    assert {got for share, got in shares if share > 0.9} == {1.0}
    assert all(got == share for share, got in shares if 0.1 <= share <= 0.9)


@pytest.mark.parametrize("a1", [0.3, 1.0, 3.0, 10.0])
def test_a_phase_starts_where_the_residual_lets_go(a1: float) -> None:
    weights = Weights(a1)
    assert weights.c1(weights.start) == pytest.approx(0.65)


def test_starts_at_the_ends() -> None:
    """600 with the decay that the x0 residual is used with; everything where nothing holds, nothing where all is held."""
    assert Weights(1).start == pytest.approx(597, abs=0.5)
    assert Weights(math.inf).start == 1000 and Weights(0).start == 0
