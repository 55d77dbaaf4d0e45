"""Training pictures: whole scenes at native size, and native-sized crops of their larger renders."""

from __future__ import annotations

import torch

from .scenes import NATIVE_PX, draw_scene, render

CROP_SCALES = (2, 3, 4)
WHOLE = 0.5
"""Share of whole scenes. The crops are what windows of a larger picture show: the prior they rely on."""
NO_PROMPT = 0.1
"""Share of empty prompts, for guidance."""


def draw_picture(generator: torch.Generator, size_px: int = NATIVE_PX) -> tuple[torch.Tensor, str]:
    """One picture `(3, size, size)` in [-1, 1] and its prompt."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    scene = draw_scene(generator)
    scale, corner = 1, (0, 0)
    if float(torch.rand((), generator=generator)) >= WHOLE:
        scale = CROP_SCALES[below(len(CROP_SCALES))]
    slack = NATIVE_PX * scale - size_px
    if slack:
        corner = below(slack + 1), below(slack + 1)
    picture = render(scene, scale, corner, (size_px, size_px))
    prompt = "" if float(torch.rand((), generator=generator)) < NO_PROMPT else scene.prompt
    return picture * 2 - 1, prompt


def draw_batch(generator: torch.Generator, count: int, size_px: int = NATIVE_PX) -> tuple[torch.Tensor, list[str]]:
    pictures, prompts = zip(*(draw_picture(generator, size_px) for _ in range(count)))
    return torch.stack(pictures), list(prompts)
