"""Lines and grain of made pictures whose figures are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bench.quality.geometry import GROUND, SKY, WEAVE, WEAVE_PX, Geometry
from lab.scenes import COLOURS, SHAPES, Scene, render

SIZE = 512
LEVEL = 1 / 255


def scene(shape: str = "disc", centre: tuple[float, float] = (80.0, 70.0), horizon: float = 160.0) -> Scene:
    return Scene("red", shape, (256, 256), centre, 45.0, horizon, (3.0, 5.0))


def landscape(horizon: np.ndarray) -> torch.Tensor:
    """Sky over a weave, the border at a row of its own in each column."""
    rows, cols = torch.arange(SIZE)[:, None] + 0.5, torch.arange(SIZE)[None, :] + 0.5
    turn = 2 * math.pi / WEAVE_PX
    below = (rows - torch.from_numpy(horizon)[None, :].float() + 0.5).clamp(0, 1)
    ground = GROUND + WEAVE * torch.sin(rows * turn) * torch.sin(cols * turn)
    return (SKY * (1 - below) + ground * below).expand(3, SIZE, SIZE).clone()


PLACES = np.arange(SIZE) + 0.5
SMOOTHED = math.sin(math.pi / 8) / (math.pi / 8)
"""What the mean over 16 px leaves of a wave of 128 px."""


@pytest.mark.parametrize(
    ("away", "rms_px", "tilt_px"),
    [
        (lambda x: 0 * x, 0.0, 0.0),
        (lambda x: 0.02 * x, 0.0, 0.02 * SIZE),
        (lambda x: 3 * np.cos(8 * math.pi * x / SIZE), 3 * SMOOTHED / math.sqrt(2), 0.0),
        (lambda x: 6 * (x > SIZE / 2), 6 / 4, 6 * 1.5),  # a line fitted to a step leaves a quarter of it
        (lambda x: 12 * (x > SIZE / 2), 12 / 4, 12 * 1.5),
    ],
)
def test_a_horizon_off_its_line(away: Callable[[np.ndarray], np.ndarray], rms_px: float, tilt_px: float) -> None:
    found = Geometry(landscape(300.3 + away(PLACES))).horizon()
    assert found is not None
    assert found.rms_px == pytest.approx(rms_px, rel=0.06, abs=0.06)
    assert found.tilt_px == pytest.approx(tilt_px, rel=0.04, abs=0.1)


def test_how_far_a_horizon_goes_at_most() -> None:
    found = Geometry(landscape(300 + 3 * np.cos(8 * math.pi * PLACES / SIZE))).horizon()
    assert found is not None and found.greatest_px == pytest.approx(3 * SMOOTHED, abs=0.2)


def test_an_object_hides_some_of_the_horizon() -> None:
    whole = Geometry(render(scene(centre=(150.0, 128.0)), 2))
    found = whole.horizon()
    assert found is not None and found.rms_px < 0.1 and abs(found.tilt_px) < 0.1
    hidden = np.isnan(whole.horizon_rows)
    assert hidden[256] and not hidden[0] and not hidden[-1]
    assert np.nanmean(whole.horizon_rows) == pytest.approx(320, abs=0.5)


def test_a_speck_hides_what_its_halo_covers() -> None:
    picture = render(scene(), 2)
    picture[:, 319:322, 399:402] = torch.tensor(COLOURS["blue"])[:, None, None]
    hidden = np.isnan(Geometry(picture).horizon_rows)
    assert hidden[388:413].all() and not hidden[380] and not hidden[420]


def test_without_a_horizon_there_is_no_figure() -> None:
    assert Geometry(torch.full((3, SIZE, SIZE), SKY)).horizon() is None
    assert Geometry(render(scene(horizon=400.0), 2)).horizon() is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [2, 4])
def test_a_true_outline_is_one(shape: str, scale: int) -> None:
    assert Geometry(render(scene(shape, (150.0, 128.0)), scale)).outline(shape) == pytest.approx(1, abs=0.015)


def test_a_toothed_disc_has_more_outline() -> None:
    rows, cols = torch.arange(SIZE)[:, None] - 250.0, torch.arange(SIZE)[None, :] - 256.0
    radius = 90 * (1 + 0.04 * torch.cos(20 * torch.atan2(rows, cols)))
    body = (radius - torch.hypot(rows, cols) + 0.5).clamp(0, 1)
    paint = torch.tensor(COLOURS["blue"])[:, None, None]
    picture = SKY * (1 - body) + paint * body
    turn = np.linspace(0, 2 * math.pi, 100_000, endpoint=False)
    along = 1 + 0.04 * np.cos(20 * turn)
    length = np.hypot(along, 0.04 * 20 * np.sin(20 * turn)).mean() * 2 * math.pi
    area = (along**2).mean() * math.pi
    known = length / (2 * math.sqrt(math.pi * area))
    assert known > 1.1 and Geometry(picture).outline("disc") == pytest.approx(known, rel=0.01)


def test_an_outline_that_is_cut_or_missing() -> None:
    assert Geometry(render(scene(centre=(100.0, 20.0)), 2)).outline("disc") is None
    assert Geometry(render(scene(centre=(-200.0, 20.0)), 2)).outline("disc") is None


@pytest.mark.parametrize("levels", [0.5, 2.0])
def test_grain_of_the_sky(levels: float) -> None:
    noise = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * levels * LEVEL
    picture = render(scene(), 2) + noise
    assert Geometry(picture).grain() == pytest.approx(levels, rel=0.02)
    sky = torch.linspace(0, 20 * LEVEL, SIZE)[None, :, None]
    assert Geometry(render(scene(), 2) + sky).grain() == pytest.approx(0, abs=0.03)
    assert Geometry(picture + sky).grain() == pytest.approx(levels, rel=0.02)


def test_weave_and_edges_are_no_grain() -> None:
    assert Geometry(render(scene(), 2)).grain() == pytest.approx(0, abs=0.01)
    assert Geometry(torch.full((3, SIZE, SIZE), GROUND)).grain() is None
