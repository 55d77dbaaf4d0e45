"""The phases, reckoned by an independent few lines inside the webui: the latents have to be these.

The webui runs `reckoning.py` by its own script "Custom code", which it offers if it was started with `--allow-code`.
So the process that is judged is the one that all other tests talk to: nothing is installed before its start, and no
second host has to be found, started and kept like the first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .client import REQUEST, WebUI

SCRIPT = "custom code"
SOURCE = Path(__file__).with_name("reckoning.py")
RUN = """\
from modules.processing import Processed
names = {{"__name__": "reckoning"}}
exec(compile({source!r}, "reckoning.py", "exec"), names)
answer = names["{function}"](p, *{arguments!r})
return Processed(p, [], infotexts=[__import__("json").dumps(answer)])
"""
PRECISION = """\
from modules.processing import Processed
names = {{"__name__": "reckoning"}}
exec(compile({source!r}, "reckoning.py", "exec"), names)
weight = next(names["parts"]()[0].parameters())
return Processed(p, [], infotexts=[__import__("json").dumps([weight.device.type, str(weight.dtype)])])
"""
Own = tuple[str, str, float]
AGREE, DIFFER = 1e-6, 1e-5
"""Relative. Float32 carries 6e-8 a step; what SDXL is told is one condition among several."""


@pytest.fixture
def exact(webui: WebUI) -> WebUI:
    """A webui that runs code and calculates in float32 on the CPU, as the reckoning does."""
    if SCRIPT not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        pytest.skip("the webui runs no code of ours; start it with --allow-code")
    code = PRECISION.format(source=SOURCE.read_text(encoding="utf-8"))
    device, dtype = json.loads(webui.draw(script_name=SCRIPT, script_args=[code, 2]).infotexts[0])
    if (device, dtype) != ("cpu", "torch.float32"):
        pytest.skip("the webui does not calculate in float32 on the CPU; start it with --no-half --use-cpu all")
    return webui


def run(
    webui: WebUI, function: str, arguments: tuple[Any, ...], settings: dict[str, Any], fields: dict[str, Any]
) -> Any:
    """What a function of `reckoning.py` answers to a run with these settings."""
    code = RUN.format(source=SOURCE.read_text(encoding="utf-8"), function=function, arguments=arguments)
    indent = 2
    answer = webui.enlarge({"script_name": SCRIPT, "script_args": [code, indent], **fields}, **settings)
    return json.loads(answer.infotexts[0])


def reckon(
    webui: WebUI,
    settings: dict[str, Any],
    fields: dict[str, Any],
    told_px: list[tuple[int, int]],
    origin_px: tuple[int, int],
) -> list[dict[str, float]]:
    return run(webui, "reckon", (told_px, origin_px), settings, fields)


def agree(webui: WebUI) -> float:
    """Twenty times as much for the tiny SD 2 that predicts v, whose answers guidance takes apart further: 1e-6 at CFG 1 and
    1e-5 at 5, where a step that begins a timestep off makes 4e-3."""
    return 20 * AGREE if "-v" in str(webui.options()["sd_model_checkpoint"]) else AGREE


@pytest.mark.parametrize(
    ("settings", "steps", "told_px", "origin_px"),
    [
        ({"sdxl_size": "final", "jitter": False}, 4, [(128, 192)], (0, 0)),
        ({"sdxl_size": "base"}, 3, [(64, 96)], (64, 24)),
        ({"sdxl_size": "phase", "scale": 3}, 3, [(128, 192), (192, 288)], (0, 0)),
    ],
)
def test_the_phases_are_as_reckoned(
    exact: WebUI, settings: dict[str, Any], steps: int, told_px: list[tuple[int, int]], origin_px: tuple[int, int]
) -> None:
    """What SDXL is told is in it: told anything else, the reckoning comes to another latent."""
    crop = dict(zip(("sdxl_crop_top", "sdxl_crop_left"), origin_px))
    fields = {"width": 96, "height": 64, "steps": steps, "override_settings": crop}
    for phase in reckon(exact, settings, fields, told_px, origin_px):
        nearest = min(phase, key=phase.__getitem__)
        assert nearest == "right" and phase["right"] < agree(exact), phase
        others = {mistake: apart for mistake, apart in phase.items() if mistake != "right"}
        assert all(apart >= DIFFER for apart in others.values()), others


OWN = ("blue house, (fog:1.3)", "rain", 8.5)
NAMES = ("phase_prompt", "phase_negative", "phase_cfg")


@pytest.mark.parametrize(
    ("own", "preset"),
    [(OWN, "none"), (OWN, "draft"), (("", "rain", 0.0), "fast"), ((OWN[0], "", 1.0), "none"), (("", "", 2.5), "draft")],
    ids=str,
)
def test_prompts_and_guidance_of_the_phases_own_are_as_reckoned(exact: WebUI, own: Own, preset: str) -> None:
    fields = {"width": 96, "height": 64, "steps": 4}
    settings: dict[str, Any] = {"preset": preset, "jitter": False, "scale": 2, **dict(zip(NAMES, own))}
    asked = own[0] or REQUEST["prompt"], own[1] or REQUEST["negative_prompt"], own[2] or REQUEST["cfg_scale"]
    if preset == "none":
        (answer,) = run(exact, "reckon", ([(128, 192)], (0, 0), asked), settings, fields)
    else:
        few = (601.0, 0.25, 300.0 if preset == "draft" else 0.0, preset == "draft", False)
        settings |= {"enlarge": "latent", "steps": 3}
        answer = run(exact, "reckon_few", ((128, 192), few, asked), settings, fields)
    right = answer.pop("right")
    assert right < agree(exact), (right, answer)
    assert all(apart >= DIFFER for apart in answer.values()), answer


@pytest.mark.parametrize("enlarge", ["pixels", "latent"])
@pytest.mark.parametrize(("preset", "until"), [("fast", 0.0), ("draft", 300.0)])
def test_phases_of_few_steps_are_as_reckoned(exact: WebUI, preset: str, until: float, enlarge: str) -> None:
    """A late start, weighed windows, guidance while it pays and the residual of the predictions."""
    pixels = enlarge == "pixels"
    settings = {"preset": preset, "enlarge": enlarge, "jitter": False, "steps": 3, "scale": 2, "sdxl_size": "final"}
    fields = {"width": 96, "height": 64, "steps": 4}
    answer = run(exact, "reckon_few", ((128, 192), (601.0, 0.25, until, preset == "draft", pixels)), settings, fields)
    right = answer.pop("right")
    assert right < (3 if pixels else 1) * agree(exact), (right, answer)
    assert all(apart >= DIFFER for apart in answer.values()), answer
