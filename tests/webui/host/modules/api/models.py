"""A txt2img request: the fields of the processing object, each with its default."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class StableDiffusionTxt2ImgProcessingAPI(BaseModel):
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
    enable_hr: bool | None = False
    sampler_index: str | None = "Euler"
    alwayson_scripts: dict[str, Any] | None = {}
    infotext: str | None = None
