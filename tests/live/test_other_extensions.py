"""Beside multidiffusion-upscaler, where the webui has it: its Tiled Diffusion, its own demofusion script, its Tiled VAE."""

from __future__ import annotations

from typing import Any

import pytest

from .client import ROUNDING, SETTINGS, Answer, WebUI, apart, assert_drawn

pytestmark = pytest.mark.once
FIELDS = {"width": 128, "height": 128, "steps": 4}
NOTE = "DemoFusion note"


def arguments(webui: WebUI, script: str, **values: Any) -> dict[str, Any]:
    """Switched on by the first of its arguments; others by the labels on its page, with underscores for spaces."""
    found = [s for s in webui.ask("script-info") if s["name"] == script and not s["is_img2img"]]
    if not found:
        pytest.skip(f"the webui has no script {script!r}; install multidiffusion-upscaler")
    wanted = {label.replace("_", " "): value for label, value in values.items()}
    args = [wanted.pop(arg["label"], arg["value"]) for arg in found[0]["args"]]
    assert not wanted, f"{script} has no {', '.join(wanted)}"
    return {script: {"args": [True, *args[1:]]}}


def draw(webui: WebUI, other: dict[str, Any], settings: dict[str, Any] | None = None) -> Any:
    ours = {} if settings is None else {"DemoFusion Hires": {"args": [{**SETTINGS, **settings}]}}
    return webui.draw(None, alwayson_scripts={**other, **ours}, **FIELDS)


@pytest.mark.parametrize("method", ["MultiDiffusion", "Mixture of Diffusers"])
def test_tiled_diffusion_with_tiles_smaller_than_the_base(webui: WebUI, method: str) -> None:
    """It draws the base image as it does alone, and the phases come to their end."""
    tiles = {"Latent_tile_width": 8, "Latent_tile_height": 8, "Latent_tile_overlap": 4}
    other = arguments(webui, "tiled diffusion", Method=method, **tiles)
    alone = draw(webui, other).picture
    answer = draw(webui, other, {"scale": 3, "keep_phases": True})
    assert_drawn(answer.picture, (384, 384))
    assert apart(answer.pictures[answer.sizes.index((128, 128))], alone) == 0
    assert "DemoFusion stopped" not in answer.infotexts[0]
    told = "draws in the base image only" if method == "MultiDiffusion" else "takes part in every window"
    assert NOTE in answer.infotexts[0] and told in answer.infotexts[0]
    assert webui.draw(**FIELDS).images == webui.draw(None, **FIELDS).images


def test_its_demofusion_script_draws_instead_of_ours(webui: WebUI) -> None:
    answer = draw(webui, arguments(webui, "demofusion"), {})
    assert "left out, as the extension multidiffusion-upscaler" in answer.infotexts[0]
    assert all(key not in answer.infotexts[0] for key in ("DemoFusion enabled", "DemoFusion window batch"))


def test_its_tiled_vae_decodes_instead_of_ours_while_it_is_on(webui: WebUI) -> None:
    """Its own tiles begin above 70 cells. Off again it leaves nothing that ours would stop at."""
    settings = {"preset": "draft", "scale": 6, "plan": "direct"}
    other = arguments(webui, "tiled vae", Encoder_Tile_Size=256, Decoder_Tile_Size=48)

    def drawn(other: dict[str, Any], **values: Any) -> Answer:
        scripts = {**other, "DemoFusion Hires": {"args": [{**SETTINGS, **settings, **values}]}}
        return webui.draw(None, alwayson_scripts=scripts, width=96, height=96, steps=2)

    ours, both = drawn({}), drawn(other)
    assert both.sizes == [(576, 576)] and apart(both.picture, ours.picture) > ROUNDING
    assert apart(both.picture, drawn(other, vae="host").picture) == 0
    told = "the extension multidiffusion-upscaler"
    assert told in both.infotexts[0] and "decodes the phases" in both.infotexts[0]
    assert "codes the pictures between phases" in both.infotexts[0] and "can't be read" not in both.infotexts[0]
    assert drawn({}).images == ours.images
