"""The images of the phases before the last, for those who ask to keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from modules import devices, images, shared
from modules.processing import create_infotext, decode_latent_batch
from PIL import Image


@dataclass
class KeptImage:
    image: Image.Image
    infotext: str


def to_image(decoded: torch.Tensor) -> Image.Image:
    """From the VAE's `(3, height, width)` in [-1, 1], with the host's rounding."""
    pixels = torch.clamp((decoded.float() + 1.0) / 2.0, min=0.0, max=1.0)
    return Image.fromarray((255.0 * np.moveaxis(pixels.cpu().numpy(), 0, 2)).astype(np.uint8))


def keep_images(p: Any, run: Any, phase_number: int, latent: torch.Tensor) -> None:
    """Decodes a finished phase and saves it beside the result, if `keep_phases` is on."""
    if not run.params.keep_phases:
        return
    decoded = decode_latent_batch(p.sd_model, latent, target_device=devices.cpu, check_for_nans=True)
    for i, tensor in enumerate(decoded):
        image = to_image(tensor)
        text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts)
        if shared.opts.enable_pnginfo:
            image.info["parameters"] = text
        if p.save_samples():
            images.save_image(
                image, p.outpath_samples, "", p.seeds[i], p.prompts[i], shared.opts.samples_format,
                info=text, p=p, suffix=f"-demofusion-phase-{phase_number}",
            )  # fmt: skip
        run.kept.append(KeptImage(image, text))


def append_kept(processed: Any, kept: list[KeptImage]) -> None:
    """Puts the kept images behind the results, in the gallery and in the API's answer."""
    processed.images.extend(k.image for k in kept)
    processed.infotexts.extend(k.infotext for k in kept)
