"""What the webui's own script "SD upscale" makes of a picture: asked of a running webui that has the toy."""

from __future__ import annotations

from typing import Any

import torch

from bench.quality.rows import GUIDANCE, Case, Subject
from demofusion_lib.pictures import tensor
from demofusion_lib.standalone.decoding import to_image
from lab.install import NAME
from tests.live.client import WebUI

OVERLAP_PX, UPSCALER = 64, "Lanczos"
STEPS = 20


def upscaled(webui: WebUI, picture: torch.Tensor, case: Case, subject: Subject, strength: float) -> torch.Tensor:
    """`picture (3, height, width)` in [0, 1], enlarged by Lanczos and drawn again in overlapping tiles of its own size."""
    height, width = case.base_px
    fields: dict[str, Any] = {
        "prompt": subject.prompt, "negative_prompt": "", "seed": subject.number, "steps": STEPS, "cfg_scale": GUIDANCE,
        "sampler_name": "Euler", "width": width, "height": height, "denoising_strength": strength,
        "script_name": "sd upscale", "script_args": ["", OVERLAP_PX, UPSCALER, case.scale],
        "override_settings": {"sd_model_checkpoint": NAME},
    }  # fmt: skip
    answer = webui.redraw(to_image(picture * 2 - 1), None, **fields)
    return tensor(answer.picture).add(1).div(2)
