"""A small run of two phases in which every call of the model can be watched and made to fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from k_diffusion import sampling

from demofusion_lib.core import (
    Layout,
    Phase,
    PhaseEngine,
    Place,
    Predict,
    View,
    WindowBatch,
    plan_phases,
    statistics,
    step_generator,
    upsample,
    with_statistics,
)

from .support import SCHEDULE, build_engine, draws, network_denoiser

BASE, TARGET = (6, 5), (15, 12)
STEPS = 3

NETWORK = network_denoiser(images=2)

Fault = Callable[[int, torch.Tensor], object]
"""`fault(call, patches)`: raises or does not. A rescue may also answer in the network's place."""


@dataclass
class Run:
    """One image under guidance, so that every window comes in two rows.

    calls: the patches of each call of the model so far, its phase and its step; calls that fail count too.
    alone: the patches that `rescue` was asked for. drawn: how often windows were. sizes: the batch's, after each phase.
    """

    batch: int | WindowBatch = 5
    fault: Fault = lambda call, patches: None
    rescue: Fault | None = None
    border: str = "inside"
    wrap: bool = False
    calls: list[tuple[int, int, int]] = field(default_factory=list)
    alone: list[torch.Tensor] = field(default_factory=list)
    rescued: list[Place] = field(default_factory=list)
    sizes: list[int | None] = field(default_factory=list)
    drawn: int = 0

    def answer(self, call: int, patches: torch.Tensor, level: float, rows: Sequence[int]) -> torch.Tensor:
        return NETWORK(patches, level, rows)

    def latents(self, after: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Each phase's. after: the first phase's, to go on from it with the second."""
        phases = plan_phases(BASE, TARGET, "every")
        base, latents = draws(1, 1, 4, *BASE), []
        for phase in phases if after is None else phases[1:]:
            previous = upsample(base if after is None else after, phase.height_lat, phase.width_lat, wrap=self.wrap)
            after = with_statistics(self._phase(phase, previous), *statistics(base))
            latents.append(after)
        return latents

    def _phase(self, phase: Phase, previous: torch.Tensor) -> torch.Tensor:
        noise = draws(phase.number, *previous.shape)
        engine = build_engine(
            phase, previous, noise, window_lat=BASE, steps=STEPS, batch=self.batch, border=self.border, wrap=self.wrap
        )
        engine.generators = lambda step: self._generators(phase, step)
        model = Guided(self, engine, phase.number)
        sigmas = SCHEDULE.sigmas(STEPS).float()
        latent = sampling.sample_euler(model, engine.residual.noised(1.0, float(sigmas[0])), sigmas, disable=True)
        self.rescued += engine.fusion.rescued
        self.sizes.append(engine.fusion.batch.size)
        return latent

    def _generators(self, phase: Phase, step: int) -> list[torch.Generator]:
        self.drawn += 1
        return [step_generator(7, phase.number, step)]


class Guided:
    """The denoiser that a sampler calls: prompt and negative prompt through the fusion."""

    def __init__(self, run: Run, engine: PhaseEngine, phase: int):
        self.run, self.engine, self.phase = run, engine, phase

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = float(sigma[0])
        t = SCHEDULE.t(level)
        self.engine.before(x, t, 1.0, level)
        both = self.engine.fusion(
            x.repeat(2, 1, 1, 1), [0, 0], t, 1.0, self._predict(level), rescue=self._rescue(level)
        )
        prompt, negative = both
        return (negative + 3 * (prompt - negative))[None]

    def _predict(self, level: float) -> Predict:
        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            call = len(self.run.calls)
            self.run.calls.append((self.phase, self.engine.step, len(patches)))
            self.run.fault(call, patches)
            return self.run.answer(call, patches, level, rows)

        return predict

    def _rescue(self, level: float) -> Predict | None:
        given = self.run.rescue
        if given is None:
            return None

        def rescue(patch: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            self.run.alone.append(patch)
            answer = given(len(self.run.alone), patch)
            return NETWORK(patch, level, rows) if answer is None else answer

        return rescue
