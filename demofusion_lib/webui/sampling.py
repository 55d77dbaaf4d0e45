"""One phase on a sampler of our own making."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from modules import errors, rng, sd_samplers, shared

from ..core import Phase, PhaseEngine, PhaseFusion, WindowBatch
from ..plan import Plan
from .borrowing import guided_from_the_first, known_to, lent, unipc_of_order
from .checks import sampler_is_stochastic
from .choices import asking, names_in_phases
from .conditions import CropCorner
from .controlnet import ControlNet
from .denoiser import FusedModel, InstalledEngine, SamplerSeat
from .families import SigmaFamily, TimestepFamily, family_of, is_guided, plain_sampler, solver_name
from .forge import ForgeSeat, objects_of_phase
from .forge_controlnet import ForgeControlNet
from .guests import of_phase, sampler_left_behind
from .hypertile import HyperTile
from .masks import Masked
from .others import extension_of, failed_since
from .parts import of_forge, unet_of
from .placed import RegionConds
from .progress import Progress
from .prompts import Texts, activated, in_phases, may_change
from .refined import back_to_base_model
from .seats import Seat
from .tiling import Convolutions, as_they_are, wraps
from .watching import PhaseWatcher
from .wrapping import within, wrappers


class PhaseInterrupted(Exception):
    """The user pressed Interrupt or Skip within a phase."""


def tell_as_base(p: Any) -> None:
    """What the base image's sampler would have told in the infotext, in a run that goes on after it."""
    asked = asking(p)
    sampler = plain_sampler(asked)
    (sampler.get_sigmas if hasattr(sampler, "get_sigmas") else sampler.get_timesteps)(asked, p.steps)
    sampler.initialize(asked)
    for key, value in asked.extra_generation_params.items():
        p.extra_generation_params.setdefault(key, value)


def other_sampler(p: Any, used: Sequence[Any]) -> tuple[Any, bool]:
    """A sampler that is none of those already used, and whether another extension's had to be passed over for it.

    Another extension may have replaced the host's `create_sampler`. What it makes is taken, but one that it returns
    again and again is set up for the base image (Tiled Diffusion's is bound to its tiles): then ours is made as the host
    makes one.
    """
    sampler = sd_samplers.create_sampler(p.sampler_name, p.sd_model)
    if not any(sampler is one for one in used):
        return sampler, False
    return plain_sampler(p), True


class PhaseSampler:
    """Samples the phases of one batch."""

    def __init__(
        self, p: Any, plan: Plan, batch: WindowBatch, progress: Progress, tell: Callable[[str], None],
        control: ControlNet, mask: Masked | None = None,
        condition: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):  # fmt: skip
        """condition: of a latent behind the mask, what the model is told of it."""
        self.control = control
        self.p = p
        self.mask, self.condition = mask, condition
        self.plan = plan
        self.batch = batch
        self.progress = progress
        self.tell = tell
        self.hypertile = HyperTile(p)
        self.used = [p.sampler]
        self.forge = of_forge(p.sd_model) is not None
        self.new_model = back_to_base_model(p)
        if p.sampler is None:
            tell_as_base(p)
        self.texts = Texts.of(p, plan.params)

    def networks(self) -> AbstractContextManager[None]:
        """The extra networks that the phases' prompts name, for as long as they are drawn."""
        return activated(self.p, self.texts.networks)

    def __call__(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The phase's latent, before it is brought back to phase 1's statistics. Raises PhaseInterrupted."""
        with self.progress.phase(phase), lent(self.p), self.hypertile.lent(), self.control.phase(phase, before):
            self._set_conditions(phase)
            return self._sample(phase, previous, before)

    def _set_conditions(self, phase: Phase) -> None:
        """Prompts encoded for the phase's own number of evaluations, for its place in the run and the size that SDXL is told."""
        p, steps, texts = self.p, self.plan.phase_steps, self.texts
        p.cfg_scale = self.plan.params.cfg_in_phases(p.cfg_scale)
        p.prompts, p.negative_prompts = texts.prompts, texts.negatives
        p.refiner_checkpoint_info = None
        before = p.steps, p.sampler_name
        p.sampler_name, p.scheduler = names_in_phases(p, self.plan.params)
        behind = sampler_left_behind(before[1], p.sampler_name)
        if behind:
            self.tell(f"{behind} draws in the base image only, as the phases have a sampler of their own")
        self._set_regions(steps, self.plan.told_px(phase))
        same = (steps, p.sampler_name) == before or not may_change((*p.prompts, *p.negative_prompts))
        if not self._move_times() and same and not texts.own and not p.sd_model.is_sdxl and not self.new_model:
            p.steps = steps
            return
        base = p.height, p.width
        p.steps = steps
        p.height, p.width = self.plan.told_px(phase)
        p.cached_c, p.cached_uc = [None, None], [None, None]
        p.setup_conds()
        self.control.mark(p)
        p.height, p.width = base

    def _set_regions(self, steps: int, told_px: tuple[int, int]) -> None:
        """The prompts of parts of the picture, encoded for the phase too."""
        p, texts = self.p, [region.prompt for region in self.plan.params.placed_prompts]
        if not shared.opts.use_old_scheduling:
            texts = [in_phases(text, p.firstpass_steps) for text in texts]
        before, p.steps = p.steps, steps
        self.regions = RegionConds(p, texts, told_px) if texts else None
        p.steps = before

    def _move_times(self) -> bool:
        """Whether the prompts switch at times that lie behind the base image."""
        p, before = self.p, (self.p.prompts, self.p.negative_prompts)
        if shared.opts.use_old_scheduling:
            return False
        p.prompts, p.negative_prompts = ([in_phases(text, p.firstpass_steps) for text in texts] for texts in before)
        return (p.prompts, p.negative_prompts) != before

    def _sample(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        p = self.p
        p.rng = rng.ImageRNG(
            previous.shape[1:], p.seeds, subseeds=p.subseeds, subseed_strength=p.subseed_strength,
            seed_resize_from_h=p.seed_resize_from_h, seed_resize_from_w=p.seed_resize_from_w,
        )  # fmt: skip
        noise = p.rng.next().to(previous.dtype)
        sampler, passed_over = other_sampler(p, self.used)
        p.sampler = sampler
        self.used.append(sampler)
        self._tell_of_others(passed_over)
        if self.mask is not None:
            self.mask.lend(self.mask.latent(phase.height_lat, phase.width_lat))
        with objects_of_phase(p) if self.forge else contextlib.nullcontext():
            if p.scripts is not None:
                p.scripts.process_before_every_sampling(p=p, x=previous, noise=noise, c=p.c, uc=p.uc)
            if self.forge and p.modified_noise is not None:
                noise, p.modified_noise = p.modified_noise.to(noise), None
            return self._sample_from(phase, previous, before, noise, sampler)

    def _sample_from(
        self, phase: Phase, previous: torch.Tensor, before: torch.Tensor, noise: torch.Tensor, sampler: Any
    ) -> torch.Tensor:
        p, steps, start_t = self.p, self.p.steps, self.plan.start_t
        family = family_of(sampler)
        engine = self.plan.engine(
            phase, previous, before, noise, list(p.seeds),
            stochastic=sampler_is_stochastic(p, sampler), batch=self.batch, solver=solver_name(sampler),
            guided=self._guided(sampler),
        )  # fmt: skip
        start = family.start(sampler, p, steps, engine.residual, start_t)
        image_conditioning = self._image_conditioning(previous)
        watcher = PhaseWatcher(self.progress, phase, self.hypertile, steps)
        records = list(errors.exception_records)
        late = family.late(sampler, p, steps, start_t)
        engine.fusion.together = self._has_guests()
        installed = InstalledEngine(
            sampler, family, engine, self._seat(sampler, family, engine, watcher), watcher, late
        )
        try:
            outside = previous if self.mask is not None else None
            with of_phase(), unipc_of_order(steps), guided_from_the_first(), known_to(sampler, outside):
                latent = sampler.sample(p, start, p.c, p.uc, steps=steps, image_conditioning=image_conditioning)
        finally:
            installed.take_off()
            self._tell_of_faults(engine.fusion)
            for name, why in failed_since(records).items():
                self.tell(f"the extension {name} failed in the phases, which were drawn without it ({why})")
        if installed.interrupted:
            raise PhaseInterrupted
        return latent

    def _seat(
        self, sampler: Any, family: SigmaFamily | TimestepFamily, engine: PhaseEngine, watcher: PhaseWatcher
    ) -> Seat:
        p, base_lat = self.p, self.plan.base_lat
        corner = CropCorner.of(p.sd_model, (shared.opts.sdxl_crop_top, shared.opts.sdxl_crop_left))
        padding = Convolutions(p.sd_model).suited_to if wraps(p) else as_they_are
        if isinstance(self.control, ForgeControlNet):
            return ForgeSeat(
                p.sd_model, engine, corner, watcher, padding, base_lat, self.regions, self.control.linked, self.tell
            )
        return SamplerSeat(
            sampler, FusedModel(family, engine, corner, watcher, padding, base_lat, self.control, self.regions)
        )

    def blended(self, latent: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """What a phase behind a mask ends with: `previous` outside of it."""
        assert self.mask is not None
        return self.mask.blended(latent, previous, self.mask.latent(latent.shape[-2], latent.shape[-1]))

    def _guided(self, sampler: Any) -> bool:
        """Whether the negative prompt has a say: also where the weights of a prompt's parts don't add up to 1."""
        weights = (sum(part.weight for part in parts) for parts in self.p.c.batch)
        return is_guided(solver_name(sampler), self.p.cfg_scale) or any(abs(weight - 1) > 1e-6 for weight in weights)

    def _tell_of_faults(self, fusion: PhaseFusion) -> None:
        """What went wrong in a phase and was mended."""
        if self.batch.reduced is not None:
            tried, since = self.batch.reduced
            self.tell(f"memory ran out with {tried} windows at once, {since} since")
        if fusion.rescued:
            count = f"{len(fusion.rescued)} windows were" if len(fusion.rescued) > 1 else "1 window was"
            how = "" if self.forge else " in 32-bit"
            self.tell(f"{count} NaN and drawn again{how} in phase {fusion.phase.number}")

    def _tell_of_others(self, sampler_passed_over: bool) -> None:
        """What other extensions do to the base image that they can't do, or do once more, in the phases."""
        model = self.p.sd_model
        apply = vars(model).get("apply_model")
        own = apply is None or getattr(apply, "__func__", None) is getattr(type(model), "apply_model", None)
        if not own:
            self.tell(f"{extension_of(apply)} takes part in every window of the phases, as it does in the base image")
        elif sampler_passed_over:
            self.tell(f"{extension_of(sd_samplers.create_sampler)} draws in the base image only")
        for wrapper in wrappers(unet_of(model), self.control.network):
            self.tell(f"what {extension_of(wrapper)} does to the UNet it does to every window as to a whole picture")

    def _has_guests(self) -> bool:
        """Whether others have changed parts of the UNet. Some of them tell prompts from negative prompts by the place of a
        row in the call, so that calls must be as the host's own are; and each takes a window for the whole picture."""
        model, control = self.p.sd_model, self.control.network
        passed = extension_of(control) if control is not None else ""
        names = {extension_of(function) for function in within(unet_of(model))} - {passed}
        for name in sorted(names):
            self.tell(f"what {name} does within the UNet it does to every window as to a whole picture")
        return bool(names)

    def _image_conditioning(self, previous: torch.Tensor) -> torch.Tensor:
        """The host's own for the base size, enlarged: encoding an empty image at the target size would cost a VAE pass."""
        if self.mask is not None and self.condition is not None:
            return self.condition(previous)
        plane = self.p.txt2img_image_conditioning(previous)
        if plane.ndim == 4 and plane.shape[-1] > 1:
            return F.interpolate(plane, size=previous.shape[-2:], mode="nearest-exact")
        return plane
