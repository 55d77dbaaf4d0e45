"""The phases in the host's flow: after the base image is sampled, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from modules import devices, shared
from modules.processing import DecodedSamples, decode_latent_batch

from ..core import Phase, centre_crop, climb
from ..params import LATENT_PX, Params, SettingsError
from .checks import check_model, check_sampler
from .kept import KeptImage, keep_images
from .sampling import PhaseInterrupted, PhaseSampler

ATTRIBUTE = "demofusion_run"
STOPPED_KEY = "DemoFusion stopped"


@dataclass
class Run:
    """What one run of the host needs to know: checked settings, or the error that stops it."""

    params: Params | None
    error: SettingsError | None = None
    kept: list[KeptImage] = field(default_factory=list)
    owner: int = 0
    outer_sample: Any = None
    """A `sample` that another extension had set on the object before us: it stands for the host's own."""


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
        host_sample = run.outer_sample or host_sample
        try:
            return sample_in_phases(self, run, lambda: host_sample(*args, **kwargs))
        except BaseException:
            detach(self)  # the host does not come to our postprocess
            raise


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


def latent_size(p: Any) -> tuple[int, int]:
    return p.height // LATENT_PX, p.width // LATENT_PX


def sample_in_phases(p: Any, run: Run, host_sample: Any) -> Any:
    """The host's base image, then the phases. Latents of the base at scale 1, else decoded images."""
    if run.params is None:
        raise run.error or SettingsError("no settings")
    base_lat, phases = run.params.phases(latent_size(p))
    check_model(p.sd_model)
    check_sampler(p, run.params)
    p.extra_generation_params.pop(STOPPED_KEY, None)
    if not phases:
        return host_sample()
    announce(p, run.params, phases)
    base = host_sample()
    if shared.state.interrupted or shared.state.skipped:
        return base
    latents = [base, *_climb(p, run, centre_crop(base, *base_lat), base_lat, phases)]
    return deliver(p, latents, phases)


def announce(p: Any, params: Params, phases: list[Phase]) -> None:
    """Tells the host's progress display how much there is to do, once a run."""
    state = shared.state
    if p.refiner_checkpoint_info is not None:
        p.comment("DemoFusion: the refiner draws in the base image only; the phases run on the base model.")
    if state.processing_has_refined_job_count or p.iteration > 0:
        return
    jobs = max(state.job_count, 1)
    state.job_count = jobs * (1 + len(phases))
    shared.total_tqdm.updateTotal(jobs * (p.steps + len(phases) * (params.steps or p.steps)))
    state.processing_has_refined_job_count = True


def _climb(p: Any, run: Run, base: torch.Tensor, base_lat: tuple[int, int], phases: list[Phase]) -> list[torch.Tensor]:
    """The latents of all phases that could be completed."""
    assert run.params is not None
    done: list[torch.Tensor] = []
    try:
        devices.test_for_nans(base, "unet")
        keep_images(p, run, 1, base)  # while the model that ended it is loaded: a refiner's VAE may be its own
        sampler = PhaseSampler(p, run.params, base_lat, phases, latent_size(p))
        shared.state.nextjob()
        for phase, latent in climb(base, phases, sampler):
            devices.test_for_nans(latent, "unet")
            done.append(latent)
            if phase.number == phase.last:
                break
            keep_images(p, run, phase.number, latent)
            if shared.state.interrupted or shared.state.skipped:
                raise PhaseInterrupted
            devices.torch_gc()
            shared.state.nextjob()
    except PhaseInterrupted:
        stopped(p, phases, len(done), "interrupted")
    except Exception as error:
        report(p, phases, len(done), error)
    return done


def report(p: Any, phases: list[Phase], done: int, error: Exception) -> None:
    """A fault after the base image loses nothing: the last complete phase is delivered, and the fault is named."""
    from modules import errors

    errors.report("DemoFusion: a phase failed", exc_info=True)
    devices.torch_gc()
    message = str(error).strip().splitlines() or ["no message"]
    stopped(p, phases, done, type(error).__name__, message[0][:200])


def stopped(p: Any, phases: list[Phase], done: int, reason: str, message: str = "") -> None:
    """`done` phases after the base are complete. The page shows the comment; the API answers with infotext alone."""
    total = len(phases) + 1
    named = f"{reason} ({message})" if message else reason
    p.comment(f"DemoFusion: {named} in phase {done + 2} of {total}; this is the image of phase {done + 1}.")
    p.extra_generation_params[STOPPED_KEY] = f"phase {done + 1} of {total} - {reason}"


def deliver(p: Any, latents: list[torch.Tensor], phases: list[Phase]) -> Any:
    """Decodes the last latent; if that fails, the one before it. Raises the last error if none can be decoded."""
    if shared.opts.sd_vae_decode_method != "Full":
        p.extra_generation_params["VAE Decoder"] = shared.opts.sd_vae_decode_method
    for done in range(len(latents) - 1, -1, -1):
        devices.torch_gc()
        try:
            return decode(p, latents[done])
        except Exception as error:
            if done == 0:
                raise
            report(p, phases, done - 1, error)
    raise AssertionError("there is always a base latent")


def decode(p: Any, latent: torch.Tensor) -> DecodedSamples:
    return decode_latent_batch(p.sd_model, latent, target_device=devices.cpu, check_for_nans=True)
