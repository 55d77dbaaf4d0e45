"""A LoRA, a hypernetwork and an embedding in the loaded model's own shapes, and the phases reckoned with them inside the webui.

`test_networks.py` sends this file's text to the webui, behind that of `reckoning.py`, which it imports by that name.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
from modules import devices, extra_networks, sd_hijack, shared  # noqa: TID251
from modules.processing import process_images  # noqa: TID251
from reckoning import PX, Model, Told, apart, is_forge, parts, phase, recorded
from safetensors.torch import save_file
from torch.nn import functional as F

STRENGTH = 0.2


def draws(*shape: int) -> torch.Tensor:
    seed = sum((i + 1) * length for i, length in enumerate(shape))
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * STRENGTH


def text_encoder() -> torch.nn.Module:
    """The one that SD 1 has and SDXL too."""
    model = shared.sd_model
    if is_forge():
        return model.forge_objects.clip.cond_stage_model.clip_l.transformer
    return (model.conditioner.embedders[0] if model.is_sdxl else model.cond_stage_model).wrapped.transformer


def lora() -> dict[str, torch.Tensor]:
    """Of rank 2, on every attention to the prompt and on the text encoder's."""
    state, text = {}, "lora_te1" if shared.sd_model.is_sdxl else "lora_te"
    places = [
        ("lora_unet", parts()[0], lambda path: ".attn2.to_" in path),
        (text, text_encoder(), lambda path: path.endswith("self_attn.q_proj")),
    ]
    for prefix, network, chosen in places:
        for path, module in network.named_modules():
            weight = getattr(module, "weight", None)  # Forge's linear layers are of a class of its own
            if weight is None or weight.ndim != 2 or not chosen(path):
                continue
            name, (high, wide) = f"{prefix}_{path}".replace(".", "_"), weight.shape
            state |= {f"{name}.lora_up.weight": draws(high, 2), f"{name}.lora_down.weight": draws(2, wide)}
            state[f"{name}.alpha"] = torch.tensor(2.0)
        assert any(name.startswith(f"{prefix}_") for name in state), prefix
    return state


def hypernetwork(name: str) -> dict[Any, Any]:
    """Of one layer, on what the attentions read of the prompt."""
    widths = {module.to_k.weight.shape[1] for path, module in parts()[0].named_modules() if path.endswith("attn2")}
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
    networks = sys.modules["networks"]
    networks.list_available_networks()
    if is_forge():
        getattr(networks.load_lora_state_dict, "cache_clear", int)()  # Forge holds files by their names
        return
    shared.reload_hypernetworks()
    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)


def save_loras(p: Any, parts: dict[str, str]) -> list[str]:
    """The LoRA by each name, of it the keys in which a pattern is found, for good. Their names as prompts have them."""
    os.makedirs(shared.cmd_opts.lora_dir, exist_ok=True)
    for name, part in parts.items():
        state = {key: value for key, value in lora().items() if re.search(part, key)}
        save_file(state, os.path.join(shared.cmd_opts.lora_dir, f"{name}.safetensors"))
    reload()
    return list(parts)


def remove_loras(p: Any, names: list[str]) -> list[str]:
    for name in names:
        os.remove(os.path.join(shared.cmd_opts.lora_dir, f"{name}.safetensors"))
    reload()
    return names


@contextlib.contextmanager
def installed(name: str, word: str) -> Iterator[None]:
    """While they lie in the webui's folders."""
    options = shared.cmd_opts
    places = [(options.lora_dir, f"{name}.safetensors")]
    if not is_forge():
        places += [(options.hypernetwork_dir, f"{name}.pt"), (options.embeddings_dir, f"{word}.pt")]
    files = [os.path.join(*place) for place in places]
    try:
        for file in files:
            os.makedirs(os.path.dirname(file), exist_ok=True)
        save_file(lora(), files[0])
        if is_forge():
            reload()
            yield
            return
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
