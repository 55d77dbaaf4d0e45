"""Prompts and negatives of any length: each is read as if it were alone, as the webui evaluates them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.guidance import Guided, SigmaForm, SizeTold
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.prompts import encode, encode_negative

from .test_models import base, error, order

FOG = " ".join(["fog"] * 75)
LENGTHS = {
    "a long prompt": (f"{FOG} a red disc", "blue"),
    "a long negative": ("a red disc", f"{FOG} blue"),
    "two and three chunks": (f"{FOG} a red disc", f"{FOG} {FOG} blue"),
    "a long prompt and no negative": (f"{FOG} a red disc", ""),
}


def chunk_by_hand(model: Model, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`start, 75 tokens, end` through each encoder in turn, a chunk after the other."""
    contexts, pooled = [], []
    for tokenizer, encoder in model.text:
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        parts = [ids[i : i + 75] for i in range(0, len(ids), 75)] or [[]]
        outputs = [
            encoder(torch.tensor([[49406, *part, *[49407] * (76 - len(part))]]), output_hidden_states=True)
            for part in parts
        ]
        contexts.append(torch.cat([o.hidden_states[-2] if model.is_sdxl else o.last_hidden_state for o in outputs], 1))
        pooled.append(outputs[0][0])
    return torch.cat(contexts, -1), pooled[-1]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("case", LENGTHS)
@torch.no_grad()
def test_guidance_by_hand(name: str, case: str, models: dict[str, Model]) -> None:
    """The prompt alone through the network, the negative alone, and the scale between them."""
    model, (prompt, negative) = models[name], LENGTHS[case]
    told = SizeTold((64, 64), (64, 64))
    guided = Guided(model, encode(model, [prompt]), encode_negative(model, [negative]), 4.0, told)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    outputs = []
    for text in (prompt, negative):
        context, pooled = chunk_by_hand(model, text)
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        added = {"text_embeds": pooled, "time_ids": ids} if model.is_sdxl else None
        x_in = x / (3.0**2 + 1) ** 0.5
        outputs.append(x - 3 * model.unet(x_in, 500.0, encoder_hidden_states=context, added_cond_kwargs=added).sample)
    cond, uncond = outputs
    by_hand = uncond + 4 * (cond - uncond)
    assert error(guided(x, 500.0, SigmaForm(3.0, "epsilon")), by_hand) < 1e-5
    assert error(cond, uncond) > 1e-3


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_short_prompt_beside_a_long_one_draws_what_it_draws_alone(name: str, models: dict[str, Model]) -> None:
    together = order(prompts=["a red disc", f"{FOG} a red disc"], seeds=[7, 8])
    latents = next(iter(Drawing(models[name], together).phases())).latent
    for i in range(2):
        alone = base(models[name], replace(together, prompts=[together.prompts[i]], seeds=[together.seeds[i]]))
        assert error(latents[i : i + 1], alone) < 1e-4


def test_phases_take_long_prompts(models: dict[str, Model]) -> None:
    """Windows gather rows of both lengths."""
    params = replace(order().params, scale=2.0, window_batch=3)
    long, short = (order(prompts=[prompt], params=params, steps=3) for prompt in (f"{FOG} a red disc", "a red disc"))
    latents = [list(Drawing(models["sdxl"], wanted).phases())[-1].latent for wanted in (long, short)]
    assert torch.isfinite(latents[0]).all() and error(latents[0], latents[1]) > 1e-4


@torch.no_grad()
def test_an_empty_negative_of_sdxl_is_zeros_where_the_model_says_so(models: dict[str, Model]) -> None:
    model = models["sdxl"]
    for zero_empty in (True, False):
        encoded = encode_negative(replace(model, zero_empty=zero_empty), ["", "fog"])
        assert encoded.pooled is not None
        assert bool((encoded.context[0] == 0).all()) is bool((encoded.pooled[0] == 0).all()) is zero_empty
        assert encoded.context[1].abs().max() > 0
    assert encode(replace(model, zero_empty=True), [""]).context.abs().max() > 0  # an empty prompt is an empty text
    assert encode_negative(replace(models["sd"], zero_empty=True), [""]).context.abs().max() > 0
