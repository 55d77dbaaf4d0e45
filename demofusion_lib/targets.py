"""The sizes that can be reached from a base image, and what is told of those that can't."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .setting import SettingsError, quoted

LATENT_PX = 8  # pixels to a latent cell, along each axis, in every supported model
MAX_SCALE = 8.0
SCALE_STEP = 0.05
"""The slider's."""
MAX_BASE_PX = 16384
TARGETS = ("target_height", "target_width")
"""In a size's order."""


def target_mistake(name: str, value: float, base_lat: tuple[int, int], most_px: int = 0) -> SettingsError:
    """Of a side that can't be reached from a base latent `(height, width)`. most_px: what else it may not exceed; 0: nothing."""
    low = base_lat[TARGETS.index(name)] * LATENT_PX
    high = int(low * MAX_SCALE)
    if most_px >= low:
        high = min(high, most_px // LATENT_PX * LATENT_PX)
    nearest = math.floor(min(max(value, low), high) / LATENT_PX + 0.5) * LATENT_PX
    allowed = f"0, or {low} to {high} for this base image"
    multiples = "" if value % LATENT_PX == 0 else f", multiples of {LATENT_PX}"
    return SettingsError(f"{name} is {quoted(value)}, allowed: {allowed}{multiples} (the nearest is {nearest})", name)


def check_target(base_lat: tuple[int, int], target_lat: tuple[int, int], asked_px: tuple[int, int]) -> None:
    """Of sizes `(height, width)`. asked_px: the sides that were asked for; 0 follows the other. Raises SettingsError."""
    sides = zip(TARGETS, asked_px, target_lat, base_lat)
    errors = [
        target_mistake(name, value, base_lat)
        for name, value, size, low in sides
        if value and not low <= size <= low * MAX_SCALE
    ]
    if errors:
        raise SettingsError.of_all(errors)


def heeding_base(
    error: SettingsError, values: Mapping[str, Any], base_lat: tuple[int, int], most_px: int = 0
) -> SettingsError:
    """What can't be read of a target's sides, with what can be reached from the base latent. values: by name, that the error is of."""
    told = []
    for name, message in error.mistakes:
        value = values.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
        if name in TARGETS and number and min(base_lat) > 0:
            told.append(target_mistake(name, value, base_lat, most_px))  # type: ignore[arg-type]
        else:
            told.append(SettingsError(message, name))
    return SettingsError.of_all(told)


def size_text(height_lat: int, width_lat: int) -> str:
    return f"{width_lat * LATENT_PX}x{height_lat * LATENT_PX} px"


def scale_below(scale: float) -> float:
    """The slider's largest scale that is no larger."""
    return round(math.floor(scale / SCALE_STEP + 1e-9) * SCALE_STEP, 6)


def _scale_steps(above: float) -> Iterator[float]:
    """The slider's scales above one of them."""
    return (
        round(n * SCALE_STEP, 6)
        for n in range(math.floor(above / SCALE_STEP + 1e-9) + 1, round(MAX_SCALE / SCALE_STEP) + 1)
    )


def rounding_of(asked: float, base_lat: tuple[int, int]) -> str:
    """What to tell where a scale asks for a size between two possible ones; empty where it does not."""
    from .core import scaled_size

    (height, width), scale = scaled_size(*base_lat, asked), f"{asked:g}"
    exact = all(abs(size * asked - got) < 1e-6 for size, got in zip(base_lat, (height, width)))
    if exact:
        return ""
    base, got = (size_text(*size) for size in (base_lat, (height, width)))
    if (height, width) != base_lat:
        return f"scale {scale} of {base} gives {got}, the nearest size in steps of {LATENT_PX} px"
    larger = next(s for s in _scale_steps(asked) if scaled_size(*base_lat, s) != base_lat)
    return (
        f"scale {scale} of {base} is {base} again, as sizes go in steps of {LATENT_PX} px: nothing was enlarged; "
        f"the next larger size is {size_text(*scaled_size(*base_lat, larger))}, at scale {larger:g}"
    )
