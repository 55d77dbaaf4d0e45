"""The file: one state dict in the original SD1 layout, half precision, and the config that tells a reader its widths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from .text import TOKENS

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text": "cond_stage_model.transformer.text_model.",
}
State = Mapping[str, torch.Tensor]


def state_dict(unet: State, vae: State, text: State) -> dict[str, torch.Tensor]:
    parts = {"unet": unet, "vae": vae, "text": text}
    state = {
        PREFIXES[name] + key: value.detach().cpu().half().contiguous()
        for name, part in parts.items()
        for key, value in part.items()
    }
    state[PREFIXES["text"] + "embeddings.position_ids"] = torch.arange(TOKENS)[None]
    return state


def save_checkpoint(path: Path, unet: State, vae: State, text: State) -> int:
    """Writes the file and answers its size in bytes."""
    state = state_dict(unet, vae, text)
    save_file(state, path)
    return path.stat().st_size
