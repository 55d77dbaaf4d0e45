"""What a run is made of: its phases, each phase's windows, evaluations, sizes told, latents and engine.

Asked by both hosts, the laboratory and whoever wants to know what a run costs before it begins. No model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from .core import (
    ALONE,
    Enlarge,
    FromPicture,
    Guidance,
    InLatent,
    InPixels,
    Paste,
    Phase,
    PhaseEngine,
    PhaseFusion,
    PlacedPrompts,
    Residual,
    Share,
    SkipResidual,
    Strength,
    Weights,
    WindowBatch,
    WindowGrid,
    X0Residual,
    is_countable,
    step_generator,
    step_starts,
)
from .params import Params
from .targets import LATENT_PX, size_text

LATENT_CHANNELS = 4
UNGUIDED = Guidance(until=math.inf)

Code = Callable[[torch.Tensor], torch.Tensor]
Levels = Callable[[int, float | None], Sequence[float]]
"""`levels(steps, start)`: the training timestep of each evaluation of a sampling in so many steps from timestep `start`,
None for the whole schedule (`core.evaluated_sigmas`)."""


@dataclass(frozen=True)
class Plan:
    """Of one picture or batch of pictures.

    drawn_lat: `(height, width)` of the base image as it is drawn, which is the windows' size too.
    steps: the base image's. solver: the sampler's function by name, as `core.solvers` knows it.
    phase_solver, levels_of_phases: of the phases, where their sampler or schedule is another than the base image's.
    images: how many at once. passes: rows that each image takes in an evaluation, prompt and negative prompt say.
    passes_of_phases: in the phases, where they take others: 1 without guidance. alone: phase 1's evaluations without a negative.
    wrap: seamless pictures.
    picture_lat: `(height, width)` of the part of a given picture that is enlarged, None where a base image is drawn. Then
    `drawn_lat` is the model's native size, of which the windows' size is found. strength: how far to depart from it, 0 to 1.
    masked_levels: the timesteps of phase 1's evaluations, where part of the picture stays as it is: what is drawn of it is drawn
    at its own size first. None: it is all drawn, and in the phases alone.

    Raises SettingsError for a target that can't be reached.
    """

    params: Params
    drawn_lat: tuple[int, int]
    steps: int
    solver: str
    levels: Levels
    images: int = 1
    passes: int = 2
    alone: int = 0
    wrap: bool = False
    phase_solver: str = ""
    levels_of_phases: Levels | None = None
    passes_of_phases: int = 0
    picture_lat: tuple[int, int] | None = None
    strength: float = 1.0
    masked_levels: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _ = self.climb

    @cached_property
    def climb(self) -> tuple[tuple[int, int], list[Phase]]:
        if self.picture_lat is not None:
            return self.params.picture_phases(self.picture_lat, math.isqrt(self.drawn_lat[0] * self.drawn_lat[1]))
        return self.params.phases(self.drawn_lat)

    @property
    def base_lat(self) -> tuple[int, int]:
        """`(height, width)` of the part of the base latent to climb from; of a given picture, the windows' size."""
        return self.climb[0]

    @property
    def window_lat(self) -> tuple[int, int]:
        return self.drawn_lat if self.picture_lat is None else self.base_lat

    @property
    def first_lat(self) -> tuple[int, int]:
        """What phase 1 ends with, before it is cropped."""
        return self.drawn_lat if self.picture_lat is None else self.picture_lat

    @property
    def departure(self) -> Strength:
        return Strength(self.strength)

    @property
    def start_t(self) -> float | None:
        """The timestep that the phases begin at; None for the sampler's own whole schedule."""
        return self.departure.start_t(self.params.start_t)

    @property
    def weights(self) -> Weights:
        return self.departure.weights(self.params.weights)

    @property
    def phases(self) -> list[Phase]:
        """Those after the base image; none at scale 1."""
        return self.climb[1]

    @property
    def phase_passes(self) -> int:
        return self.passes_of_phases or self.passes

    @property
    def phase_steps(self) -> int:
        return self.departure.steps(self.params.steps or self.steps, self.start_t)

    def grid(self, phase: Phase) -> WindowGrid:
        params = self.params
        return WindowGrid(
            phase.height_lat, phase.width_lat, self.window_lat,
            overlap=params.overlap, jitter=params.jitter, border=params.border, wrap=self.wrap,
        )  # fmt: skip

    def views(self, phase: Phase) -> tuple[int, int]:
        """How many local windows and dilated sub-images an image has in a phase."""
        if phase not in self._views:  # asked for each of its evaluations
            self._views[phase] = len(self.grid(phase)), phase.dilation**2
        return self._views[phase]

    @cached_property
    def _views(self) -> dict[Phase, tuple[int, int]]:
        return {}

    def placed(self, phase: Phase) -> PlacedPrompts | None:
        """The prompts of parts of the picture in a phase; None where there are none."""
        regions = self.params.placed_prompts
        if regions and phase not in self._placed:
            self._placed[phase] = PlacedPrompts(regions, (phase.height_lat, phase.width_lat))
        return self._placed.get(phase)

    @cached_property
    def _placed(self) -> dict[Phase, PlacedPrompts]:
        return {}

    def told_px(self, phase: Phase) -> tuple[int, int]:
        """The `(height, width)` in pixels that SDXL is told in a phase."""
        if self.params.sdxl_size == "base":
            return self.base_lat[0] * LATENT_PX, self.base_lat[1] * LATENT_PX
        told = self.phases[-1] if self.params.sdxl_size == "final" else phase
        return told.height_lat * LATENT_PX, told.width_lat * LATENT_PX

    @cached_property
    def _base_evaluations(self) -> int:
        return len(self.levels(self.steps, None))

    @property
    def unit_evaluations(self) -> int:
        """Rows that the model is given for base images."""
        return self._rows_of(self._base_evaluations)

    @property
    def base_evaluations(self) -> int:
        """Rows that the model is given in phase 1."""
        if self.picture_lat is None:
            return self.unit_evaluations
        return self._rows_of(len(self.masked_levels or ())) if self.strength > 0 else 0

    def _rows_of(self, evaluations: int) -> int:
        """Of phase 1, or of a base image."""
        return self.images * (self.passes * evaluations - min(self.alone, evaluations))

    @property
    def masked(self) -> bool:
        return self.masked_levels is not None

    @property
    def first_steps(self) -> int:
        """Of phase 1."""
        if self.picture_lat is None:
            return self.steps
        return min(len(self.masked_levels or ()), self.steps) if self.strength > 0 else 0

    @cached_property
    def phase_levels(self) -> Sequence[float]:
        """The training timesteps of a phase's evaluations; none where the picture is enlarged and nothing else."""
        if self.strength == 0:
            return []
        return (self.levels_of_phases or self.levels)(self.phase_steps, self.start_t)

    def rows(self, phase: Phase, t: float) -> int:
        """That the model is given for an image in an evaluation at `t`: windows and sub-images, less the paths that have no
        weight, with what guides them."""
        local, dilated = self.views(phase)
        c2 = self.params.weights.c2(t)
        patches = (local if c2 < 1 else 0) + (dilated if c2 > 0 else 0)
        prompts = self.placed(phase)
        if prompts is None:
            return self.params.guiding.rows(patches, self.phase_passes, t)
        of_windows, of_sub_images = (
            prompts.of_windows(self.grid(phase)),
            prompts.of_sub_images(phase.dilation, wrap=self.wrap),
        )
        placed = (sum(map(len, of_windows)) if c2 < 1 else 0) + (sum(map(len, of_sub_images)) if c2 > 0 else 0)
        return self.params.guiding.rows(patches, self.phase_passes, t, placed, len(prompts.whole))

    def evaluations(self, phase: Phase) -> int:
        """Rows that the model is given in a phase."""
        if phase not in self._evaluations:
            self._evaluations[phase] = self.images * sum(self.rows(phase, t) for t in self.phase_levels)
        return self._evaluations[phase]

    @cached_property
    def _evaluations(self) -> dict[Phase, int]:
        return {}

    @property
    def total_evaluations(self) -> int:
        return self.base_evaluations + sum(self.evaluations(phase) for phase in self.phases)

    @property
    def units(self) -> float:
        """The evaluations of the whole run over a base image's."""
        return self.total_evaluations / self.unit_evaluations

    def engine(
        self, phase: Phase, previous: torch.Tensor, before: torch.Tensor, noise: torch.Tensor, seeds: Sequence[int],
        *, stochastic: bool, batch: WindowBatch | None = None, solver: str = "", weights: Weights | None = None,
        guided: bool = True, share: Share = ALONE,
    ) -> PhaseEngine:  # fmt: skip
        """Of one phase: for the latent of the phase before, upsampled and as it was, and the phase's noise.

        previous, noise: `(images, 4, height, width)` of the phase. before: `(images, 4, height, width)` of the one before.

        stochastic: whether the sampler puts noise of its own into the latent. batch: the run's own; what it has learnt of
        memory holds for all phases. solver, weights: where they are not the plan's own. guided: whether a negative prompt
        that a host brings along, though it takes no part at CFG 1, is asked. share: who asks the model what.
        """
        params, weights = self.params, weights or self.weights
        residual: Residual
        if params.residual == "x0":
            residual = X0Residual(previous, noise, before, weights, wrap=self.wrap)
        else:
            residual = SkipResidual(previous, noise, weights, normalise=params.step_normalised, stochastic=stochastic)
        fusion = PhaseFusion(
            phase, self.grid(phase), weights, blur=params.blur, batch=batch or WindowBatch(params.window_batch),
            wrap=self.wrap, window_weight=params.window_weight, share=share, prompts=self.placed(phase),
        )  # fmt: skip
        return PhaseEngine(
            residual, fusion, step_starts(solver or self.phase_solver or self.solver, self.phase_steps),
            lambda step: [step_generator(seed, phase.number, step) for seed in seeds],
            params.guiding if guided else UNGUIDED,
        )  # fmt: skip

    def enlarge(self, decode: Code, encode: Code, paste: Paste | None = None) -> Enlarge:
        """How a phase gets what the one before ended with. decode, encode, paste: the host's, of one picture (`core.InPixels`)."""
        return self._enlargement(decode, encode, paste)

    def _enlargement(self, decode: Code, encode: Code, paste: Paste | None = None) -> InLatent | InPixels:
        if self.params.enlarge == "pixels":
            return InPixels(decode, encode, LATENT_PX, self.wrap, paste)
        return InLatent(self.wrap)

    def enlarge_picture(self, decode: Code, encode: Code, base: torch.Tensor, picture: torch.Tensor) -> Enlarge:
        """`enlarge` of given pictures `(1 or images, 3, height, width)` in [-1, 1], of which `base` is the latent."""
        return FromPicture(base, picture, self._enlargement(decode, encode))

    def picture_notes(self, size_px: tuple[int, int]) -> Iterator[str]:
        """What is done with a given picture of `(height, width)`, for its user."""
        part, window = self.first_lat, self.window_lat
        if (part[0] * LATENT_PX, part[1] * LATENT_PX) != size_px:
            yield f"of the picture's {size_px[1]}x{size_px[0]} px the middle {size_text(*part)} are enlarged"
        if not self.phases and not self.masked:
            yield "nothing is drawn, as the picture is as large as the target"
        elif self.strength == 0:
            how = "as it would be pasted" if self.masked else "by bicubic interpolation"
            yield f"nothing is drawn, as the strength is 0: the picture is enlarged {how}"
        elif window[0] * window[1] > part[0] * part[1]:
            yield f"the picture is below the model's size and is drawn at {size_text(*window)} first"
        elif window != part:
            yield f"the picture is above the model's size and is drawn through windows of {size_text(*window)}"

    def latent_bytes(self, phase: Phase, itemsize: int = 4) -> int:
        """One latent of the phase's size for every image."""
        return self.images * LATENT_CHANNELS * phase.height_lat * phase.width_lat * itemsize

    @property
    def is_exact(self) -> bool:
        """Whether the run's evaluations are these. DPM adaptive alone takes as many as the picture asks for."""
        solvers = [self.solver, *([self.phase_solver or self.solver] if self.phases else [])]
        return all(map(is_countable, solvers))

    def _drawn_views(self, phase: Phase) -> tuple[int, int]:
        """`views`, 0 of a path that no step draws."""
        local, dilated = self.views(phase)
        shares = [self.params.weights.c2(t) for t in self.phase_levels]
        return local * any(c2 < 1 for c2 in shares), dilated * any(c2 > 0 for c2 in shares)

    def report(self) -> dict[str, Any]:
        """For a reader: `phases` from the base image on, and `units`."""
        height, width = self.first_lat
        drawn = int(self.base_evaluations > 0)
        base = {"phase": 1, "width": width * LATENT_PX, "height": height * LATENT_PX, "windows": drawn, "sub_images": 0}
        phases = [{**base, "evaluations": self.base_evaluations}]
        for phase in self.phases:
            local, dilated = self._drawn_views(phase)
            phases.append({
                "phase": phase.number, "width": phase.width_lat * LATENT_PX, "height": phase.height_lat * LATENT_PX,
                "windows": local, "sub_images": dilated, "evaluations": self.evaluations(phase),
            })  # fmt: skip
        return {
            "phases": phases,
            "evaluations": self.total_evaluations,
            "units": round(self.units, 3),
            "exact": self.is_exact,
        }
