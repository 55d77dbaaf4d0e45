"""Phases drawn with another sampler than the base image, and few of their steps; what an X/Y/Z plot makes of our settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .client import SCRIPT, SETTINGS, WebUI, apart, assert_drawn, mean_apart
from .test_reckoning import exact  # noqa: F401
from .test_scripts import XYZ, plot

SIZE = (128, 128)
PAIRS = [
    ("Euler", "DPM++ 2M"),
    ("DPM++ 2M", "DDIM"),
    ("Euler", "UniPC"),
    ("DDIM", "Heun"),
    ("UniPC", "DPM++ SDE"),
    ("Euler", "LCM"),
]
FEW = {"preset": "fast", "steps": 3}


@pytest.mark.parametrize(("base", "phase"), PAIRS)
def test_the_base_image_stays_the_webuis(webui: WebUI, base: str, phase: str) -> None:
    """To the byte of its pixels, and its infotext says so; the phases are another picture than with its own sampler."""
    fields = {"sampler_name": base}
    alone, own = webui.draw(**fields), webui.enlarge(fields)
    answer = webui.enlarge(fields, phase_sampler=phase, keep_phases=True)
    large, kept = answer.pictures
    assert kept.tobytes() == alone.picture.tobytes()
    assert_drawn(large, SIZE)
    assert mean_apart(large, own.picture) > 0
    for key in ("Sampler", "Schedule type"):
        told = [text.partition(f"{key}: ")[2].partition(",")[0] for text in (answer.infotexts[0], alone.infotexts[0])]
        assert told[0] == told[1]
    assert f"DemoFusion phase sampler: {phase}" in answer.infotexts[0]


def test_the_picture_is_drawn_again_from_its_infotext(webui: WebUI) -> None:
    fields = {"sampler_name": "DDIM"}
    first = webui.enlarge(fields, phase_sampler="DPM++ 2M", phase_scheduler="Karras")
    again = webui.paste(first.infotexts[0])
    assert again.images == first.images and again.infotexts == first.infotexts


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"phase_sampler": "Eulr"}, "phase_sampler is 'Eulr', allowed: same, DPM++ 2M"),
        ({"phase_scheduler": "Karr"}, "phase_scheduler is 'Karr', allowed: same, Automatic"),
        (
            {"phase_sampler": "DDIM", "phase_scheduler": "Karras"},
            "phase_scheduler is 'Karras', allowed",
        ),
    ],
    ids=str,
)
def test_what_the_webui_does_not_have_is_refused(webui: WebUI, settings: dict[str, Any], words: str) -> None:
    answer = webui.try_draw({**SETTINGS, **settings})
    assert answer.status == 422 and words in answer.detail


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("base", ["LCM", "Euler"])
def test_few_step_models(webui: WebUI, base: str, steps: int) -> None:
    """LCM at CFG 1. What untrained weights draw of it is no picture, but one of that size, and the same twice."""
    fields = {"sampler_name": base, "cfg_scale": 1, "steps": 2}
    pictures = [webui.enlarge(fields, preset="fast", steps=steps, phase_sampler="LCM") for _ in range(2)]
    assert pictures[0].sizes == [SIZE] and pictures[0].images == pictures[1].images


COUNT = """\
import json
from modules import sd_models, sd_samplers_common, shared
from modules.processing import Processed, process_images
from demofusion_lib.params import Params
from demofusion_lib.webui.planning import plan_of
rows, plain = [], sd_samplers_common.Sampler.launch_sampling
def launch(self, steps, func):
    rows.append(0)
    return plain(self, steps, func)
def looking(unet, args, kwargs):
    rows[-1] += len(args[0])
getattr(sd_models, "forge_model_reload", lambda: None)()
objects = getattr(shared.sd_model, "forge_objects", None)
unet = (shared.sd_model.model if objects is None else objects.unet.model).diffusion_model
sd_samplers_common.Sampler.launch_sampling = launch
hook = unet.register_forward_pre_hook(looking, with_kwargs=True)
try:
    process_images(p)
finally:
    hook.remove()
    sd_samplers_common.Sampler.launch_sampling = plain
plan = plan_of(p, Params.from_names({settings!r}))
foretold = [plan.base_evaluations, *map(plan.evaluations, plan.phases)]
return Processed(p, [], infotexts=[json.dumps([rows, foretold])])
"""


@pytest.mark.parametrize("phase", ["DPM++ 2M", "Heun", "UniPC", "DPM fast", "LCM"])
@pytest.mark.parametrize("settings", [{"dilated": False, "steps": 4}, FEW], ids=str)
def test_rows_foretold_are_rows_run(exact: WebUI, phase: str, settings: dict[str, Any]) -> None:  # noqa: F811
    steps = {"steps": 4} if phase == "DPM fast" else {}
    named = {**SETTINGS, **settings, **steps, "phase_sampler": phase, "phase_scheduler": "Automatic"}
    code = COUNT.replace("{settings!r}", repr(named))
    fields = {"sampler_name": "Euler" if phase != "DPM fast" else "DDIM", "cfg_scale": 1 if phase == "LCM" else 5}
    answer = exact.enlarge({"script_name": "custom code", "script_args": [code, 2], **fields}, **named)
    counted, foretold = json.loads(answer.infotexts[0])
    assert counted == foretold


# The X/Y/Z plot


@pytest.mark.once
def test_a_plot_over_presets(webui: WebUI) -> None:
    """Each as if it were chosen for that cell alone: what it sets goes before the request, the scale stays."""
    names = ["none", "fast", "draft"]
    answer = webui.enlarge(plot(webui, ("[DemoFusion] Preset", ", ".join(names))), scale=2, steps=2, overlap=0.4)
    cells = answer.pictures[1:]
    assert len(cells) == len(names)
    for cell, name, text in zip(cells, names, answer.infotexts[1:], strict=True):
        assert apart(cell, webui.enlarge(scale=2, preset=name).picture) == 0
        assert ("DemoFusion preset: " + name in text) == (name != "none") and "DemoFusion overlap" not in text


@pytest.mark.once
def test_a_plot_over_samplers_of_the_phases_and_steps(webui: WebUI) -> None:
    samplers, steps = ["DPM++ 2M", "DDIM"], [1, 2]
    axes = ("[DemoFusion] Phase sampler", ", ".join(samplers)), ("[DemoFusion] Steps per phase", "1-2")
    answer = webui.enlarge(plot(webui, *axes), preset="fast")
    wanted = [(name, count) for count in steps for name in samplers]
    for cell, (name, count) in zip(answer.pictures[1:], wanted, strict=True):
        alone = webui.enlarge(preset="fast", phase_sampler=name, **{"steps": count})
        assert apart(cell, alone.picture) == 0


@pytest.mark.once
def test_a_plot_switches_on_and_off(webui: WebUI) -> None:
    answer = webui.draw(**plot(webui, ("[DemoFusion] Enabled", "True, False"), ("[DemoFusion] Scale", "2")))
    assert answer.sizes[1:] == [SIZE, (64, 64)]
    assert answer.pictures[2].tobytes() == webui.draw().picture.tobytes()


@pytest.mark.once
def test_a_refused_cell_leaves_the_others(webui: WebUI) -> None:
    """A target below the base image."""
    answer = webui.enlarge(plot(webui, ("[DemoFusion] Target width", "32, 128")))
    assert answer.sizes[2] == SIZE and answer.pictures[1].getextrema() in ((0, 0), ((0, 0),) * 3)


@pytest.mark.once
def test_a_value_that_no_cell_can_take(webui: WebUI) -> None:
    fields = plot(webui, ("[DemoFusion] Phase sampler", "DDIM, Eulr"))
    answer = webui.try_draw(SETTINGS, **fields)
    assert answer.status == 422 and "phase_sampler is 'Eulr', allowed: same" in answer.detail


@pytest.mark.once
def test_axes_are_there_once(webui: WebUI) -> None:
    for info in webui.ask("script-info"):
        if info["name"] == XYZ:
            labels = [name for name in info["args"][0]["choices"] if name.startswith("[DemoFusion]")]
            assert labels and len(labels) == len(set(labels))
    assert all(SCRIPT.lower() in names for names in webui.ask("scripts").values())
