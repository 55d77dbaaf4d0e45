"""The host's conditions, cut to fit the patches that the model is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core import Looking
from ..targets import LATENT_PX

SIZE_KEYS = {"original_size_as_tuple": 2, "crop_coords_top_left": 2, "target_size_as_tuple": 2, "aesthetic_score": 1}
"""Inputs of SDXL's conditioner that end up as sinusoids at the end of `vector`, and how many numbers each holds."""


def told_of(cond: Any, now: Looking) -> Any:
    """A condition, a row for each of the denoiser's call, for the patches that the model is given.

    Tensors as large as the latent (`c_concat` of inpainting and depth models) are cut as the latent is, or shrunk with it;
    all others follow their rows.
    """
    if isinstance(cond, dict):
        return {key: told_of(value, now) for key, value in cond.items()}
    if isinstance(cond, (list, tuple)):
        return [told_of(value, now) for value in cond]
    if not isinstance(cond, torch.Tensor):
        return cond
    if cond.ndim == 4 and tuple(cond.shape[-2:]) == now.size_lat:
        return now.cut(cond, now.rows)
    return cond[now.rows]


class CropCorner:
    """Writes each window's crop corner into SDXL's `vector` (section 3.3; the authors' `add_time_ids`).

    slot: the columns of `vector`, counted from its end, that hold the corner's sinusoids.
    """

    def __init__(
        self, slot: tuple[int, int], embed: Callable[[torch.Tensor], torch.Tensor], origin_px: tuple[int, int]
    ):
        self.slot = slot
        self.embed = embed
        self.origin_px = origin_px

    @classmethod
    def of(cls, sd_model: Any, origin_px: tuple[int, int]) -> CropCorner | None:
        """None for a model without a crop corner. `origin_px` is the `(top, left)` that the host tells it of the image."""
        # the first host has one of its own where it moves models about (--medvram), which is None
        if getattr(sd_model, "is_sdxl", False) and getattr(sd_model, "embedder", None) is not None:
            return cls.of_embedder(sd_model, origin_px)
        embedders = list(getattr(getattr(sd_model, "conditioner", None), "embedders", ()))
        keys = [getattr(embedder, "input_key", None) for embedder in embedders]
        if "crop_coords_top_left" not in keys:
            return None
        position = keys.index("crop_coords_top_left")
        widths = [e.outdim * SIZE_KEYS[k] if k in SIZE_KEYS else 0 for e, k in zip(embedders, keys)]
        end = sum(widths[position + 1 :])
        return cls((end + widths[position], end), embedders[position], origin_px)

    @classmethod
    def of_embedder(cls, sd_model: Any, origin_px: tuple[int, int]) -> CropCorner:
        """Of Forge's SDXL, which embeds each number by itself: behind the corner stand the target's size or, of a refiner,
        one aesthetic score."""
        width = int(sd_model.embedder(torch.zeros(1)).shape[-1])
        end = width if type(sd_model).__name__.endswith("Refiner") else 2 * width
        return cls(
            (end + 2 * width, end),
            lambda numbers: sd_model.embedder(numbers.flatten()).view(len(numbers), -1),
            origin_px,
        )

    def write(self, vector: torch.Tensor, now: Looking) -> torch.Tensor:
        """`vector (n, width)` with the corner of each local window; what shows the whole picture keeps the image's own."""
        corners = {i: view.corner_lat for i, view in enumerate(now.views) if view.corner_lat is not None}
        if not corners:
            return vector
        top, left = self.origin_px
        numbers = [[top + y * LATENT_PX, left + x * LATENT_PX] for y, x in corners.values()]
        sinusoids = self.embed(torch.tensor(numbers, device=vector.device, dtype=torch.float32))
        vector = vector.clone()
        start, end = self.slot
        vector[list(corners), vector.shape[1] - start : vector.shape[1] - end] = sinusoids.to(vector.dtype)
        return vector
