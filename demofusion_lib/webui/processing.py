"""The phases in the host's flow: after the base image is sampled, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from modules import devices, errors, shared
from modules.processing import DecodedSamples, decode_latent_batch

from .. import params
from ..core import Phase, centre_crop, climb
from ..params import LATENT_PX, Params, size_text
from .checks import check_model, check_sampler
from .formats import LIMITS_PX, too_large
from .kept import Kept, end_with, keep_images, saves
from .notes import tell, write
from .planning import latent_size, plan_of
from .progress import Progress
from .refusal import SettingsError, refusal
from .sampling import PhaseInterrupted, PhaseSampler

ATTRIBUTE = "demofusion_run"
STOPPED_KEY = "DemoFusion stopped"


@dataclass
class Run:
    """What one run of the host needs to know: checked settings, or the error that stops it."""

    params: Params | None
    error: SettingsError | None = None
    kept: Kept = field(default_factory=Kept)
    notes: list[str] = field(default_factory=list)
    """What is to be told of every image of the run."""
    owner: int = 0
    outer_sample: Any = None
    """A `sample` that another extension had set on the object before us: it stands for the host's own."""
    sampled: int = -1
    """The last batch that came through here."""


class _Phased:
    """Mixed into the class of one processing object; a copy of that object carries its own run along.

    A function set on the instance would not do: a shallow copy, as other extensions make for nested generations,
    would then sample the object that it was copied from.
    """

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        run = self.__dict__.get(ATTRIBUTE)
        host_sample = super().sample  # type: ignore[misc]
        if run is None:
            return host_sample(*args, **kwargs)
        if run.owner != id(self):
            run = Run(run.params, run.error)  # of a copy: what it keeps is not the original's
        run.sampled = self.iteration
        host_sample = run.outer_sample or host_sample
        try:
            return sample_in_phases(self, run, lambda: host_sample(*args, **kwargs))
        except BaseException:
            detach(self)  # the host does not come to our postprocess
            raise

    def save_samples(self) -> bool:
        """A finished phase is a finished picture, saved as one though the run was stopped."""
        run = self.__dict__.get(ATTRIBUTE)
        if run is not None and run.owner == id(self) and run.kept.finished:
            return saves(self)
        return super().save_samples()  # type: ignore[misc]


def run_of(p: Any) -> Run | None:
    """The run of this very object, not of one that it was copied from."""
    run = getattr(p, "__dict__", {}).get(ATTRIBUTE)
    return run if run is not None and run.owner == id(p) else None


def attach(p: Any, run: Run) -> None:
    """Makes `p.sample` go through the phases."""
    detach(p)
    base = type(p)
    run.owner, run.outer_sample = id(p), p.__dict__.pop("sample", None)
    p.__class__ = type(base.__name__, (_Phased, base), {"__module__": base.__module__})
    setattr(p, ATTRIBUTE, run)


def detach(p: Any) -> Run | None:
    """Gives `p` its own class back, and returns the run it had."""
    if isinstance(p, _Phased):
        p.__class__ = type(p).__mro__[2]
    run = p.__dict__.pop(ATTRIBUTE, None)
    if run is not None and run.outer_sample is not None and run.owner == id(p):
        p.sample = run.outer_sample
    return run


def sample_in_phases(p: Any, run: Run, host_sample: Any) -> Any:
    """The host's base image, then the phases. Latents of the base at scale 1, else decoded images."""
    if run.params is None:
        raise run.error or SettingsError("no settings")
    try:  # again: since our `process` another extension's may have set another size or sampler
        base_lat, phases = checked(p, run.params)
    except params.SettingsError as error:
        raise refusal(error) from None
    p.extra_generation_params.pop(STOPPED_KEY, None)
    run.kept.begin_batch()
    notes = list(run.notes)  # what this batch comes to is not told of the next
    write(p, notes)
    if not phases:
        return host_sample()
    tell_plan(p, run.params, base_lat, notes)
    return Climb(p, run, notes).sample(host_sample)


def checked(p: Any, settings: Params) -> tuple[tuple[int, int], list[Phase]]:
    """The base latent's size and the phases. Raises SettingsError of all that the model and the sampler can't do."""
    check_model(p.sd_model)
    mistakes = []
    for check in (lambda: check_sampler(p, settings), lambda: settings.phases(latent_size(p))):
        try:
            planned = check()
        except params.SettingsError as error:
            mistakes.append(error)
    if mistakes:
        raise params.SettingsError.of_all(mistakes)
    assert planned is not None
    return planned


def tell_plan(p: Any, settings: Params, base_lat: tuple[int, int], notes: list[str]) -> None:
    """What is going to be otherwise than the settings might be read."""
    drawn = latent_size(p)
    if (p.height, p.width) != (drawn[0] * LATENT_PX, drawn[1] * LATENT_PX):
        tell(p, notes, f"the webui draws {size_text(*drawn)} for a base image of {p.width}x{p.height} px")
    if base_lat != drawn:
        sizes = f"from {size_text(*drawn)} to {size_text(*base_lat)}"
        tell(p, notes, f"the base image is cropped {sizes}, the target's shape")
    rounding = settings.rounding(drawn)
    if rounding:
        tell(p, notes, rounding)
    if p.refiner_checkpoint_info is not None:
        tell(p, notes, "the refiner draws in the base image only; the phases run on the base model")


class Climb:
    """The phases of one batch, from the host's base image to what is delivered."""

    def __init__(self, p: Any, run: Run, notes: list[str]):
        assert run.params is not None
        self.p, self.run, self.notes = p, run, notes
        self.plan = plan_of(p, run.params)
        self.progress = Progress(self.plan)

    def sample(self, host_sample: Any) -> Any:
        self._announce()
        try:
            base = host_sample()
            if stop_pressed() and base is self.p.sampler.last_latent:
                # not a finished picture: the host shows and saves it by its own rules
                self._stopped(0, "interrupted")
                return base
            latents = [base, *self._climb(base)]
            self.progress.decoding()
            return self._deliver(latents)
        finally:
            self.progress.end()

    def _announce(self) -> None:
        """Tells the host's console how many steps there are to do, once a run. `job_count` stays the number of pictures."""
        state = shared.state
        self.progress.begin()
        if state.processing_has_refined_job_count or self.p.iteration > 0:
            return
        shared.total_tqdm.updateTotal(
            max(state.job_count, 1) * (self.p.steps + len(self.plan.phases) * self.plan.phase_steps)
        )
        state.processing_has_refined_job_count = True

    def _climb(self, base: torch.Tensor) -> list[torch.Tensor]:
        """The latents of all phases that could be completed."""
        p = self.p
        done: list[torch.Tensor] = []
        try:
            devices.test_for_nans(base, "unet")
            base = centre_crop(base, *self.plan.base_lat)
            keep_images(p, self.run, 1, base)  # while the model that ended it is loaded: a refiner's VAE may be its own
            if stop_pressed():
                raise PhaseInterrupted
            sampler = PhaseSampler(p, self.plan, self.progress, self._tell)
            for phase, latent in climb(base, self.plan.phases, sampler, wrap=self.plan.wrap):
                devices.test_for_nans(latent, "unet")
                done.append(latent)
                if phase.number == phase.last:
                    break
                keep_images(p, self.run, phase.number, latent)
                if stop_pressed():
                    raise PhaseInterrupted
                devices.torch_gc()
        except PhaseInterrupted:
            self._stopped(len(done) + 1, "interrupted")
        except Exception as error:
            self._report(len(done) + 1, error)
        return done

    def _tell(self, text: str) -> None:
        tell(self.p, self.notes, text)

    def _report(self, complete: int, error: Exception) -> None:
        """A fault after the base image loses nothing: the last complete phase is delivered, and the fault is named."""
        errors.report("DemoFusion: a phase failed", exc_info=True)
        devices.torch_gc()
        message = str(error).strip().splitlines() or ["no message"]
        self._stopped(complete, type(error).__name__, message[0][:200])

    def _stopped(self, complete: int, reason: str, message: str = "") -> None:
        """`complete` phases are finished, the base image counted; the last of them is what the user gets."""
        total = len(self.plan.phases) + 1
        named = f"{reason} ({message})" if message else reason
        shown = f"this is the image of phase {complete}" if complete else "the unfinished base image"
        self._tell(f"{named} in phase {complete + 1} of {total}; {shown}")
        self.p.extra_generation_params[STOPPED_KEY] = f"phase {complete} of {total} - {reason}"

    def _deliver(self, latents: list[torch.Tensor]) -> Any:
        """Decodes the last latent; if that fails, the one before it. Raises the last error if none can be decoded."""
        p, total = self.p, len(self.plan.phases) + 1
        method = shared.opts.sd_vae_decode_method
        if method != "Full":
            p.extra_generation_params["VAE Decoder"] = method
            self._tell(f"decoded by {method}, as the webui's settings say")
        for complete in range(len(latents), 0, -1):
            devices.torch_gc()
            try:
                decoded = decode(p, latents[complete - 1])
            except Exception as error:
                if complete == 1:
                    raise
                self._report(complete - 1, error)
                continue
            end_with(p, self.run.kept, complete, total)
            height, width = decoded[0].shape[-2:]
            held = too_large((width, height))
            if held:
                picture = f"this picture of {width}x{height} px is a PNG"
                self._tell(f"{held} holds {LIMITS_PX[held]} px a side at most: {picture}")
            return decoded
        raise AssertionError("there is always a base latent")


def stop_pressed() -> bool:
    return bool(shared.state.interrupted or shared.state.skipped)


def decode(p: Any, latent: torch.Tensor) -> DecodedSamples:
    return decode_latent_batch(p.sd_model, latent, target_device=devices.cpu, check_for_nans=True)
