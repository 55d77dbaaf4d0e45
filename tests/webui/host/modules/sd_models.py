"""Checkpoints: `_available` holds what a disk would."""

from __future__ import annotations

import torch

from modules import sd_hijack, shared

checkpoint_aliases: dict = {}
_available: dict = {}
_loads: list[str] = []


class CheckpointInfo:
    def __init__(self, filename):
        self.filename = filename
        self.name_for_extra = filename.rsplit(".", 1)[0]
        self.short_title = self.name_for_extra


class SkipWritingToConfig:
    skip = False
    previous = None

    def __enter__(self):
        self.previous = SkipWritingToConfig.skip
        SkipWritingToConfig.skip = True
        return self

    def __exit__(self, exc_type, exc_value, exc_traceback):
        SkipWritingToConfig.skip = self.previous


def _install(model) -> None:
    """Puts a model on the disk and selects it if it is the first."""
    info = model.sd_checkpoint_info
    checkpoint_aliases[info.short_title] = info
    _available[info] = model
    if shared.opts.sd_model_checkpoint is None:
        shared.opts.sd_model_checkpoint = info.short_title
        shared.sd_model = model
        sd_hijack.model_hijack.hijack(model)


def select_checkpoint():
    return checkpoint_aliases[shared.opts.sd_model_checkpoint]


def get_closet_checkpoint_match(search_string):
    return checkpoint_aliases.get(search_string)


def reload_model_weights(sd_model=None, info=None, forced_reload=False):
    info = info or select_checkpoint()
    if not SkipWritingToConfig.skip:
        shared.opts.sd_model_checkpoint = info.short_title
    if (sd_model or shared.sd_model).sd_checkpoint_info != info or forced_reload:
        _loads.append(info.short_title)
        sd_hijack.model_hijack.undo_hijack(shared.sd_model)
        shared.sd_model = _available[info]
        sd_hijack.model_hijack.hijack(shared.sd_model)
    return shared.sd_model


def apply_token_merging(sd_model, token_merging_ratio):
    pass


def rescale_zero_terminal_snr_abar(alphas_cumprod):
    """Lin et al. 2023, algorithm 1."""
    root = alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return torch.cat([root[:-1].square(), root.new_tensor([4.8973451890853435e-08])])


def apply_alpha_schedule_override(sd_model, p=None):
    sd_model.alphas_cumprod = sd_model.alphas_cumprod_original
    if shared.opts.sd_noise_schedule == "Zero Terminal SNR":
        p.extra_generation_params["Noise Schedule"] = shared.opts.sd_noise_schedule
        sd_model.alphas_cumprod = rescale_zero_terminal_snr_abar(sd_model.alphas_cumprod)


class _ModelData:
    """`sd_model` here is what is loaded; `shared.sd_model` would load one in the webui."""

    @property
    def sd_model(self):
        return shared.sd_model


model_data = _ModelData()
