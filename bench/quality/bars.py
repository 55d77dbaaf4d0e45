"""What must come out of the table, or the engine or the toy is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.quality.measures import UPPER
from bench.quality.rows import FAMILIES, STEPS

Columns = Mapping[str, tuple[float, float]]
"""A row's figures and their standard errors, as `results.summary` makes them."""

ONE, LIKENESS = "one object", "PSNR beside the method's"
METHOD = {2: 0.90, 4: 0.80}
"""Least share with exactly one object, by scale."""
DIRECT = {2: 0.70, 4: 0.50}
WINDOWS_ALONE = 0.30
"""Greatest shares."""
CLEARLY = 2.0
"""Standard errors of the difference that "clearly worse" takes."""
BLURRIER_DB = 1.5
STOCHASTIC = ("Euler a", "DPM++ SDE")


@dataclass(frozen=True)
class Bar:
    """One demand: the text says what was measured beside what is asked."""

    text: str
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.text}"


def shown(figure: tuple[float, float]) -> str:
    return f"{figure[0]:.2f} ± {figure[1]:.2f}"


def error_of_difference(one: tuple[float, float], other: tuple[float, float]) -> float:
    return math.hypot(one[1], other[1])


def shares(rows: Mapping[str, Columns], scale: int) -> Iterator[Bar]:
    """The method's, and the greatest that `direct` and the windows alone may reach."""
    for name, limit, least in (
        ("method", METHOD.get(scale), True),
        ("direct", DIRECT.get(scale), False),
        ("windows alone", WINDOWS_ALONE, False),
    ):
        if name in rows and limit is not None:
            found = rows[name][ONE]
            holds = found[0] >= limit if least else found[0] <= limit
            yield Bar(f"{name}: {shown(found)} with one object, at {'least' if least else 'most'} {limit:.2f}", holds)


def parts(rows: Mapping[str, Columns], scale: int) -> Iterator[Bar]:
    """Each part of the method is needed: for the number of objects, or for the picture to be the one before."""
    for name in ("without residual", "without dilation"):
        if name in rows and "method" in rows:
            method, found, lost = rows["method"][ONE], rows[name][ONE], rows[name].get(LIKENESS, (0.0, 0.0))
            fewer = (method[0] - found[0]) / error_of_difference(method, found)
            farther = -lost[0] / lost[1] if lost[1] else 0.0  # a part that changes nothing at all is not needed
            yield Bar(
                f"{name}: {shown(found)} with one object, {fewer:.1f} standard errors below the method's; "
                f"{shown(lost)} dB in likeness to the base, {farther:.1f} standard errors; at least one {CLEARLY:.0f}",
                max(fewer, farther) >= CLEARLY,
            )


def steps(rows: Mapping[str, Columns], scale: int) -> Iterator[Bar]:
    """A step-normalised residual holds alike at any number of steps."""
    for family in FAMILIES:
        few, many = ("method" if (family, n) == ("Euler", 20) else f"{family}, {n} steps" for n in STEPS)
        if few in rows and many in rows:
            one, other = rows[few][ONE], rows[many][ONE]
            apart = abs(one[0] - other[0]) / error_of_difference(one, other)
            yield Bar(
                f"{family}: {shown(one)} with one object at {STEPS[0]} steps, {shown(other)} at {STEPS[1]}, "
                f"{apart:.1f} standard errors apart, at most 1",
                apart <= 1,
            )


def sharpness(rows: Mapping[str, Columns], scale: int) -> Iterator[Bar]:
    """Noise that a sampler adds doesn't end as blur."""
    band = f"band {UPPER}"
    for family in STOCHASTIC:
        for count in STEPS:
            name, euler = f"{family}, {count} steps", "method" if count == 20 else f"Euler, {count} steps"
            if name in rows and euler in rows:
                lost = rows[euler][band][0] - rows[name][band][0]
                yield Bar(
                    f"{name}: {lost:+.1f} dB lost against Euler in the band {UPPER}, at most {BLURRIER_DB}",
                    lost <= BLURRIER_DB,
                )


CHECKS: tuple[Callable[[Mapping[str, Columns], int], Iterator[Bar]], ...] = (shares, parts, steps, sharpness)


def bars(rows: Mapping[str, Columns], scale: int) -> list[Bar]:
    """Those that one size's rows suffice for."""
    return [bar for check in CHECKS for bar in check(rows, scale)]
