"""What else the webui lets its users set: Hires. fix, the refiner, options of its own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from lab.install import NAME

from .client import WebUI, apart, assert_drawn, mean_apart
from .conftest import toy_title

SIZE = (128, 128)
REFINER = os.environ.get("LIVE_REFINER", NAME)


@pytest.mark.parametrize(
    "resize", [{"hr_scale": 3}, {"hr_resize_x": 96, "hr_resize_y": 160, "hr_second_pass_steps": 2}]
)
def test_demofusion_takes_the_place_of_hires_fix(webui: WebUI, resize: dict[str, Any]) -> None:
    fields = {"enable_hr": True, "denoising_strength": 0.6, "hr_upscaler": "Latent", **resize, **webui.for_hires_fix}
    both = webui.enlarge(fields)
    assert both.sizes == [SIZE]
    assert both.picture.tobytes() == webui.enlarge().picture.tobytes()
    host_alone = webui.draw({"enabled": False}, **fields)
    assert host_alone.sizes == webui.draw(**fields).sizes != [(64, 64)]


OPTIONS: list[dict[str, Any]] = [
    {"always_discard_next_to_last_sigma": True},
    {"sgm_noise_multiplier": True},
    {"eta_noise_seed_delta": 31337},
    {"randn_source": "CPU"},
    {"randn_source": "NV"},
    {"sd_noise_schedule": "Zero Terminal SNR"},
    {"CLIP_stop_at_last_layers": 2},
    {"token_merging_ratio": 0.4},
    {"use_old_scheduling": True},
    {"sigma_min": 0.1, "sigma_max": 10, "rho": 5},
]


@pytest.mark.once
@pytest.mark.parametrize("overrides", OPTIONS, ids=lambda overrides: next(iter(overrides)))
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_options_of_the_host(webui: WebUI, sampler: str, overrides: dict[str, Any]) -> None:
    fields = {"sampler_name": sampler, "scheduler": "Karras", "override_settings": overrides}
    assert_drawn(webui.enlarge(fields).picture, SIZE)


def test_sdxls_crop_corner(webui: WebUI) -> None:
    """The windows' corners are counted from the one that the host is set to."""
    overrides = {"sdxl_crop_top": 64, "sdxl_crop_left": 32}
    assert_drawn(webui.enlarge({"override_settings": overrides}).picture, SIZE)


@pytest.mark.once
@pytest.mark.parametrize(
    "fields",
    [
        {"sampler_name": "Euler", "override_settings": {"s_churn": 10}},
        {"sampler_name": "Heun", "override_settings": {"s_churn": 10}, "s_noise": 1.01},
        {"sampler_name": "DDIM", "eta": 0.7},
        {"sampler_name": "Euler a", "eta": 0.3},
        {"sampler_name": "Euler a", "eta": 0},
        {"sampler_name": "DPM fast", "eta": 0.5, "steps": 4},
        {"sampler_name": "UniPC", "override_settings": {"uni_pc_order": 2, "uni_pc_variant": "vary_coeff"}},
        {"sampler_name": "UniPC", "override_settings": {"uni_pc_skip_type": "logSNR", "uni_pc_lower_order_final": False}},
        {"sampler_name": "Euler", "tiling": True},
    ],
)  # fmt: skip
def test_settings_of_samplers(webui: WebUI, fields: dict[str, Any]) -> None:
    assert_drawn(webui.enlarge(fields).picture, SIZE)


@pytest.mark.once
def test_the_refiner_draws_in_the_base_image_only(webui: WebUI, checkpoint: str) -> None:
    """Any checkpoint can be named as the refiner: the toy serves."""
    titles = {NAME: toy_title(), **{model["model_name"]: model["title"] for model in webui.ask("sd-models")}}
    refiner = titles.get(REFINER)
    if refiner is None or checkpoint == REFINER:
        pytest.skip(f"the webui has no checkpoint {REFINER} to refine with (LIVE_REFINER names another)")
    plain = webui.draw()
    fields = {"refiner_checkpoint": refiner, "refiner_switch_at": 0.5, "steps": 4}
    refined = webui.draw(**fields)
    large = webui.enlarge(fields, keep_phases=True)
    assert_drawn(large.picture, SIZE)
    assert apart(large.pictures[1], refined.picture) == 0, "the base image is the host's, refiner and all"
    assert (
        mean_apart(large.picture, webui.enlarge({"steps": 4}).picture) > 0
    ), "the refined base is what the phases climb from"
    assert webui.draw().images == plain.images, "the base model is back"
