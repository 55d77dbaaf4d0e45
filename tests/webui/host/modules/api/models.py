"""Requests: the fields of the processing objects, each with its default."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class _Request(BaseModel):
    prompt: str | None = ""
    negative_prompt: str | None = ""
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int | None = 1
    n_iter: int | None = 1
    steps: int | None = 50
    cfg_scale: float | None = 7.0
    width: int | None = 512
    height: int | None = 512
    tiling: bool | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    override_settings: dict[str, Any] | None = None
    refiner_checkpoint: str | None = None
    sampler_index: str | None = "Euler"
    alwayson_scripts: dict[str, Any] | None = {}
    infotext: str | None = None


class StableDiffusionTxt2ImgProcessingAPI(_Request):
    enable_hr: bool | None = False


class StableDiffusionImg2ImgProcessingAPI(_Request):
    init_images: list[Any] | None = None
    resize_mode: int | None = 0
    denoising_strength: float | None = 0.75
    mask: str | None = None
    inpainting_fill: int | None = 0
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: int | None = 0
    inpainting_mask_invert: int | None = 0
    mask_blur_x: int | None = 4
    mask_blur_y: int | None = 4
