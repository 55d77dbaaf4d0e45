"""The sigma family: k-diffusion's solvers, which step in `x = x0 + sigma * noise`."""

from __future__ import annotations

import inspect

import k_diffusion.external
import k_diffusion.sampling
import torch

from modules import devices, sd_samplers_cfg_denoiser, sd_samplers_common, sd_samplers_extra, sd_schedulers, shared
from modules.shared import opts

samplers_k_diffusion = [
    ("DPM++ 2M", "sample_dpmpp_2m", ["k_dpmpp_2m"], {"scheduler": "karras"}),
    ("DPM++ SDE", "sample_dpmpp_sde", [], {"scheduler": "karras", "second_order": True, "brownian_noise": True}),
    ("DPM++ 2M SDE", "sample_dpmpp_2m_sde", [], {"scheduler": "exponential", "brownian_noise": True}),
    ("DPM++ 2M SDE Heun", "sample_dpmpp_2m_sde", [], {"scheduler": "exponential", "brownian_noise": True, "solver_type": "heun"}),
    ("DPM++ 2S a", "sample_dpmpp_2s_ancestral", [], {"scheduler": "karras", "uses_ensd": True, "second_order": True}),
    ("DPM++ 3M SDE", "sample_dpmpp_3m_sde", [], {"scheduler": "exponential", "discard_next_to_last_sigma": True, "brownian_noise": True}),
    ("Euler a", "sample_euler_ancestral", ["k_euler_a"], {"uses_ensd": True}),
    ("Euler", "sample_euler", ["k_euler"], {}),
    ("LMS", "sample_lms", ["k_lms"], {}),
    ("Heun", "sample_heun", ["k_heun"], {"second_order": True}),
    ("DPM2", "sample_dpm_2", [], {"scheduler": "karras", "discard_next_to_last_sigma": True, "second_order": True}),
    ("DPM2 a", "sample_dpm_2_ancestral", [], {"scheduler": "karras", "discard_next_to_last_sigma": True, "second_order": True}),
    ("DPM fast", "sample_dpm_fast", [], {"uses_ensd": True}),
    ("DPM adaptive", "sample_dpm_adaptive", [], {"uses_ensd": True}),
    ("Restart", sd_samplers_extra.restart_sampler, ["restart"], {"scheduler": "karras", "second_order": True}),
]  # fmt: skip

_CHURNED = ["sample_euler", "sample_heun", "sample_dpm_2"]
_NOISED = [
    "sample_dpm_fast", "sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde",
    "sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde",
]  # fmt: skip
sampler_extra_params = {
    **{name: ["s_churn", "s_tmin", "s_tmax", "s_noise"] for name in _CHURNED},
    **{name: ["s_noise"] for name in _NOISED},
}


class CFGDenoiserKDiffusion(sd_samplers_cfg_denoiser.CFGDenoiser):
    @property
    def inner_model(self):
        if self.model_wrap is None:
            v_model = shared.sd_model.parameterization == "v"
            wrapper = k_diffusion.external.CompVisVDenoiser if v_model else k_diffusion.external.CompVisDenoiser
            self.model_wrap = wrapper(shared.sd_model, quantize=opts.enable_quantization)
        return self.model_wrap


class KDiffusionSampler(sd_samplers_common.Sampler):
    def __init__(self, funcname, sd_model, options=None):
        super().__init__(funcname)
        self.extra_params = sampler_extra_params.get(funcname, [])
        self.options = options or {}
        self.func = funcname if callable(funcname) else getattr(k_diffusion.sampling, funcname)
        self.model_wrap_cfg = CFGDenoiserKDiffusion(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_sigmas(self, p, steps):
        discard = self.config.options.get("discard_next_to_last_sigma", False)
        steps += discard
        name = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        scheduler = sd_schedulers.schedulers_map.get(
            self.config.options.get("scheduler") if name == "Automatic" else name
        )
        if p.sampler_noise_scheduler_override:
            sigmas = p.sampler_noise_scheduler_override(steps)
        elif scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(steps)
        else:
            p.extra_generation_params["Schedule type"] = scheduler.label
            ends = {"sigma_min": self.model_wrap.sigmas[0].item(), "sigma_max": self.model_wrap.sigmas[-1].item()}
            if scheduler.need_inner_model:
                ends["inner_model"] = self.model_wrap
            sigmas = scheduler.function(n=steps, **ends, device=devices.cpu)
        return (torch.cat([sigmas[:-2], sigmas[-1:]]) if discard else sigmas).cpu()

    def _settings(self, p, x, sigmas, steps, ends) -> dict:
        offered = {"n": steps, "sigmas": sigmas, "sigma_min": ends[0], "sigma_max": ends[1]}
        accepted = inspect.signature(self.func).parameters
        settings = {**self.initialize(p), **{name: value for name, value in offered.items() if name in accepted}}
        if self.config.options.get("brownian_noise", False):
            settings["noise_sampler"] = self.create_noise_sampler(x, sigmas, p)
        if self.config.options.get("solver_type") == "heun":
            settings["solver_type"] = "heun"
        return settings

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        steps = steps or p.steps
        sigmas = self.get_sigmas(p, steps)
        x = x * (torch.sqrt(1 + sigmas[0] ** 2) if opts.sgm_noise_multiplier else sigmas[0])
        ends = self.model_wrap.sigmas[0].item(), self.model_wrap.sigmas[-1].item()
        settings = self._settings(p, x, sigmas, steps, ends)
        return self._run(p, x, conditioning, unconditional_conditioning, image_conditioning, steps, settings)

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        sigmas = self.get_sigmas(p, steps)[steps - t_enc - 1 :]
        settings = self._settings(p, x, sigmas, len(sigmas) - 1, (sigmas[-2], sigmas[0]))
        self.model_wrap_cfg.init_latent = x
        noised = x + noise * sigmas[0]
        return self._run(p, noised, conditioning, unconditional_conditioning, image_conditioning, t_enc + 1, settings)


def _constructor(funcname):
    return lambda model: KDiffusionSampler(funcname, model)


samplers_data_k_diffusion = [
    sd_samplers_common.SamplerData(label, _constructor(funcname), aliases, options)
    for label, funcname, aliases, options in samplers_k_diffusion
]
