"""Several processes draw one picture: bit for bit what one draws, each its share of the windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from demofusion_lib.params import Params
from demofusion_lib.ranks import Ranks
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS

from .forks import FORKS, forked

pytestmark = FORKS


def order(
    sampler: str = "Euler", images: int = 1, steps: int = 2, size: tuple[int, int] = (64, 64), **settings: object
) -> Order:
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 2, "window_batch": 3, **settings})
    return Order(["a red disc"] * images, [7, 8][:images], *size, params, steps=steps, sampler=sampler)


ORDERS = {
    **{f"sd {sampler}": order(sampler) for sampler in SAMPLERS if sampler != "DPM adaptive"},
    "sd DPM adaptive": order("DPM adaptive", scale=1.5, window_batch=16),  # it takes its time
    "sd low-pass, x0, sin2": order(guidance="low-pass", residual="x0", window_weight="sin2", window_batch=1),
    "sd two portraits by pixels": order(images=2, size=(64, 96), enlarge="pixels"),
    "sdxl Euler a": order("Euler a", images=2, window_batch=5),
    "sdxl DDIM": order("DDIM"),
    "sdxl UniPC": order("UniPC", jitter=False),
    "sdxl DPM++ SDE": order("DPM++ SDE", window_batch=1),
}
FEW = ("sd Euler", "sd UniPC", "sd low-pass, x0, sin2", "sdxl DDIM")


def digest(latent: torch.Tensor) -> str:
    return hashlib.blake2b(latent.contiguous().numpy().tobytes()).hexdigest()


def drawn(model: Model, wanted: Order, ranks: Ranks | None) -> list[tuple[str, int]]:
    """Each phase's latent, and its rows."""
    drawing = Drawing(model, wanted, ranks=ranks)
    return [(digest(phase.latent), phase.evaluations) for phase in drawing.phases()]


def all_drawn(models: dict[str, Model], ranks: Ranks | None, names: Sequence[str] = tuple(ORDERS)) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        before = list(ranks.rows) if ranks else []
        phases = drawn(models[name.split()[0]], ORDERS[name], ranks)
        found[name] = phases, [now - then for now, then in zip(ranks.rows, before)] if ranks else []
    return found


@pytest.fixture(scope="module")
def alone(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return forked(0, tmp_path_factory.mktemp("alone") / "it", lambda ranks: all_drawn(models, ranks))[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bit_equal_to_one_process(count: int, models: dict[str, Model], alone: dict[str, Any], tmp_path: Path) -> None:
    """With as many rows in all, and none of the ranks without work."""
    names = FEW if count == 1 else tuple(ORDERS)
    each = forked(count, tmp_path / "ranks", lambda ranks: all_drawn(models, ranks, names))
    for found in each:
        assert {name: phases for name, (phases, _) in found.items()} == {name: alone[name][0] for name in names}
    for name, (phases, rows) in each[0].items():
        assert sum(rows) == sum(evaluations for _, evaluations in phases) and min(rows) > 0, name
        assert all(found[name][1] == rows for found in each)
