"""What a phase sets on the host and puts back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from modules import shared

from .hosts import is_classic

LENT = (
    "rng", "sampler", "c", "uc", "steps", "width", "height", "cached_c", "cached_uc", "prompts", "negative_prompts",
    "refiner_checkpoint_info", "step_multiplier", "firstpass_steps", "sampler_name", "scheduler", "cfg_scale",
    "mask", "nmask",
)  # fmt: skip
"""What a phase sets on the host's processing object; everything is put back, whatever happens."""
SKIPPING = "skip_early_cond"
"""The host's setting: the share of the evaluations, from the first on, without the negative prompt."""
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


def unipc_of_order(most: int) -> contextlib.AbstractContextManager[None]:
    """The host's setting lowered: its UniPC refuses fewer steps than that."""
    name = "uni_pc_order"
    order = getattr(shared.opts, name, 0)  # Forge Neo has no such setting, nor such a UniPC
    return contextlib.nullcontext() if order <= most else set_to(name, most)


def first_is_alone() -> bool:
    """Whether the host leaves the negative prompt out of the first evaluation of a sampling, as Forge Classic does where its
    setting is 0, which says of none."""
    return is_classic() and getattr(shared.opts, SKIPPING) == 0


def guided_from_the_first() -> contextlib.AbstractContextManager[None]:
    """A phase may have two evaluations in all."""
    return set_to(SKIPPING, -1.0) if first_is_alone() else contextlib.nullcontext()


@contextlib.contextmanager
def set_to(name: str, value: Any) -> Iterator[None]:
    """A setting of the host's, for as long."""
    values, missing = shared.opts.data, object()
    before = values.get(name, missing)
    values[name] = value
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
