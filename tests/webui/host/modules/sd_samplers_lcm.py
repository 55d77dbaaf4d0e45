"""Latent consistency models (Luo et al. 2023): 50 of the training timesteps, and boundary scalings around epsilon."""

from __future__ import annotations

import itertools

import torch
from k_diffusion import sampling, utils
from k_diffusion.external import DiscreteEpsDDPMDenoiser

from modules import sd_samplers_cfg_denoiser, sd_samplers_common, sd_samplers_kdiffusion, shared

_SIGMA_DATA, _TIMESTEP_SCALE = 0.5, 10.0


class LCMCompVisDenoiser(DiscreteEpsDDPMDenoiser):
    def __init__(self, model):
        self.skip_steps = 1000 // 50
        super().__init__(model, model.alphas_cumprod[self.skip_steps - 1 :: self.skip_steps], quantize=None)

    def get_sigmas(self, n=None):
        if n is None:
            return sampling.append_zero(self.sigmas.flip(0))
        ends = self.sigma_to_t(self.sigma_max), self.sigma_to_t(self.sigma_min)
        return sampling.append_zero(self.t_to_sigma(torch.linspace(*ends, n)))

    def sigma_to_t(self, sigma, quantize=None):
        nearest = (sigma.log() - self.log_sigmas[:, None]).abs().argmin(dim=0).view(sigma.shape)
        return (nearest + 1) * self.skip_steps - 1

    def t_to_sigma(self, timestep):
        index = (timestep + 1 - self.skip_steps) / self.skip_steps
        return super().t_to_sigma(torch.as_tensor(index).float().clamp(0, len(self.sigmas) - 1))

    def get_eps(self, *args, **kwargs):
        return self.inner_model.apply_model(*args, **kwargs)

    def get_scaled_out(self, sigma, output, input):
        t = utils.append_dims(self.sigma_to_t(sigma), output.ndim) * _TIMESTEP_SCALE
        squared = t**2 + _SIGMA_DATA**2
        return t / squared**0.5 * output + _SIGMA_DATA**2 / squared * input

    def forward(self, input, sigma, **kwargs):
        return self.get_scaled_out(sigma, super().forward(input, sigma, **kwargs), input)


@torch.no_grad()
def sample_lcm(model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None):
    noise_sampler = noise_sampler or sampling.default_noise_sampler(x)
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, sigma * x.new_ones(len(x)), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        x = denoised
        if following > 0:
            x += following * noise_sampler(sigma, following)
    return x


class CFGDenoiserLCM(sd_samplers_cfg_denoiser.CFGDenoiser):
    @property
    def inner_model(self):
        if self.model_wrap is None:
            self.model_wrap = LCMCompVisDenoiser(shared.sd_model)
        return self.model_wrap


class LCMSampler(sd_samplers_kdiffusion.KDiffusionSampler):
    def __init__(self, funcname, sd_model, options=None):
        super().__init__(funcname, sd_model, options)
        self.model_wrap_cfg = CFGDenoiserLCM(self)
        self.model_wrap = self.model_wrap_cfg.inner_model


samplers_lcm = [("LCM", sample_lcm, ["k_lcm"], {})]
samplers_data_lcm = [
    sd_samplers_common.SamplerData("LCM", lambda model: LCMSampler(sample_lcm, model), ["k_lcm"], {}),
]
