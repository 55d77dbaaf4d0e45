"""One picture or a batch of them: the base image, then the phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch

from ..core import (
    ALONE,
    Enlarge,
    Phase,
    PhaseEngine,
    WindowBatch,
    centre_crop,
    climb,
    held,
    statistics,
    step_generator,
    upsample,
)
from ..memory import window_batch
from ..params import Params
from ..plan import LATENT_CHANNELS, Plan
from ..ranks import Ranks
from ..saved import SavedPhase
from ..setting import SettingsError
from ..targets import LATENT_PX
from .controls import Control, Shown, Steering
from .decoding import Way, latent_of, pixels_of
from .guidance import Guided, Progress, SizeTold, passes
from .models import Model
from .names import AUTOMATIC, Sampler, find_phase_sampler, find_sampler
from .prompts import encode, encode_negative
from .samplers import Schedule, Solver

PHASE_NOISE, SAMPLER_NOISE = -1, -2  # beside the steps 0, 1, 2, ... in `step_generator`


@dataclass(frozen=True)
class Order:
    """What to draw: one image for each prompt and seed, all of one size.

    width_px, height_px: the base image's, multiples of 8. guidance: CFG scale, 1 for none.
    picture: `(3, height, width)` in [-1, 1], in place of a base image; then width_px and height_px say nothing. strength: how
    far to depart from it, 0 to 1. controls: ControlNets, whose hints show what the base image or the picture does.
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
    picture: torch.Tensor | None = None
    strength: float = 1.0
    controls: Sequence[Control] = ()

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
    picture: `(batch, 3, 8 height, 8 width)` in [-1, 1] where it is not decoded but known; without a latent (on torch's device
    `meta`) where none was made.
    """

    number: int
    latent: torch.Tensor
    evaluations: int
    seconds: float
    anchor: tuple[torch.Tensor, torch.Tensor]
    picture: torch.Tensor | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """`(width, height)`."""
        return self.latent.shape[-1] * LATENT_PX, self.latent.shape[-2] * LATENT_PX


def size_of(picture: torch.Tensor) -> tuple[int, int]:
    """`(height, width)`."""
    return picture.shape[-2], picture.shape[-1]


@dataclass
class Drawing:
    """Checks the order when it is made; `phases` draws.

    saved: a finished phase of the same order, to go on from. way: how phases that begin from pixels get them. ranks: of the
    processes that draw it together; None where this one does alone.
    """

    model: Model
    order: Order
    progress: Progress = lambda rows: None
    saved: SavedPhase | None = None
    way: Way | None = None
    ranks: Ranks | None = None
    sampler: Sampler = field(init=False)
    phase_sampler: Sampler = field(init=False)
    plan: Plan = field(init=False)
    batch: WindowBatch = field(init=False)
    rows_before: int = field(init=False)

    def __post_init__(self) -> None:
        order = self.order
        if order.params.tile_units:
            raise SettingsError("tile_units is True, allowed: False, as its units are those of the webui's ControlNet")
        self.sampler, self.scheduler = find_sampler(order.sampler, order.scheduler)
        own = find_phase_sampler(order.params, order.sampler, order.scheduler)
        self.phase_sampler, self.phase_scheduler = own
        self.schedule = Schedule(self.model.alphas_cumprod)
        self._solver(order.steps)
        self._phase_solver(order.params.steps or order.steps, order.params.start_t)
        self.picture, base_lat, own_lat = None, order.base_lat, None
        if order.picture is not None:
            native, own_lat = self.model.native_px // LATENT_PX, order.params.picture_lat(size_of(order.picture))
            base_lat, own_px = (native, native), (own_lat[0] * LATENT_PX, own_lat[1] * LATENT_PX)
            self.picture = centre_crop(order.picture, *own_px)[None].to(self.model.device)
        self.plan = Plan(
            order.params, base_lat, order.steps, self.sampler.solver, lambda steps, start: self._solver(steps).levels_t(),
            images=len(order.prompts), passes=passes(self.model, order.guidance), phase_solver=self.phase_sampler.solver,
            passes_of_phases=passes(self.model, order.guidance_in_phases),
            levels_of_phases=lambda steps, start: self._phase_solver(steps, start).levels_t(),
            picture_lat=own_lat, strength=order.strength,
        )  # fmt: skip
        self.batch = window_batch(order.params.window_batch, self.model.device)
        self.rows_before = sum(self.ranks.rows) if self.ranks else 0

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
        sizes = {1: self.plan.first_lat, **{p.number: (p.height_lat, p.width_lat) for p in self.plan.phases}}
        return saved.latent.shape == (len(self.order.seeds), LATENT_CHANNELS, *sizes.get(saved.number, ()))

    @torch.no_grad()
    def phases(self) -> Iterator[Finished]:
        """The base image's latent, and each phase's as soon as it is finished; or the saved one's, and those after it."""
        order = self.order
        self._encode()
        if self.picture is not None and order.strength == 0:
            yield from self._enlarged(self.picture)
            return
        done = self._saved() if self.saved else self._base() if self.picture is None else self._given(self.picture)
        yield done
        base = done.latent
        if done.number == 1 and self.picture is None:
            base = centre_crop(base, *self.plan.base_lat)
        begun = perf_counter()
        coming = [phase for phase in self.plan.phases if phase.number > done.number]
        for phase, latent in climb(base, coming, self._phase, enlarge=self._enlarge(done), anchor=done.anchor):
            yield Finished(phase.number, latent, self.evaluations, perf_counter() - begun, done.anchor)
            begun = perf_counter()

    def _encode(self) -> None:
        order, count = self.order, len(self.order.prompts)
        own, own_negative = order.params.phase_prompt, order.params.phase_negative
        self.cond = encode(self.model, order.prompts)
        self.uncond = encode_negative(self.model, [order.negative] * count)
        self.phase_cond = encode(self.model, [own] * count) if own else self.cond
        self.phase_uncond = encode_negative(self.model, [own_negative] * count) if own_negative else self.uncond
        regions = [region.prompt for region in order.params.placed_prompts for _ in range(count)]
        self.regions = encode(self.model, regions) if regions else None

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
            self.model, self.cond, self.uncond, self.order.guidance, SizeTold(size_px, size_px), progress=self.progress,
            share=self.ranks or ALONE,
            steering=self.steering(self.order.base_lat),
        )  # fmt: skip
        noise = self._noise(*self.order.base_lat, 1)
        latent = self._sample(guided, solver.from_noise(noise), solver, 1)
        anchor = statistics(centre_crop(latent, *self.plan.base_lat))
        return Finished(1, latent, self._evaluated(guided), perf_counter() - begun, anchor)

    def _evaluated(self, guided: Guided) -> int:
        """Rows of a phase, by whichever process."""
        if self.ranks is None:
            return guided.evaluations
        before, self.rows_before = self.rows_before, sum(self.ranks.rows)
        return self.rows_before - before

    def _saved(self) -> Finished:
        assert self.saved is not None
        latent, mean, deviation = (t.to(self.model.device) for t in (self.saved.latent, *self.saved.anchor))
        picture = self.picture if self.saved.number == 1 else None
        return Finished(self.saved.number, latent, 0, 0.0, (mean, deviation), picture)

    def _given(self, picture: torch.Tensor) -> Finished:
        """The picture in place of phase 1."""
        begun = perf_counter()
        latent = latent_of(self.model, picture, self._way).repeat(len(self.order.seeds), 1, 1, 1)
        return Finished(1, latent, 0, perf_counter() - begun, statistics(latent), picture)

    def _enlarged(self, picture: torch.Tensor) -> Iterator[Finished]:
        """Nothing but the picture, at the sizes of the phases: no latent, no network."""
        sizes = [(1, self.plan.first_lat), *((p.number, (p.height_lat, p.width_lat)) for p in self.plan.phases)]
        for number, (height, width) in sizes:
            begun = perf_counter()
            larger = upsample(picture, height * LATENT_PX, width * LATENT_PX).clamp_(-1, 1)
            latent = torch.empty(len(self.order.seeds), LATENT_CHANNELS, height, width, device="meta")
            yield Finished(number, latent, 0, perf_counter() - begun, statistics(latent), larger)

    def held(self, pixels: torch.Tensor) -> torch.Tensor:
        """A phase's decoded picture `(1, 3, height, width)`, held to the given one as its strength says."""
        return pixels if self.picture is None else held(pixels, self.picture, self.plan.departure.hold)

    def _phase(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        solver = self._phase_solver(self.plan.phase_steps, self.plan.start_t)
        engine = self._engine(phase, previous, before)
        told = SizeTold(self.plan.told_px(phase), self.plan.told_px(phase))
        guided = Guided(
            self.model, self.phase_cond, self.phase_uncond, self.order.guidance_in_phases, told,
            engine=engine, base_lat=self.plan.base_lat, progress=self.progress, share=self.ranks or ALONE, regions=self.regions,
            steering=self.steering((phase.height_lat, phase.width_lat), self.plan.base_lat),
        )  # fmt: skip
        start = engine.residual.noised(solver.start.alpha, solver.start.sigma)
        latent = self._sample(guided, start, solver, phase.number)
        self.evaluations = self._evaluated(guided)
        return latent

    def steering(self, size_lat: tuple[int, int], part_lat: tuple[int, int] | None = None) -> Steering:
        """Of a phase of `size_lat`, which shows the middle `part_lat` of the base image, or all; `(height, width)` in cells."""
        whole = self.order.base_lat
        part = part_lat or whole
        if self.order.picture is not None:
            whole, own_lat = size_of(self.order.picture), self.plan.first_lat
            part = own_lat[0] * LATENT_PX, own_lat[1] * LATENT_PX
        return Steering([Shown(one, one.plane(whole, part, size_lat)) for one in self.order.controls])

    @property
    def _way(self) -> Way:
        return replace(self.way or Way(self.order.params.vae), sharing=self.ranks)

    def _enlarge(self, first: Finished) -> Enlarge:
        def decode(latent: torch.Tensor) -> torch.Tensor:
            return pixels_of(self.model, latent, self._way)

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return latent_of(self.model, pixels, self._way)

        if first.picture is None:
            return self.plan.enlarge(decode, encode)
        return self.plan.enlarge_picture(decode, encode, first.latent, first.picture)

    def _engine(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> PhaseEngine:
        noise = self._noise(phase.height_lat, phase.width_lat, phase.number)
        return self.plan.engine(
            phase, previous, before, noise, self.order.seeds, stochastic=self.phase_sampler.stochastic, batch=self.batch,
            share=self.ranks or ALONE,
        )  # fmt: skip
