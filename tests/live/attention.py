"""Token merging and HyperTile in the phases: every answer of the UNet against one that was set up for its shape alone.

`test_attention.py` sends this file's text to the webui, which runs it in its own process.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from modules import sd_models, shared  # noqa: TID251
from modules.processing import process_images  # noqa: TID251

MAX_TILE_PX, RATIO = 128, 0.5


def recorded(p: Any) -> list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any], torch.Tensor]]:
    """The UNet's inputs and its answer in every call of a generation."""
    unet, calls = shared.sd_model.model.diffusion_model, []
    plain = unet.forward

    def forward(x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        answer = plain(x, *args, **named)
        calls.append((x.clone(), args, named, answer.clone()))
        return answer

    unet.forward = forward
    try:
        process_images(p)
    finally:
        del unet.forward
    return calls


def set_hypertile(height_lat: int, width_lat: int, on: bool) -> None:
    sys.modules["hypertile"].hypertile_hook_model(
        shared.sd_model.model, width_lat * 8, height_lat * 8, enable=on, swap_size=1, max_depth=3,
        tile_size_max=MAX_TILE_PX, is_sdxl=shared.sd_model.is_sdxl,
    )  # fmt: skip


def set_merging(height_lat: int, width_lat: int, on: bool) -> None:
    sd_models.apply_token_merging(shared.sd_model, 0)
    sd_models.apply_token_merging(shared.sd_model, RATIO if on else 0)


def compare(p: Any, what: str) -> dict[str, list[float]]:
    """For each shape the UNet was given: how far its answers were from those it gives when set up for that shape, and
    from those it gives with nothing set up; relative."""
    calls, unet = recorded(p), shared.sd_model.model.diffusion_model
    setting, result = {"hypertile": set_hypertile, "merging": set_merging}[what], {}
    with torch.no_grad():
        for x, args, named, answer in calls:
            height, width = x.shape[-2:]
            apart = []
            for on in (True, False):
                setting(height, width, on)
                apart.append(float((unet(x, *args, **named) - answer).norm() / answer.norm()))
            worst = result.setdefault(f"{width}x{height}", [0.0, float("inf")])
            result[f"{width}x{height}"] = [max(worst[0], apart[0]), min(worst[1], apart[1])]
    return result
