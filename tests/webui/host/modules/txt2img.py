"""The txt2img tab's press."""

from __future__ import annotations

import gradio as gr

from modules import processing, scripts, shared


def txt2img_create_processing(
    id_task: str, request: gr.Request, prompt: str, negative_prompt: str, prompt_styles, n_iter: int, batch_size: int,
    cfg_scale: float, height: int, width: int, enable_hr: bool, denoising_strength: float, hr_scale: float,
    hr_upscaler: str, hr_second_pass_steps: int, hr_resize_x: int, hr_resize_y: int, hr_checkpoint_name: str,
    hr_sampler_name: str, hr_scheduler: str, hr_prompt: str, hr_negative_prompt, override_settings_texts, *args,
    force_enable_hr=False,
):  # fmt: skip
    p = processing.StableDiffusionProcessingTxt2Img(
        outpath_samples="out", prompt=prompt, negative_prompt=negative_prompt, styles=prompt_styles, n_iter=n_iter,
        batch_size=batch_size, cfg_scale=cfg_scale, height=height, width=width, enable_hr=enable_hr or force_enable_hr,
        denoising_strength=denoising_strength,
    )  # fmt: skip
    p.scripts = scripts.scripts_txt2img
    p.script_args = args
    p.user = getattr(request, "username", None)
    shared.total_tqdm.clear()
    return p
