"""What a phase sets on the host and puts back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from modules import shared

LENT = (
    "rng", "sampler", "c", "uc", "steps", "width", "height", "cached_c", "cached_uc", "prompts", "negative_prompts",
    "refiner_checkpoint_info", "step_multiplier", "firstpass_steps", "sampler_name", "scheduler", "cfg_scale",
    "mask", "nmask",
)  # fmt: skip
"""What a phase sets on the host's processing object; everything is put back, whatever happens."""
SCHEDULE_KEY = "Schedule type"
"""Of the infotext: the base image's, but every schedule that is made writes itself there."""


@contextlib.contextmanager
def lent(p: Any) -> Iterator[None]:
    missing = object()
    before = {name: p.__dict__.get(name, missing) for name in LENT}
    told = p.extra_generation_params.get(SCHEDULE_KEY, missing)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is missing:
                p.__dict__.pop(name, None)
            else:
                setattr(p, name, value)
        if told is missing:
            p.extra_generation_params.pop(SCHEDULE_KEY, None)
        else:
            p.extra_generation_params[SCHEDULE_KEY] = told


@contextlib.contextmanager
def unipc_of_order(most: int) -> Iterator[None]:
    """The host's setting lowered: its UniPC refuses fewer steps than that."""
    values, name = shared.opts.data, "uni_pc_order"
    order = getattr(shared.opts, name)
    if order <= most:
        yield
        return
    missing = object()
    before = values.get(name, missing)
    values[name] = most
    try:
        yield
    finally:
        if before is missing:
            values.pop(name, None)
        else:
            values[name] = before


@contextlib.contextmanager
def known_to(sampler: Any, latent: torch.Tensor | None) -> Iterator[None]:
    """What the host's guided denoiser blends in outside of a mask."""
    guided = sampler.model_wrap_cfg
    before = guided.init_latent
    guided.init_latent = before if latent is None else latent
    try:
        yield
    finally:
        guided.init_latent = before
