"""What sd-webui-controlnet does to finished pictures, at a phase's size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def is_finishing(module: str) -> bool:
    """Whether the extension has something to do to a finished picture."""
    return "inpaint_only" in module or ("recolor" in module and ("luminance" in module or "intensity" in module))


class Pasted:
    """Puts back what lies outside of an inpaint unit's mask, as the extension does at the base image's size.

    hint: `(1 or images, 4, height, width)`, the mask last. soft_px: how far the mask is widened and softened, odd.
    original: the extension's own, for pictures of other sizes.
    """

    def __init__(self, hint: torch.Tensor, soft_px: int, original: Any):
        mask = F.max_pool2d(hint[:, 3:].gt(0.5).float(), soft_px, 1, soft_px // 2)
        self.mask = F.avg_pool2d(mask, soft_px, 1, soft_px // 2, count_include_pad=False).cpu()
        self.picture = hint[:, :3].cpu()
        self.original = original.original if isinstance(original, Pasted) else original

    def __call__(self, image: torch.Tensor, index: int) -> torch.Tensor:
        """`image (3, height, width)` in [0, 1]."""
        if image.shape[-2:] != self.picture.shape[-2:]:
            answer: torch.Tensor = self.original(image, index)
            return answer
        at = index if index < len(self.picture) else 0
        return torch.lerp(self.picture[at].to(image), image.clip(0, 1), self.mask[at].to(image)).clip(0, 1)
