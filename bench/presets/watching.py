"""A run of a preset, watched: what each phase asks of the UNet, and whose the time is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.models import Model
from demofusion_lib.targets import LATENT_PX

Clock = Callable[[], float]
Shape = tuple[int, ...]


class Watch:
    """The calls of a UNet while it is on: their shapes, and the seconds inside."""

    def __init__(self, unet: Any, clock: Clock):
        self.unet = unet
        self.clock = clock
        self.seconds = self.begun = 0.0
        self.shapes: Counter[Shape] = Counter()
        self.hooks: list[Any] = []

    def __enter__(self) -> Watch:
        self.hooks = [self.unet.register_forward_pre_hook(self._begin), self.unet.register_forward_hook(self._end)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _begin(self, unet: Any, given: Any) -> None:
        self.shapes[tuple(given[0].shape)] += 1
        self.begun = self.clock()

    def _end(self, *_: object) -> None:
        self.seconds += self.clock() - self.begun

    def taken(self) -> tuple[float, Counter[Shape]]:
        """What has gathered since it was last asked."""
        gathered = self.seconds, self.shapes
        self.seconds, self.shapes = 0.0, Counter()
        return gathered


@dataclass(frozen=True)
class Part:
    """A phase of a run, the base image the first. seconds: of the phase, without those `in_vae`, where it begins from
    pixels; inside: of them in the UNet."""

    foretold: int
    counted: int
    seconds: float
    in_vae: float
    inside: float
    shapes: Counter[Shape]


@dataclass
class Watched:
    """A run. latent: its last phase's."""

    preset: str
    scale: float
    parts: list[Part] = field(default_factory=list)
    latent: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def base(self) -> Part:
        return self.parts[0]

    @property
    def phases(self) -> list[Part]:
        return self.parts[1:]

    @property
    def foretold(self) -> float:
        """Units, as the plan has them."""
        return sum(part.foretold for part in self.parts) / self.base.foretold

    @property
    def counted(self) -> float:
        """Units, by the rows that the UNet was given."""
        return sum(sum(shape[0] * calls for shape, calls in part.shapes.items()) for part in self.parts) / sum(
            shape[0] * calls for shape, calls in self.base.shapes.items()
        )

    @property
    def seconds(self) -> float:
        """Of the phases."""
        return sum(part.seconds for part in self.phases)

    @property
    def in_vae(self) -> float:
        """Of the phases that begin from pixels: their VAE's."""
        return sum(part.in_vae for part in self.phases)

    @property
    def inside(self) -> float:
        """Of the phases' time, in the UNet."""
        return sum(part.inside for part in self.phases)

    @property
    def overhead(self) -> float:
        return self.seconds / self.inside


class Timed(Drawing):
    """A drawing that keeps the time apart in which phases pass through the VAE."""

    clock: Clock
    in_vae = 0.0

    def _enlarge(self, first: Finished) -> Any:
        enlarge = super()._enlarge(first)
        if self.order.params.enlarge != "pixels":
            return enlarge

        def timed(latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
            begun = self.clock()
            larger = enlarge(latent, height_lat, width_lat)
            self.in_vae += self.clock() - begun
            return larger

        return timed


def order(preset: str, scale: float, native_px: int, *, steps: int = 20, batch: int = 16, **settings: object) -> Order:
    values = {"enabled": True, "preset": preset, "scale": scale, "window_batch": batch, **settings}
    params = Params.from_names(values)
    return Order(["a red disc"], [1], native_px, native_px, params, steps=steps, sampler="Euler", guidance=3.0)


def watch(model: Model, wanted: Order, clock: Clock, within: Clock | None = None) -> Watched:
    """Draws. within: the UNet's own clock, where `clock` would disturb. Raises AssertionError where the rows are not those
    that the plan foretells."""
    drawing = Timed(model, wanted)
    drawing.clock = clock
    foretold = [drawing.plan.base_evaluations, *map(drawing.plan.evaluations, drawing.plan.phases)]
    run = Watched(wanted.params.preset, wanted.params.scale)
    with Watch(model.unet, within or clock) as unet:
        begun = clock()
        for rows, done in zip(foretold, drawing.phases()):
            seconds = clock() - begun - drawing.in_vae
            run.parts.append(Part(rows, done.evaluations, seconds, drawing.in_vae, *unet.taken()))
            run.latent, drawing.in_vae = done.latent, 0.0
            begun = clock()
    for part in run.parts:
        given = sum(shape[0] * calls for shape, calls in part.shapes.items())
        assert part.foretold == part.counted == given, (run.preset, run.scale, part)
    return run


def pixels(latent: torch.Tensor) -> int:
    """The longer side of its picture."""
    return max(latent.shape[-2:]) * LATENT_PX
