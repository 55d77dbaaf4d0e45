"""What the plan says of a preset's cost, and how it grows with the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.presets.watching import order
from demofusion_lib.plan import Plan
from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.models import Model

SCALES = tuple(round(2 * 4 ** (i / 11) * 20) / 20 for i in range(12))
"""Twelve from 2 to 8, about evenly spread by their logarithms, in the setting's steps."""


def plan_of(model: Model, preset: str, scale: float) -> Plan:
    return Drawing(model, order(preset, scale, model.native_px)).plan


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that is nearest to `(x, y)`, both by their logarithms: the exponent of y in x."""
    xs, ys = ([math.log(value) for value in values] for values in zip(*points))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / sum((a - x) ** 2 for a in xs)


def exponents(model: Model, preset: str, scales: Sequence[float] = SCALES) -> tuple[float, float]:
    """Of the cost in the picture's area: of the whole run, and of the phases alone."""
    whole, phases = [], []
    for scale in scales:
        plan = plan_of(model, preset, scale)
        last = plan.phases[-1]
        area = last.height_lat * last.width_lat
        whole.append((area, plan.units))
        phases.append((area, plan.units - 1))
    return slope(whole), slope(phases)
