"""Classifier-free guidance: the order of rows and calls is what the extension depends on."""

from __future__ import annotations

import torch

from modules import prompt_parser, scripts, sd_samplers_common, shared
from modules.script_callbacks import (
    AfterCFGCallbackParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    cfg_after_cfg_callback,
    cfg_denoised_callback,
    cfg_denoiser_callback,
)
from modules.shared import opts, state


def catenate_conds(conds):
    if isinstance(conds[0], dict):
        return {key: torch.cat([cond[key] for cond in conds]) for key in conds[0]}
    return torch.cat(conds)


def subscript_cond(cond, a, b):
    return {key: value[a:b] for key, value in cond.items()} if isinstance(cond, dict) else cond[a:b]


def pad_cond(tensor, repeats, empty):
    if isinstance(tensor, dict):
        return prompt_parser.DictWithShape({**tensor, "crossattn": pad_cond(tensor["crossattn"], repeats, empty)})
    return torch.cat([tensor, empty.repeat(len(tensor), repeats, 1)], dim=1)


class CFGDenoiser(torch.nn.Module):
    def __init__(self, sampler):
        super().__init__()
        self.model_wrap = None
        self.mask = None
        self.nmask = None
        self.init_latent = None
        self.steps = None
        self.total_steps = None
        self.step = 0
        self.image_cfg_scale = None
        self.padded_cond_uncond = False
        self.padded_cond_uncond_v0 = False
        self.sampler = sampler
        self.p = None
        self.cond_scale_miltiplier = 1.0
        self.need_last_noise_uncond = False
        self.last_noise_uncond = None
        self.mask_before_denoising = False

    @property
    def inner_model(self):
        raise NotImplementedError

    def get_pred_x0(self, x_in, x_out, sigma):
        return x_out

    def update_inner_model(self):
        self.model_wrap = None
        self.sampler.sampler_extra_args["cond"], self.sampler.sampler_extra_args["uncond"] = self.p.get_conds()

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        without = x_out[-uncond.shape[0] :]
        denoised = without.clone()
        for image, conds in enumerate(conds_list):
            for row, weight in conds:
                denoised[image] += (x_out[row] - without[image]) * (weight * cond_scale)
        return denoised

    def pad_cond_uncond(self, cond, uncond):
        empty = shared.sd_model.cond_stage_model_empty_prompt
        missing = (cond.shape[1] - uncond.shape[1]) // empty.shape[1]
        self.padded_cond_uncond = missing != 0
        if missing < 0:
            return pad_cond(cond, -missing, empty), uncond
        return cond, (pad_cond(uncond, missing, empty) if missing else uncond)

    def _skips_uncond(self, sigma, s_min_uncond) -> bool:
        if opts.skip_early_cond != 0 and self.step / self.total_steps <= opts.skip_early_cond:
            self.p.extra_generation_params["Skip Early CFG"] = opts.skip_early_cond
            return True
        if (self.step % 2 or opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond:
            self.p.extra_generation_params["NGMS"] = s_min_uncond
            return True
        return False

    def _condition(self, text, image_cond):
        if isinstance(text, dict):
            return {**text, "c_concat": [image_cond]}
        return {"c_crossattn": [text], "c_concat": [image_cond]}

    def _outputs(self, x_in, sigma_in, image_cond_in, tensor, uncond, images, skip_uncond):
        """One call for all rows, or several where texts differ in length or the user wants small batches."""
        x_out = torch.zeros_like(x_in)

        def call(a, b, text):
            x_out[a:b] = self.inner_model(x_in[a:b], sigma_in[a:b], cond=self._condition(text, image_cond_in[a:b]))

        if tensor.shape[1] == uncond.shape[1] or skip_uncond:
            text = tensor if skip_uncond else catenate_conds([tensor, uncond])
            if opts.batch_cond_uncond:
                return self.inner_model(x_in, sigma_in, cond=self._condition(text, image_cond_in))
            for a in range(0, len(x_in), images):
                call(a, a + images, subscript_cond(text, a, a + images))  # the planes may be more than the rows
            return x_out
        rows = tensor.shape[0]
        size = images * 2 if opts.batch_cond_uncond else images
        for a in range(0, rows, size):
            call(a, min(a + size, rows), subscript_cond(tensor, a, min(a + size, rows)))
        call(rows, len(x_in), uncond)
        return x_out

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if sd_samplers_common.apply_refiner(self, sigma):
            cond, uncond = (self.sampler.sampler_extra_args[key] for key in ("cond", "uncond"))

        def apply_blend(current_latent):
            blended = current_latent * self.nmask + self.init_latent * self.mask
            if self.p.scripts is None:
                return blended
            args = scripts.MaskBlendArgs(
                current_latent, self.nmask, self.init_latent, self.mask, blended, denoiser=self, sigma=sigma
            )
            self.p.scripts.on_mask_blend(self.p, args)
            return args.blended_latent

        if self.mask_before_denoising and self.mask is not None:
            x = apply_blend(x)
        conds_list, tensor = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        images = len(conds_list)
        rows = [image for image, conds in enumerate(conds_list) for _ in conds] + list(range(images))

        params = CFGDenoiserParams(
            x[rows], image_cond[rows], sigma[rows], state.sampling_step, state.sampling_steps, tensor, uncond, self
        )
        cfg_denoiser_callback(params)
        x_in, image_cond_in, sigma_in = params.x, params.image_cond, params.sigma
        tensor, uncond = params.text_cond, params.text_uncond

        skip_uncond = self._skips_uncond(sigma, s_min_uncond)
        if skip_uncond:
            x_in, sigma_in = x_in[:-images], sigma_in[:-images]
        self.padded_cond_uncond = False
        if opts.pad_cond_uncond and tensor.shape[1] != uncond.shape[1]:
            tensor, uncond = self.pad_cond_uncond(tensor, uncond)
        x_out = self._outputs(x_in, sigma_in, image_cond_in, tensor, uncond, images, skip_uncond)

        first_rows = [conds[0][0] for conds in conds_list]
        if skip_uncond:
            x_out = torch.cat([x_out, x_out[first_rows]])
        cfg_denoised_callback(CFGDenoisedParams(x_out, state.sampling_step, state.sampling_steps, self.inner_model))
        if self.need_last_noise_uncond:
            self.last_noise_uncond = x_out[-images:].clone()
        scale = 1.0 if skip_uncond else cond_scale * self.cond_scale_miltiplier
        denoised = self.combine_denoised(x_out, conds_list, uncond, scale)
        if not self.mask_before_denoising and self.mask is not None:
            denoised = apply_blend(denoised)

        self.sampler.last_latent = self.get_pred_x0(x_in[first_rows], x_out[first_rows], sigma)
        sd_samplers_common.store_latent(self.get_pred_x0(x_in[first_rows], denoised, sigma))
        after = AfterCFGCallbackParams(denoised, state.sampling_step, state.sampling_steps)
        cfg_after_cfg_callback(after)
        self.step += 1
        return after.x
