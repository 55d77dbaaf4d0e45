"""A LoRA, a hypernetwork and an embedding in the loaded model's own shapes, and the phases reckoned with them inside the webui.

`test_networks.py` sends this file's text to the webui, behind that of `reckoning.py`, which it imports by that name.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from modules import devices, extra_networks, sd_hijack, shared  # noqa: TID251
from modules.processing import process_images  # noqa: TID251
from reckoning import PX, Model, Told, apart, phase, recorded
from safetensors.torch import save_file
from torch.nn import functional as F

STRENGTH = 0.2


def draws(*shape: int) -> torch.Tensor:
    seed = sum((i + 1) * length for i, length in enumerate(shape))
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * STRENGTH


def lora() -> dict[str, torch.Tensor]:
    """Of rank 2, on every attention to the prompt and on the text encoder's."""
    state = {}
    for key, module in shared.sd_model.network_layer_mapping.items():
        if not isinstance(module, torch.nn.Linear):
            continue
        if "attn2_to_" in key:
            name = key.replace("diffusion_model", "lora_unet")
        elif key.endswith("self_attn_q_proj") and "transformer_text_model" in key:
            name = "lora_te1_text_model" if key.startswith("0_") else "lora_te_text_model"
            name += key.partition("transformer_text_model")[2]
        else:
            continue
        high, wide = module.weight.shape[:2]
        state |= {f"{name}.lora_up.weight": draws(high, 2), f"{name}.lora_down.weight": draws(2, wide)}
        state[f"{name}.alpha"] = torch.tensor(2.0)
    assert any("lora_unet" in name for name in state) and any("lora_te" in name for name in state)
    return state


def hypernetwork(name: str) -> dict[Any, Any]:
    """Of one layer, on what the attentions read of the prompt."""
    unet = shared.sd_model.model.diffusion_model
    widths = {module.to_k.in_features for path, module in unet.named_modules() if path.endswith("attn2")}
    layers = {
        width: tuple(
            {"linear.0.weight": draws(width, width + i)[:, i:].clone(), "linear.0.bias": draws(width)} for i in (0, 1)
        )
        for width in widths
    }
    return {**layers, "step": 1, "name": name, "layer_structure": [1, 1], "activation_func": "linear"}


def embedding(word: str) -> dict[str, Any]:
    """Of two vectors."""
    text = shared.sd_model.cond_stage_model if not shared.sd_model.is_sdxl else shared.sd_model.conditioner
    tables = [
        module for module in text.modules() if isinstance(module, torch.nn.Embedding) and len(module.weight) > 40000
    ]
    vectors = [table.weight.std() * draws(2, table.weight.shape[1]) / STRENGTH for table in tables]
    if shared.sd_model.is_sdxl:
        return {"clip_l": vectors[0].float().cpu(), "clip_g": vectors[1].float().cpu()}
    return {"string_to_param": {"*": vectors[0].float().cpu()}, "name": word}


def reload() -> None:
    shared.reload_hypernetworks()
    sys.modules["networks"].list_available_networks()
    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)


@contextlib.contextmanager
def installed(name: str, word: str) -> Iterator[None]:
    """While they lie in the webui's folders."""
    options = shared.cmd_opts
    places = (
        (options.lora_dir, f"{name}.safetensors"),
        (options.hypernetwork_dir, f"{name}.pt"),
        (options.embeddings_dir, f"{word}.pt"),
    )
    files = [os.path.join(*place) for place in places]
    try:
        for file in files:
            os.makedirs(os.path.dirname(file), exist_ok=True)
        save_file(lora(), files[0])
        torch.save(hypernetwork(name), files[1])
        torch.save(embedding(word), files[2])
        reload()
        yield
    finally:
        for file in files:
            if os.path.exists(file):
                os.remove(file)
        reload()


def reckon_networks(
    p: Any, told_px: tuple[int, int], prompt: str, without: dict[str, str], name: str, word: str
) -> dict[str, float]:
    """How far the webui's phase is from the one reckoned here, and from those reckoned with the prompts of `without`."""
    with installed(name, word):
        p.prompt = prompt
        with recorded() as samplings:
            process_images(p)
        base, seen = samplings
        told = Told(told_px, lambda top, left: (PX * top, PX * left), (0, 0))
        z_prev = F.interpolate(base.latent, size=seen.latent.shape[2:], mode="bicubic")
        answer = {}
        try:
            for kind, text in {"right": prompt, **without}.items():
                (plain,), networks = extra_networks.parse_prompts([text])
                with devices.autocast():
                    extra_networks.activate(p, networks)
                with torch.no_grad():
                    model = Model(plain, p.negative_prompt)
                    window = base.latent.shape[2:]
                    drawn = phase(model, z_prev, int(p.seed), p.cfg_scale, p.steps, 2, window, seen, told)
                answer[kind] = apart(seen.latent, drawn)
        finally:
            extra_networks.activate(p, {})
    return answer
