"""Masks on the img2img tab, in the running webui: outside of one everything is the enlarged picture, pasted as the webui does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw

from .client import WebUI, as_base64
from .test_img2img import FEW, SIDE, native, scene  # noqa: F401: a fixture
from .test_reckoning import SCRIPT, exact  # noqa: F401: a fixture

HOLE = (24, 16, 48, 40)
LANCZOS = Image.Resampling.LANCZOS
LOOK = """
import json
from modules.processing import Processed, process_images
seen, runner = [], p.scripts
before = runner.on_mask_blend
def looked(p, told):
    before(p, told)
    away = ((told.blended_latent - told.init_latent) * told.mask).abs().max()
    seen.append([told.init_latent.shape[-1], float(away), float(told.nmask.mean()), told.is_final_blend])
runner.on_mask_blend = looked
try:
    process_images(p)
finally:
    del runner.on_mask_blend
return Processed(p, [], infotexts=[json.dumps(seen)])
"""


def mask(box: tuple[int, int, int, int] = HOLE, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    found = Image.new("L", size)
    ImageDraw.Draw(found).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return found


def fields(hole: Image.Image | None = None, **others: Any) -> dict[str, Any]:
    """Blurred by nothing, so that every shade of what is pasted can be told."""
    masked = {"mask": as_base64(hole or mask()), "mask_blur": 0, "inpaint_full_res": False, "inpainting_fill": 1}
    return {**masked, "denoising_strength": 0.75, **others}


def most(one: Image.Image, other: Image.Image, where: Image.Image | None = None) -> int:
    """The largest difference, where `where` is white."""
    apart = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    if where is not None:
        apart = Image.composite(apart, Image.new("RGB", apart.size), where)
    return max(high for _, high in apart.getextrema())


def pasting(hole: Image.Image, size: tuple[int, int], gain: int) -> Image.Image:
    """How much of what is drawn shows: a whole picture's mask counts twice."""
    return hole.resize(size, LANCZOS).point(lambda value: min(gain * value, 255))


@pytest.mark.parametrize("content", [0, 1])
def test_what_is_drawn_is_pasted_into_the_enlarged_picture(webui: WebUI, content: int) -> None:
    settings = {**FEW, "scale": 2, "enlarge": "pixels"}
    given = fields(inpainting_fill=content)
    result = webui.redraw(scene(), settings, **given).picture
    drawn = webui.redraw(scene(), settings, **given, override_settings={"overlay_inpaint": False}).picture
    webui.set_options(overlay_inpaint=True)
    larger = scene().resize((2 * SIDE, 2 * SIDE), LANCZOS)
    shows = pasting(mask(), larger.size, 2)
    outside = shows.point(lambda value: 255 * (value == 0))
    assert most(result, larger, outside) == 0
    assert most(result, drawn, shows.point(lambda value: 255 * (value == 255))) == 0
    assert most(result, Image.composite(drawn, larger, shows)) <= 2  # shades at half of an edge are cut off twice
    assert most(drawn, larger, outside) > 0 and most(drawn, larger) > 20


def test_the_webuis_own_run_at_that_size_has_the_same_outside(webui: WebUI) -> None:
    given = fields(mask_blur=4, width=2 * SIDE, height=2 * SIDE)
    with_mask = {"override_settings": {"return_mask": True}}
    hosts = webui.redraw(scene(), **given, **with_mask)
    ours = webui.redraw(scene(), {**FEW, "scale": 2}, **given, **with_mask)
    webui.set_options(return_mask=False)
    masks = [answer.pictures[-1].convert("L") for answer in (hosts, ours)]
    assert len(ours.pictures) == len(hosts.pictures) and most(*masks) == 0
    outside = masks[0].point(lambda value: 255 * (value == 0))
    assert most(hosts.pictures[-2], ours.pictures[-2], outside) == 0
    assert most(hosts.pictures[-2], ours.pictures[-2]) > 0


@pytest.mark.parametrize("enlarge", ["pixels", "latent"])
def test_every_evaluation_of_every_phase_is_blended(exact: WebUI, enlarge: str) -> None:  # noqa: F811
    settings = {**FEW, "scale": 3, "plan": "every", "enlarge": enlarge}
    answer = exact.redraw(scene(), settings, **fields(), steps=4, script_name=SCRIPT, script_args=[LOOK, 2])
    seen = json.loads(answer.infotexts[0])
    told = [(8, 1), (16, 1), (24, 1)] if exact.is_classic else [(8, 5), (16, 4), (24, 4)]  # there of the last alone
    assert [(cells, sum(found[0] == cells for found in seen)) for cells in (8, 16, 24)] == told
    assert all(away == 0 for _, away, _, _ in seen), seen
    assert all(share == pytest.approx(9 / 64, abs=0.01) for _, _, share, _ in seen), seen
    assert sum(last for *_, last in seen) == 3


def test_only_masked_pastes_its_crop_at_the_final_size(webui: WebUI) -> None:
    picture, hole = scene(192, 128), mask((80, 40, 128, 88), (192, 128))
    given = fields(hole, inpaint_full_res=True, inpaint_full_res_padding=8)
    answer = webui.redraw(picture, {**FEW, "scale": 2}, **given)
    larger, shows = picture.resize((384, 256), LANCZOS), pasting(hole, (384, 256), 1)
    assert answer.sizes == [(384, 256)] and "of the picture the 64x64 px around the mask" in answer.infotexts[0]
    assert most(answer.picture, larger, shows.point(lambda value: 255 * (value == 0))) == 0
    assert most(answer.picture, larger) > 20


def test_kept_phases_are_pasted_too(webui: WebUI) -> None:
    answer = webui.redraw(scene(), {**FEW, "scale": 3, "plan": "every", "keep_phases": True}, **fields())
    for side in (SIDE, 2 * SIDE, 3 * SIDE):
        (picture,) = [one for one in answer.pictures if one.size == (side, side)][-1:]
        shows = pasting(mask(), (side, side), 2)
        larger = scene().resize((side, side), LANCZOS)
        assert most(picture, larger, shows.point(lambda value: 255 * (value == 0))) == 0 and most(picture, larger) > 20


def test_what_makes_no_sense_is_refused_in_one_line(webui: WebUI) -> None:
    for number, name in ((2, "latent noise"), (3, "latent nothing")):
        answer = webui.try_redraw(scene(), {**FEW, "scale": 2}, **fields(inpainting_fill=number))
        told = f"DemoFusion: masked content is '{name}', allowed with DemoFusion: fill, original"
        assert answer.status == 422 and told in answer.detail
    assert webui.redraw(scene(), **fields(inpainting_fill=2)).status == 200


def test_off_it_is_the_webuis_own(webui: WebUI) -> None:
    without = webui.redraw(scene(), **fields())
    assert webui.redraw(scene(), {"enabled": False, "scale": 4}, **fields()).images == without.images
