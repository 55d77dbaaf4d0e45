"""A drawing whose phase 1 is a borrowed pipeline's own, and whose phases are its sampler's, told to the caller step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import torch

from ..core import Phase, PhaseEngine, centre_crop, statistics, step_starts
from .drawing import Drawing, Finished, Order
from .guidance import Guided, passes
from .lending import Lender
from .models import LATENT_CHANNELS
from .prompts import Encoded
from .ranks import check_shared, of_program, use
from .samplers import Solver

OnStep = Callable[[int, int, float, torch.Tensor], None]
"""`on_step(phase, step, t, x)`: at the end of a step, with the sampler's own latent, which may be changed in place."""


class Borrowed(Drawing):
    """Raises what `Drawing` raises. callback: of phase 1, as diffusers calls it. on_step: of the phases.

    The seeds of the phases' noise are drawn from the caller's generators, behind what phase 1 takes of them: one for each
    image, so that an image depends on its generator alone.
    """

    def __init__(self, lender: Lender, order: Order, callback: object = None, on_step: OnStep | None = None):
        self.lender, self.callback, self.on_step = lender, callback, on_step
        model, ranks = lender.model(), of_program()
        use(ranks, model.device)
        super().__init__(model, order, ranks=ranks)
        check_shared(ranks, {self.phase_sampler.name: self.phase_sampler.solver})

    def _encode(self) -> None:
        order, texts = self.order, self.lender.asked.texts
        guided = passes(self.model, order.guidance_in_phases) == 2
        if order.params.phase_prompt:
            texts = texts.with_prompt(order.params.phase_prompt)
        if order.params.phase_negative:
            texts = texts.with_negative(order.params.phase_negative)
        self.phase_cond, self.phase_uncond = self.lender.encode(texts, guided=guided)
        self.cond, self.uncond = self.phase_cond, self.phase_uncond
        regions = [texts.with_prompt(region.prompt) for region in order.params.placed_prompts]
        encoded = [self.lender.encode(text, guided=False)[0] for text in regions]
        self.regions = Encoded.joined(encoded) if encoded else None
        if self.picture is not None:
            self._draw_seeds()

    def _base(self) -> Finished:
        begun = perf_counter()
        latent = self._first()
        self._draw_seeds()
        seconds = perf_counter() - begun
        return Finished(
            1, latent, self.plan.base_evaluations, seconds, statistics(centre_crop(latent, *self.plan.base_lat))
        )

    def _first(self) -> torch.Tensor:
        """The pipeline's own latent; where several processes draw, the first one's."""

        def draw() -> torch.Tensor:
            return self.lender.first(self.callback).to(self.model.device)

        if self.ranks is None:
            return draw()
        height, width = self.order.base_lat
        like = torch.empty(len(self.order.prompts), LATENT_CHANNELS, height, width, device=self.model.device)
        return self.ranks.made_once(draw, like)

    def _draw_seeds(self) -> None:
        def draw() -> list[int]:
            return seeds_from(self.lender.asked.generator, len(self.order.prompts))

        self.order = replace(self.order, seeds=draw() if self.ranks is None else self.ranks.told(draw))

    def _phase(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        with self.lender.controls.there() if self.lender.controls else contextlib.nullcontext():
            return super()._phase(phase, previous, before)

    def _engine(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> PhaseEngine:
        engine = super()._engine(phase, previous, before)
        self.told = StepTeller(engine, phase.number, self.phase_sampler.solver, self.plan.phase_steps, self.on_step)
        return engine

    def _sample(self, guided: Guided, x: torch.Tensor, solver: Solver, phase: int) -> torch.Tensor:
        latent = super()._sample(guided, x, solver, phase)
        self.told.ended(latent)
        return latent


class StepTeller:
    """Tells at a step's first evaluation that the one before it has ended, and with what."""

    def __init__(self, engine: PhaseEngine, phase: int, solver: str, steps: int, on_step: OnStep | None):
        self.phase, self.on_step = phase, on_step
        self.starts, self.step, self.t = step_starts(solver, steps), -1, 0.0
        before = engine.before

        def told(x: torch.Tensor, t: float, alpha: float, sigma: float) -> None:
            if next(self.starts, True):
                self.ended(x)
                self.step, self.t = self.step + 1, t
            before(x, t, alpha, sigma)

        engine.before = told  # type: ignore[method-assign]

    def ended(self, x: torch.Tensor) -> None:
        if self.on_step is not None and self.step >= 0:
            self.on_step(self.phase, self.step, self.t, x)


def seeds_from(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """One for each image: of its own generator, or in turn of the one that there is, torch's if there is none."""
    each = [generator] * count if generator is None or isinstance(generator, torch.Generator) else generator
    return [_seed(one) for one in each]


def _seed(generator: torch.Generator | None) -> int:
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64, generator=generator, device=device))
