"""The timestep family."""

from __future__ import annotations

import inspect

import torch

from modules import devices, sd_samplers_common, sd_samplers_timesteps_impl, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser

samplers_timesteps = [
    ("DDIM", sd_samplers_timesteps_impl.ddim, ["ddim"], {}),
    ("DDIM CFG++", sd_samplers_timesteps_impl.ddim_cfgpp, ["ddim_cfgpp"], {}),
    ("PLMS", sd_samplers_timesteps_impl.plms, ["plms"], {}),
    ("UniPC", sd_samplers_timesteps_impl.unipc, ["unipc"], {}),
]


class CompVisTimestepsDenoiser(torch.nn.Module):
    def __init__(self, model, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.inner_model = model

    def forward(self, input, timesteps, **kwargs):
        return self.inner_model.apply_model(input, timesteps, **kwargs)


class CompVisTimestepsVDenoiser(torch.nn.Module):
    def __init__(self, model, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.inner_model = model

    def predict_eps_from_z_and_v(self, x_t, t, v):
        a = self.inner_model.alphas_cumprod[t.int()].view(-1, 1, 1, 1)
        return a.sqrt() * v + (1 - a).sqrt() * x_t

    def forward(self, input, timesteps, **kwargs):
        v = self.inner_model.apply_model(input, timesteps, **kwargs)
        return self.predict_eps_from_z_and_v(input, timesteps, v)


class CFGDenoiserTimesteps(CFGDenoiser):
    def __init__(self, sampler):
        super().__init__(sampler)
        self.alphas = shared.sd_model.alphas_cumprod
        self.mask_before_denoising = True

    def get_pred_x0(self, x_in, x_out, sigma):
        a = self.alphas[sigma.int()].view(-1, 1, 1, 1)
        return (x_in - (1 - a).sqrt() * x_out) / a.sqrt()

    @property
    def inner_model(self):
        if self.model_wrap is None:
            v_model = shared.sd_model.parameterization == "v"
            self.model_wrap = (CompVisTimestepsVDenoiser if v_model else CompVisTimestepsDenoiser)(shared.sd_model)
        return self.model_wrap


class CompVisSampler(sd_samplers_common.Sampler):
    def __init__(self, funcname, sd_model):
        super().__init__(funcname)
        self.eta_option_field = "eta_ddim"
        self.eta_infotext_field = "Eta DDIM"
        self.eta_default = 0.0
        self.model_wrap_cfg = CFGDenoiserTimesteps(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_timesteps(self, p, steps):
        return (torch.arange(0, 1000, 1000 // steps, device=devices.device) + 1).clamp(0, 999)

    def _settings(self, p, timesteps, is_img2img) -> dict:
        offered = {"timesteps": timesteps, "is_img2img": is_img2img}
        accepted = inspect.signature(self.func).parameters
        return {**self.initialize(p), **{name: value for name, value in offered.items() if name in accepted}}

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        steps = steps or p.steps
        settings = self._settings(p, self.get_timesteps(p, steps), False)
        return self._run(p, x, conditioning, unconditional_conditioning, image_conditioning, steps, settings)

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        """Not a full pass: it begins one timestep below the one that it noises to."""
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        timesteps = self.get_timesteps(p, steps)
        a = shared.sd_model.alphas_cumprod[timesteps[t_enc]]
        settings = self._settings(p, timesteps[:t_enc], True)
        self.model_wrap_cfg.init_latent = x
        noised = x * a.sqrt() + noise * (1 - a).sqrt()
        return self._run(p, noised, conditioning, unconditional_conditioning, image_conditioning, t_enc + 1, settings)


def _constructor(funcname):
    return lambda model: CompVisSampler(funcname, model)


samplers_data_timesteps = [
    sd_samplers_common.SamplerData(label, _constructor(funcname), aliases, options)
    for label, funcname, aliases, options in samplers_timesteps
]
