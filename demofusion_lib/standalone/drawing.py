"""One picture or a batch of them: the base image, then the phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch

from ..core import Enlarge, Phase, PhaseEngine, WindowBatch, centre_crop, climb, statistics, step_generator
from ..memory import window_batch
from ..params import LATENT_PX, Params
from ..plan import LATENT_CHANNELS, Plan
from ..saved import SavedPhase
from .decoding import Way, latent_of, pixels_of
from .guidance import Guided, Progress, SizeTold, passes
from .models import Model
from .prompts import encode, encode_negative
from .samplers import AUTOMATIC, Sampler, Schedule, Solver, find_phase_sampler, find_sampler

PHASE_NOISE, SAMPLER_NOISE = -1, -2  # beside the steps 0, 1, 2, ... in `step_generator`


@dataclass(frozen=True)
class Order:
    """What to draw: one image for each prompt and seed, all of one size.

    width_px, height_px: the base image's, multiples of 8. guidance: CFG scale, 1 for none.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    width_px: int
    height_px: int
    params: Params
    negative: str = ""
    steps: int = 20
    sampler: str = "Euler"
    scheduler: str = AUTOMATIC
    guidance: float = 5.0

    @property
    def guidance_in_phases(self) -> float:
        return self.params.cfg_in_phases(self.guidance)

    @property
    def base_lat(self) -> tuple[int, int]:
        return self.height_px // LATENT_PX, self.width_px // LATENT_PX


@dataclass(frozen=True)
class Finished:
    """A finished phase: `latent (batch, 4, height, width)`, the rows that the network evaluated and the seconds.

    anchor: phase 1's mean and deviation, `(batch, 1, 1, 1)`, which the next phase needs.
    """

    number: int
    latent: torch.Tensor
    evaluations: int
    seconds: float
    anchor: tuple[torch.Tensor, torch.Tensor]

    @property
    def size_px(self) -> tuple[int, int]:
        """`(width, height)`."""
        return self.latent.shape[-1] * LATENT_PX, self.latent.shape[-2] * LATENT_PX


@dataclass
class Drawing:
    """Checks the order when it is made; `phases` draws.

    saved: a finished phase of the same order, to go on from. way: how phases that begin from pixels get them.
    """

    model: Model
    order: Order
    progress: Progress = lambda rows: None
    saved: SavedPhase | None = None
    way: Way | None = None
    sampler: Sampler = field(init=False)
    phase_sampler: Sampler = field(init=False)
    plan: Plan = field(init=False)
    batch: WindowBatch = field(init=False)

    def __post_init__(self) -> None:
        order = self.order
        self.sampler, self.scheduler = find_sampler(order.sampler, order.scheduler)
        own = find_phase_sampler(order.params, order.sampler, order.scheduler)
        self.phase_sampler, self.phase_scheduler = own
        self.schedule = Schedule(self.model.alphas_cumprod)
        self._solver(order.steps)
        self._phase_solver(order.params.steps or order.steps, order.params.start_t)
        self.plan = Plan(
            order.params, order.base_lat, order.steps, self.sampler.solver, lambda steps, start: self._solver(steps).levels_t(),
            images=len(order.prompts), passes=passes(self.model, order.guidance), phase_solver=self.phase_sampler.solver,
            passes_of_phases=passes(self.model, order.guidance_in_phases),
            levels_of_phases=lambda steps, start: self._phase_solver(steps, start).levels_t(),
        )  # fmt: skip
        self.batch = window_batch(order.params.window_batch, self.model.device)

    def _solver(self, steps: int) -> Solver:
        return Solver(self.sampler, self.schedule, self.scheduler, steps)

    def _phase_solver(self, steps: int, start_t: float | None) -> Solver:
        return Solver(self.phase_sampler, self.schedule, self.phase_scheduler, steps, start_t)

    @property
    def last(self) -> int:
        """The last phase's number."""
        return self.plan.phases[-1].number if self.plan.phases else 1

    @property
    def evaluations_left(self) -> int:
        """Of the network, to come; all of them unless it goes on from a finished phase."""
        done = self.saved.number if self.saved else 0
        left = sum(self.plan.evaluations(phase) for phase in self.plan.phases if phase.number > done)
        return left if done else left + self.plan.base_evaluations

    def fits(self, saved: SavedPhase) -> bool:
        """Whether it is of the size that the order has in that phase."""
        sizes = {1: self.order.base_lat, **{p.number: (p.height_lat, p.width_lat) for p in self.plan.phases}}
        return saved.latent.shape == (len(self.order.seeds), LATENT_CHANNELS, *sizes.get(saved.number, ()))

    @torch.no_grad()
    def phases(self) -> Iterator[Finished]:
        """The base image's latent, and each phase's as soon as it is finished; or the saved one's, and those after it."""
        order, count = self.order, len(self.order.prompts)
        own, own_negative = order.params.phase_prompt, order.params.phase_negative
        self.cond = encode(self.model, order.prompts)
        self.uncond = encode_negative(self.model, [order.negative] * count)
        self.phase_cond = encode(self.model, [own] * count) if own else self.cond
        self.phase_uncond = encode_negative(self.model, [own_negative] * count) if own_negative else self.uncond
        done = self._saved() if self.saved else self._base()
        yield done
        base = centre_crop(done.latent, *self.plan.base_lat) if done.number == 1 else done.latent
        begun = perf_counter()
        coming = [phase for phase in self.plan.phases if phase.number > done.number]
        for phase, latent in climb(base, coming, self._phase, enlarge=self._enlarge(), anchor=done.anchor):
            yield Finished(phase.number, latent, self.evaluations, perf_counter() - begun, done.anchor)
            begun = perf_counter()

    def _noise(self, height_lat: int, width_lat: int, phase: int) -> torch.Tensor:
        shape = 4, height_lat, width_lat
        generators = [step_generator(seed, phase, PHASE_NOISE) for seed in self.order.seeds]
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.model.device)

    def _sample(self, guided: Guided, x: torch.Tensor, solver: Solver, phase: int) -> torch.Tensor:
        seeds = [step_generator(seed, phase, SAMPLER_NOISE).initial_seed() for seed in self.order.seeds]
        return solver.run(guided, x, seeds).contiguous()  # as a file gives it back

    def _base(self) -> Finished:
        """Phase 1, no engine in it."""
        begun, size_px = perf_counter(), (self.order.height_px, self.order.width_px)
        solver = self._solver(self.order.steps)
        guided = Guided(
            self.model, self.cond, self.uncond, self.order.guidance, SizeTold(size_px, size_px), progress=self.progress
        )
        noise = self._noise(*self.order.base_lat, 1)
        latent = self._sample(guided, solver.from_noise(noise), solver, 1)
        anchor = statistics(centre_crop(latent, *self.plan.base_lat))
        return Finished(1, latent, guided.evaluations, perf_counter() - begun, anchor)

    def _saved(self) -> Finished:
        assert self.saved is not None
        latent, mean, deviation = (t.to(self.model.device) for t in (self.saved.latent, *self.saved.anchor))
        return Finished(self.saved.number, latent, 0, 0.0, (mean, deviation))

    def _phase(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        solver = self._phase_solver(self.plan.phase_steps, self.order.params.start_t)
        engine = self._engine(phase, previous, before)
        told = SizeTold(self.plan.told_px(phase), self.plan.told_px(phase))
        guided = Guided(
            self.model, self.phase_cond, self.phase_uncond, self.order.guidance_in_phases, told,
            engine=engine, base_lat=self.plan.base_lat, progress=self.progress,
        )  # fmt: skip
        start = engine.residual.noised(solver.start.alpha, solver.start.sigma)
        latent = self._sample(guided, start, solver, phase.number)
        self.evaluations = guided.evaluations
        return latent

    def _enlarge(self) -> Enlarge:
        model, way = self.model, self.way or Way(self.order.params.vae)
        return self.plan.enlarge(
            lambda latent: pixels_of(model, latent, way), lambda pixels: latent_of(model, pixels, way)
        )

    def _engine(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> PhaseEngine:
        noise = self._noise(phase.height_lat, phase.width_lat, phase.number)
        return self.plan.engine(
            phase, previous, before, noise, self.order.seeds, stochastic=self.phase_sampler.stochastic, batch=self.batch
        )
