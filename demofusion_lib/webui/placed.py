"""Prompts for parts of the picture: encoded by the host, and put in the place of a row's own where a patch is asked with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from modules import devices, prompt_parser, sd_samplers, shared
from modules.sd_samplers_cfg_denoiser import pad_cond


class RegionConds:
    """What the host's network is told of each region, in one phase.

    prompts: their texts. size_px: `(height, width)` that SDXL is told. p: with the phase's sampler and steps.
    """

    def __init__(self, p: Any, prompts: Sequence[str], size_px: tuple[int, int]):
        height, width = size_px
        config = sd_samplers.find_sampler_config(p.sampler_name)
        steps = config.total_steps(p.steps) if config else p.steps
        with devices.autocast():
            # each by itself: together the shorter ones would be filled up
            self.schedules = [
                prompt_parser.get_learned_conditioning(
                    shared.sd_model, prompt_parser.SdConditioning([prompt], width=width, height=height),
                    steps, None, shared.opts.use_old_scheduling,
                )
                for prompt in prompts
            ]  # fmt: skip
        self.now: list[Any] = []

    def at(self, step: int) -> None:
        """The host's own number of an evaluation, which it looks its prompts up by."""
        self.now = [prompt_parser.reconstruct_cond_batch(schedule, step) for schedule in self.schedules]

    def write_vectors(self, vector: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
        """SDXL's `vector (n, width)` with those of the patches that are asked with a region's prompt."""
        if not any(prompts):
            return vector
        vector = vector.clone()
        for i, prompt in enumerate(prompts):
            if prompt:
                vector[i] = self.now[prompt - 1]["vector"][0].to(vector)
        return vector

    def apart(self, cond: dict[str, Any], prompts: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """A condition in parts whose texts are of one length: which patches each is for, and their condition."""
        key = "crossattn" if "crossattn" in cond else "c_crossattn"
        own = cond[key] if key == "crossattn" else cond[key][0]
        texts = [self._text(prompt, own) if prompt else own[i] for i, prompt in enumerate(prompts)]
        lengths = [len(text) for text in texts]
        for length in dict.fromkeys(lengths):
            chosen = [i for i, other in enumerate(lengths) if other == length]
            text = torch.stack([texts[i] for i in chosen])
            yield chosen, {**_rows(cond, chosen), key: text if key == "crossattn" else [text]}

    def _text(self, prompt: int, like: torch.Tensor) -> torch.Tensor:
        """`(tokens, width)`; filled up where the host fills up the prompts that it gives the model at once."""
        cond = self.now[prompt - 1]
        text = (cond["crossattn"] if isinstance(cond, dict) else cond).to(like)
        empty = getattr(shared.sd_model, "cond_stage_model_empty_prompt", None)  # Forge fills nothing up
        if empty is not None and getattr(shared.opts, "pad_cond_uncond", False):
            missing = (like.shape[1] - text.shape[1]) // empty.shape[1]
            text = pad_cond(text, missing, empty.to(like)) if missing > 0 else text
        return text[0]


def _rows(value: Any, chosen: list[int]) -> Any:
    if isinstance(value, dict):
        return {key: _rows(part, chosen) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rows(part, chosen) for part in value]
    return value[chosen] if isinstance(value, torch.Tensor) else value
