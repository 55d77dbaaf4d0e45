"""What the sampler families share."""

from __future__ import annotations

import inspect
from collections import namedtuple

import k_diffusion.sampling
import torch

from modules import devices, sd_models, sd_vae_approx, shared  # noqa: F401
from modules.shared import opts, state

approximation_indexes = {"Full": 0, "Approx NN": 1, "Approx cheap": 2, "TAESD": 3}


class SamplerData(namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])):
    def total_steps(self, steps):
        return steps * 2 if self.options.get("second_order", False) else steps


class InterruptedException(BaseException):
    pass


def setup_img2img_steps(p, steps=None):
    requested = steps or p.steps
    return (int(requested / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0), requested - 1


def samples_to_images_tensor(sample, approximation=None, model=None):
    return (model or shared.sd_model).decode_first_stage(sample)


def decode_first_stage(model, x):
    return samples_to_images_tensor(x.to(devices.dtype_vae), approximation_indexes[opts.sd_vae_decode_method], model)


def images_tensor_to_samples(image, approximation=None, model=None):
    model = model or shared.sd_model
    return model.get_first_stage_encoding(model.encode_first_stage(image * 2 - 1))


def store_latent(decoded):
    state.current_latent = decoded


def apply_refiner(cfg_denoiser, sigma=None):
    """Loads the refiner when its time has come; the denoiser builds its inner model anew then."""
    p = cfg_denoiser.p
    if hasattr(cfg_denoiser.inner_model, "sigmas"):
        timestep = int((cfg_denoiser.inner_model.sigmas - sigma.max()).abs().argmin())
    else:
        timestep = int(sigma.max())
    info = p.refiner_checkpoint_info
    too_early = p.refiner_switch_at is not None and (999 - timestep) / 1000 < p.refiner_switch_at
    if too_early or info is None or shared.sd_model.sd_checkpoint_info == info:
        return False
    p.extra_generation_params["Refiner"] = info.short_title
    p.extra_generation_params["Refiner switch at"] = p.refiner_switch_at
    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights(info=info)
    p.setup_conds()
    cfg_denoiser.update_inner_model()
    return True


class TorchHijack:
    """Stands for torch within k-diffusion, so that its noise comes from the images' own generators."""

    def __init__(self, p):
        self.rng = p.rng

    def __getattr__(self, item):
        return getattr(torch, item)

    def randn_like(self, x):
        return self.rng.next()


class Sampler:
    def __init__(self, funcname):
        self.funcname = funcname
        self.func = funcname
        self.extra_params = []
        self.stop_at = None
        self.eta = None
        self.config: SamplerData | None = None
        self.last_latent = None
        self.s_min_uncond = None
        self.s_churn, self.s_tmin, self.s_tmax, self.s_noise = 0.0, 0.0, float("inf"), 1.0
        self.eta_option_field = "eta_ancestral"
        self.eta_infotext_field = "Eta"
        self.eta_default = 1.0
        self.conditioning_key = getattr(shared.sd_model.model, "conditioning_key", "crossattn")
        self.p = None
        self.model_wrap_cfg = None
        self.sampler_extra_args = None
        self.options = {}

    def callback_state(self, d):
        if self.stop_at is not None and d["i"] > self.stop_at:
            raise InterruptedException
        state.sampling_step = d["i"]
        shared.total_tqdm.update()

    def launch_sampling(self, steps, func):
        """An interrupted run ends with the last denoised latent."""
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        state.sampling_steps, state.sampling_step = steps, 0
        try:
            return func()
        except InterruptedException:
            return self.last_latent

    def number_of_needed_noises(self, p):
        return p.steps

    def initialize(self, p) -> dict:
        """The settings of `p` that the solver takes. From here on k-diffusion draws from `p.rng`."""
        self.p = self.model_wrap_cfg.p = p
        self.model_wrap_cfg.mask = getattr(p, "mask", None)
        self.model_wrap_cfg.nmask = getattr(p, "nmask", None)
        self.model_wrap_cfg.step = 0
        self.model_wrap_cfg.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.eta = p.eta if p.eta is not None else getattr(opts, self.eta_option_field, 0.0)
        self.s_min_uncond = getattr(p, "s_min_uncond", 0.0)
        k_diffusion.sampling.torch = TorchHijack(p)

        accepted = inspect.signature(self.func).parameters
        taken = {name: getattr(p, name) for name in self.extra_params if name in accepted}
        if "eta" in accepted:
            taken["eta"] = self.eta
            if self.eta != self.eta_default:
                p.extra_generation_params[self.eta_infotext_field] = self.eta
        for name in ("s_churn", "s_tmin", "s_tmax", "s_noise"):
            value = getattr(opts, name, getattr(p, name)) or (self.s_tmax if name == "s_tmax" else 0.0)
            if name in taken and value != getattr(self, name):
                taken[name] = value
                setattr(p, name, value)
        return taken

    def create_noise_sampler(self, x, sigmas, p):
        if opts.no_dpmpp_sde_batch_determinism:
            return None
        seeds = p.all_seeds[p.iteration * p.batch_size : (p.iteration + 1) * p.batch_size]
        return k_diffusion.sampling.BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=seeds)

    def _run(self, p, x, conditioning, unconditional_conditioning, image_conditioning, steps, settings):
        self.last_latent = x
        self.sampler_extra_args = {
            "cond": conditioning,
            "image_cond": image_conditioning,
            "uncond": unconditional_conditioning,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": self.s_min_uncond,
        }
        samples = self.launch_sampling(
            steps,
            lambda: self.func(
                self.model_wrap_cfg, x, extra_args=self.sampler_extra_args, disable=True, callback=self.callback_state,
                **settings,
            ),
        )  # fmt: skip
        self.add_infotext(p)
        return samples

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        raise NotImplementedError

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        raise NotImplementedError

    def add_infotext(self, p):
        if self.model_wrap_cfg.padded_cond_uncond:
            p.extra_generation_params["Pad conds"] = True
