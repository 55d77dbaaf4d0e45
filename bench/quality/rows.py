"""The variants that are measured against each other, and the sizes they are measured at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from demofusion_lib.params import Params
from demofusion_lib.presets import NONE
from demofusion_lib.standalone.drawing import Order
from lab.scenes import COLOURS, NATIVE_PX, SHAPES, Scene, draw_scene

GUIDANCE = 3.0
SHAPE_SIZES = {"square": (NATIVE_PX, NATIVE_PX), "3:2": (NATIVE_PX * 3 // 4, NATIVE_PX * 9 // 8)}
"""Base sizes, `(height, width)` in pixels. None has more area than the native square: of 256 x 384 px the toy repeats
objects in 2 of 16 base images already, of 192 x 288 px in none of 48."""
SCALES = (2, 3, 4)
LARGE = (8,)
"""Scales that are drawn when they are asked for, against the truth alone."""
UNIT = 40
"""Evaluations of a base image, prompt and negative prompt at 20 steps: what every row's cost is counted in."""


@dataclass(frozen=True)
class Case:
    """A size to draw at: `scale` times the base of `shape`."""

    shape: str
    scale: int

    @property
    def name(self) -> str:
        return f"{self.scale}x {self.shape}"

    @property
    def base_px(self) -> tuple[int, int]:
        return SHAPE_SIZES[self.shape]

    @property
    def size_px(self) -> tuple[int, int]:
        height, width = self.base_px
        return height * self.scale, width * self.scale


@dataclass(frozen=True)
class Subject:
    """What image `number` shows: the same for every row."""

    number: int

    @property
    def colour(self) -> str:
        return list(COLOURS)[self.number % len(COLOURS)]

    @property
    def shape(self) -> str:
        return SHAPES[self.number // len(COLOURS) % len(SHAPES)]

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {self.shape}"

    def scene(self, base_px: tuple[int, int], salt: int) -> Scene:
        """A true scene of this prompt; another one for another salt."""
        generator = torch.Generator().manual_seed(1_000_003 * salt + self.number)
        return draw_scene(generator, base_px, self.colour, self.shape)


@dataclass(frozen=True)
class Row:
    """One line of the table. `settings`: any of the table of settings, but for the scale.

    kind: drawn by the engine, or one of `truth`, `bicubic`, `direct`, `hires` and `tiles`. strength: the denoising of `hires`,
    phase_steps its steps.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "Euler"
    steps: int = 20
    kind: str = "drawn"
    strength: float = 0.0
    phase_steps: int = 20

    @property
    def shares_bases(self) -> bool:
        """Whether it has the method's base images, so that the two can be compared image by image."""
        return self.kind != "truth" and (self.sampler, self.steps) == ("Euler", 20)

    def order(self, case: Case, subjects: Sequence[Subject], window_batch: int = 16) -> Order:
        height, width = case.base_px
        scale = case.scale if self.kind == "drawn" else 1
        if self.kind == "direct":
            height, width = case.size_px
        settings = {"preset": NONE, "window_batch": window_batch, **self.settings}
        params = Params.from_names({"enabled": True, "scale": scale, **settings})
        prompts, seeds = [s.prompt for s in subjects], [s.number for s in subjects]
        return Order(prompts, seeds, width, height, params, "", self.steps, self.sampler, guidance=GUIDANCE)


FEW_STEPS = ("fine", "fast", "draft")
"""The presets that are not the whole method."""
FAMILIES = ("Euler", "DPM++ 2M Karras", "Euler a", "DPM++ SDE", "DDIM", "UniPC")
STEPS = (20, 50)


def sampler_rows() -> list[Row]:
    return [
        Row(f"{name}, {steps} steps", {}, name, steps)
        for name in FAMILIES
        for steps in STEPS
        if (name, steps) != ("Euler", 20)
    ]


ROWS: tuple[Row, ...] = (
    Row("truth", kind="truth"),
    Row("bicubic of the base", kind="bicubic"),
    Row("direct", kind="direct"),
    Row("Hires. fix, 0.5", kind="hires", strength=0.5),
    Row("Hires. fix, 0.7", kind="hires", strength=0.7),
    Row("Hires. fix, 0.5, 10 steps", kind="hires", strength=0.5, phase_steps=10),
    Row("tiles from t = 401", kind="tiles"),
    *(Row(name, {"preset": name}) for name in FEW_STEPS),
    Row("windows alone", {"skip_residual": False, "dilated": False}),
    Row("method"),
    Row("without residual", {"skip_residual": False}),
    Row("without dilation", {"dilated": False}),
    Row("without blur", {"blur": 0.0}),
    Row("without jitter", {"jitter": False}),
    Row("single jump", {"plan": "direct"}),
    Row("not step-normalised, 20 steps", {"step_normalised": False}),
    Row("not step-normalised, 50 steps", {"step_normalised": False}, steps=50),
    *sampler_rows(),
)
"""`method` is Euler at 20 steps with the defaults of the table of settings; every other row differs from it as it says.
`Row(name, settings)` is all that one more needs."""
BY_NAME = {row.name: row for row in ROWS}
