"""Latents to pictures, pictures to files that carry their settings as the webui's do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from .drawing import Drawing
from .models import Model


@torch.no_grad()
def decode(model: Model, latent: torch.Tensor) -> list[Image.Image]:
    """`latent (batch, 4, height, width)`, one image at a time: the decoder takes more memory than anything else."""
    images = []
    for one in latent:
        pixels = model.vae.decode(model.unscaled(one[None]), return_dict=False)[0][0].float().add(1).div(2).clamp(0, 1)
        if not torch.isfinite(pixels).all():
            raise ValueError("the decoded picture holds NaNs")
        images.append(Image.fromarray((255 * pixels.permute(1, 2, 0).cpu().numpy()).round().astype(np.uint8)))
    return images


def infotext(drawing: Drawing, index: int) -> str:
    """Image `index`'s parameters, in the webui's form: its `Size` is the base's."""
    order = drawing.order
    named = {
        "Steps": order.steps, "Sampler": drawing.sampler.name, "Schedule type": drawing.scheduler,
        "CFG scale": f"{order.guidance:g}", "Seed": order.seeds[index],
        "Size": f"{order.width_px}x{order.height_px}", "Model": drawing.model.name, **order.params.to_infotext(),
    }  # fmt: skip
    lines = [order.prompts[index]] + ([f"Negative prompt: {order.negative}"] if order.negative else [])
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in named.items())])


def save(images: Sequence[Image.Image], paths: Sequence[Path], drawing: Drawing) -> None:
    for index, (image, path) in enumerate(zip(images, paths)):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", infotext(drawing, index))
        image.save(path, pnginfo=info)
