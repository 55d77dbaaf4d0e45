"""Nothing stays behind: with the extension off, the same bytes as before it was used, whatever happened between."""

from __future__ import annotations

import pytest

from .client import Drawing, WebUI


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ SDE", "DDIM", "UniPC"])
def test_off_is_as_it_was(webui: WebUI, sampler: str) -> None:
    assert_no_traces(webui, sampler)


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "Heun", "Restart", "LCM", "DDIM CFG++", "PLMS"])
def test_off_is_as_it_was_with_more_samplers(webui: WebUI, sampler: str) -> None:
    assert_no_traces(webui, sampler)


def assert_no_traces(webui: WebUI, sampler: str) -> None:
    fields = {"sampler_name": sampler, "seed": 44}
    before = webui.draw(**fields).images
    webui.enlarge(fields)
    assert webui.draw(**fields).images == before, "after a picture"
    assert webui.try_draw({"enabled": True, "scale": 9}, **fields).status == 422
    assert webui.draw(**fields).images == before, "after bad settings"
    drawing = Drawing(webui, {"steps": 150}, **fields)
    drawing.wait_for(phase=2)
    drawing.stop("interrupt")
    assert webui.draw(**fields).images == before, "after an interrupt"
    assert webui.draw({"enabled": False}, **fields).images == before, "with the extension named, but off"


@pytest.mark.once
def test_hires_fix_is_as_it_was(webui: WebUI) -> None:
    fields = {
        "enable_hr": True,
        "denoising_strength": 0.6,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        **webui.for_hires_fix,
    }
    before = webui.draw(**fields).images
    webui.enlarge(fields)
    assert webui.draw(**fields).images == before


@pytest.mark.once
def test_img2img_is_as_it_was(webui: WebUI) -> None:
    fields = {
        "init_images": webui.draw().images,
        "denoising_strength": 0.6,
        "steps": 4,
        "width": 64,
        "height": 64,
        "seed": 5,
    }
    before = webui.ask("img2img", fields)["images"]
    webui.enlarge()
    assert webui.ask("img2img", fields)["images"] == before


@pytest.mark.once
def test_options_are_as_they_were(webui: WebUI) -> None:
    before = webui.options()
    webui.enlarge({"override_settings": {"CLIP_stop_at_last_layers": 2}})
    assert webui.options() == before
