"""Beside sd-webui-controlnet, where the webui has it, with small models that are made of the loaded UNet; and with the ControlNet
of reForge and Forge.

The extension counts the UNet's blocks, so that a checkpoint with as many as the real ones is needed: `tiny-deep-sd1` or
`tiny-deep-sdxl`, or a real one. The small models are taken away at the end; the extension goes on building by the loaded UNet's
sizes until the webui is started again. reForge and Forge take any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw

from .client import FAINT, SETTINGS, Answer, WebUI, apart, as_base64, mean_apart
from .conftest import host
from .test_reckoning import RUN

SOURCE, OF_FORGE = (Path(__file__).with_name(name) for name in ("controlnets.py", "controlnets_of_forge.py"))
CHECKPOINTS = ("tiny-deep-sd1", "tiny-deep-sdxl", "tiny-sd1", "tiny-sdxl")
BLOCKS = (9, 12)
FIELDS = {"width": 128, "height": 128, "steps": 3}
PLAIN = {"module": "none"}
"""No preprocessor, by the host's own name for it."""


def inside(webui: WebUI, function: str, source: Path = SOURCE) -> Any:
    """What a function of `controlnets.py` answers."""
    code = RUN.format(source=source.read_text(encoding="utf-8"), function=function, arguments=())
    return json.loads(webui.draw(None, script_name="custom code", script_args=[code, 2]).infotexts[0])


@pytest.fixture(scope="module", params=CHECKPOINTS)
def names(request: pytest.FixtureRequest, options: None) -> Iterator[dict[str, str]]:
    """The small models' names, by kind."""
    webui, before = host(), host().options()["sd_model_checkpoint"]
    offered = {script.lower() for script in webui.ask("scripts")["txt2img"]}
    if not {"controlnet", "custom code"} <= offered:
        pytest.skip("the webui has no sd-webui-controlnet, or runs no code of ours (--allow-code)")
    titles = {model["model_name"]: model["title"] for model in webui.ask("sd-models")}
    if request.param not in titles:
        pytest.skip(f"the webui has no checkpoint {request.param}")
    webui.set_options(sd_model_checkpoint=titles[request.param], control_net_no_detectmap=True)
    source = OF_FORGE if inside(webui, "is_here", OF_FORGE) else SOURCE
    if source is SOURCE and inside(webui, "blocks") not in BLOCKS:
        pytest.skip("the UNet has not the blocks that the extension counts on")
    made = inside(webui, "install", source)
    PLAIN["module"] = made.pop("none", "none")
    yield made
    inside(webui, "remove", source)
    webui.set_options(sd_model_checkpoint=before, control_net_no_detectmap=False)


def disc(left: int, top: int, size: tuple[int, int] = (256, 256)) -> Image.Image:
    picture = Image.new("RGB", size, "black")
    ImageDraw.Draw(picture).ellipse((left - 44, top - 44, left + 44, top + 44), fill="white")
    return picture


HERE, THERE = disc(64, 64), disc(192, 192)


def unit(model: str, picture: Image.Image = HERE, **settings: Any) -> dict[str, Any]:
    return {"enabled": True, **PLAIN, "model": model, "weight": 1.0, "image": as_base64(picture), **settings}


def draw(units: list[dict[str, Any]], settings: dict[str, Any] | None = None, **fields: Any) -> Answer:
    """Off for `settings` None; every run has to come to its end by its own means."""
    scripts: dict[str, Any] = {"controlnet": {"args": units}} if units else {}
    if settings is not None:
        scripts["DemoFusion Hires"] = {"args": [{**SETTINGS, **settings}]}
    answer = host().draw(None, alwayson_scripts=scripts, **{**FIELDS, **fields})
    assert "DemoFusion stopped" not in answer.infotexts[0] and "enlarged from the base" not in answer.infotexts[0]
    return answer


def corners(one: Image.Image, other: Image.Image) -> list[list[float]]:
    """How far two pictures are from each other in each quarter."""
    difference = ImageChops.difference(one, other).convert("L").resize((2, 2), Image.Resampling.BOX)
    (a, b), (c, d) = [[float(difference.getpixel((x, y))) for x in (0, 1)] for y in (0, 1)]
    return [[a, b], [c, d]]


@pytest.mark.parametrize("path", [{"dilated": False}, {"a2": 0}, {"preset": "fast"}], ids=["local", "dilated", "fast"])
def test_a_map_moves_the_picture_where_it_lies(names: dict[str, str], path: dict[str, Any]) -> None:
    """Units for the phases alone, so that the base images are the same."""
    settings = {"skip_residual": False, **path} if "preset" not in path else path
    one, other = (
        draw([unit(names["controlnet"], picture, hr_option="High res only", weight=2.0)], settings).picture
        for picture in (HERE, THERE)
    )
    (first, right), (below, last) = corners(one, other)
    assert min(first, last) > 1.3 * max(right, below, FAINT), (first, right, below, last)


def test_a_map_is_enlarged_and_cropped_as_the_picture_is(names: dict[str, str]) -> None:
    """Of a wide target the base image's middle is drawn: what lies above and below it is not seen."""
    settings = {"target_width": 256, "target_height": 128, "dilated": False}
    one, other = (
        draw([unit(names["controlnet"], disc(128, top), hr_option="High res only")], settings).picture
        for top in (0, 255)
    )
    middle = draw([unit(names["controlnet"], disc(128, 128), hr_option="High res only")], settings).picture
    assert one.size == (256, 128)
    assert mean_apart(one, middle) > 2 * mean_apart(one, other) or mean_apart(one, other) < FAINT


def test_off_is_the_webuis_own(names: dict[str, str]) -> None:
    """Before a run with phases and after it, to the byte; and so is a unit that adds nothing."""
    units = [unit(names["controlnet"], low_vram=True), *(unit(names[kind]) for kind in names if kind != "controlnet")]
    before, plain = draw(units), draw([])
    draw(units, {})
    assert draw(units).images == before.images
    assert draw([]).images == plain.images
    assert mean_apart(before.picture, plain.picture) > FAINT
    none = draw([unit(names["controlnet"], weight=0)], {})
    assert apart(none.picture, draw([], {}).picture) == 0


KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "adapter, the prompt alone": (("adapter",), {"control_mode": "ControlNet is more important"}, {}, {}),
    "lllite": (("lllite",), {}, {}, {}),
    "three, low VRAM": (("controlnet", "adapter", "lllite"), {"low_vram": True}, {}, {}),
    "AND, batch": (
        ("controlnet",), {"control_mode": "ControlNet is more important"}, {}, {"prompt": "a red disc AND sea", "batch_size": 2},
    ),
    "the prompt is more important": (("controlnet",), {"control_mode": "My prompt is more important"}, {}, {}),
    "canny, pixel-perfect, 3x": (("controlnet",), {"module": "canny", "pixel_perfect": True}, {"scale": 3}, {}),
    "portrait, stretched": (("controlnet",), {"resize_mode": "Just Resize"}, {}, {"width": 96, "height": 160}),
    "filled, DDIM": (("controlnet",), {"resize_mode": "Resize and Fill"}, {}, {"sampler_name": "DDIM", "width": 160}),
    "part of the way": (("controlnet",), {"guidance_start": 0.2, "guidance_end": 0.8}, {}, {}),
    "seamless": (("controlnet",), {}, {"scale": 3}, {"tiling": True}),
    "tile, colours": (("controlnet",), {"module": "tile_colorfix", "threshold_a": 8}, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_every_kind_come_to_their_end(names: dict[str, str], kind: str) -> None:
    models, settings, ours, fields = KINDS[kind]
    if not set(models) <= set(names):
        pytest.skip("no such small model is made for this host")
    drawn = draw([unit(names[model], **settings) for model in models], ours, **fields)
    assert mean_apart(drawn.picture, draw([], ours, **fields).picture) > FAINT


@pytest.mark.parametrize("module", ["reference_only", "reference_adain+attn"])
def test_references_are_shown_to_every_window(names: dict[str, str], module: str) -> None:
    shown = unit("None", module=module, control_mode="ControlNet is more important")
    drawn = draw([shown], {"window_batch": 5})
    assert drawn.images != draw([], {"window_batch": 5}).images
    left_out = f"unit 1 ({module}) draws in the base image only" in drawn.infotexts[0]
    assert left_out == (PLAIN["module"] == "None")  # in reForge and Forge


def test_an_inpaint_unit_keeps_what_is_outside_of_its_mask(names: dict[str, str]) -> None:
    """The picture outside is the user's own, enlarged, and pasted in the end."""
    picture, mask = Image.new("RGB", (256, 256), (200, 60, 20)), Image.new("RGB", (256, 256), "black")
    ImageDraw.Draw(mask).rectangle((0, 0, 127, 255), fill="white")
    given = {"image": as_base64(picture), "mask": as_base64(mask)}
    given = {"image": given} if PLAIN["module"] == "none" else {"image": given["image"], "mask_image": given["mask"]}
    shown = unit(names["controlnet"], module="inpaint_only", **given)
    drawn = draw([shown], {}).picture
    assert apart(drawn.crop((176, 0, 256, 256)), picture.crop((176, 0, 256, 256))) <= 1
    assert mean_apart(drawn.crop((0, 0, 80, 256)), picture.crop((0, 0, 80, 256))) > 10


def test_tile_units_follow_the_phase_before(names: dict[str, str]) -> None:
    """Whatever picture of their own they have."""
    settings = {"tile_units": True}
    units = [
        [unit(names["controlnet"], picture, module="tile_resample", hr_option="High res only")]
        for picture in (HERE, THERE)
    ]
    one, other = (draw(shown, settings) for shown in units)
    assert apart(one.picture, other.picture) == 0
    assert mean_apart(draw(units[0], {}).picture, one.picture) > FAINT
