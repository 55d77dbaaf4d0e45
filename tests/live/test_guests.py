"""Beside other extensions that change how a model is asked or guided: docs/others.md, a test a line.

Whether they take part in the phases is seen where the phases alone draw: from a given picture. What a webui doesn't have is
skipped, with the name of what to install.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from PIL import Image

from .client import FAINT, ROUNDING, SETTINGS, Answer, WebUI, apart, mean_apart

pytestmark = pytest.mark.once
PX = 128
FIELDS = {"width": PX, "height": PX, "steps": 4, "cfg_scale": 12}
WITHIN = "does within the UNet it does to every window as to a whole picture"
PROMPT = "a red disc"


class Guest(NamedTuple):
    """Another extension at work: its script's name in the API with its arguments by their places, and a prompt of its own.

    needs: the checkpoint that it does something to, any for none. within: whether it changes parts of the UNet.
    """

    folder: str
    script: str
    places: dict[int, Any]
    prompt: str = PROMPT
    needs: str = ""
    within: bool = False


GUESTS = {
    "dynamic thresholding": Guest("sd-dynamic-thresholding", "dynamic thresholding (cfg scale fix)", {0: True, 1: 3.0, 2: 90.0}),
    "CFG rescale": Guest("sd-webui-neutral-prompt", "neutral prompt", {0: 0.7}),
    "AND_PERP": Guest("sd-webui-neutral-prompt", "neutral prompt", {}, f"{PROMPT} AND_PERP a blue square :0.8"),
    "NegPiP": Guest("sd-webui-negpip", "negpip", {0: True}, f"{PROMPT}, (blue:-1.5)", within=True),
    "perturbed attention": Guest("sd-webui-incantations", "incantations", {12: True, 13: 3.0}, within=True),
    "smoothed energy": Guest("sd-webui-incantations", "incantations", {0: True}, within=True),
    "semantic CFG": Guest("sd-webui-incantations", "incantations", {4: True}, within=True),
    "regional prompter": Guest("sd-webui-regional-prompter", "regional prompter", {0: True, 2: "Matrix"}, f"{PROMPT} BREAK a blue square", within=True),
    "FreeU": Guest("sd-webui-freeu", "freeu", {0: True}, needs="tiny-wide"),
}  # fmt: skip
SAG = Guest("sd_webui_SAG", "self attention guidance", {0: True, 1: 1.0, 2: 0.9}, needs="tiny-deep")


@pytest.fixture
def small(webui: WebUI) -> Iterator[WebUI]:
    """Several windows in a small picture."""
    loaded = webui.options()["sd_model_checkpoint"]
    native = webui.options().get("demofusion_native_sd1", 512)  # a webui without a page hides extensions' options
    webui.set_options(demofusion_native_sd1=PX // 2)
    yield webui
    webui.set_options(demofusion_native_sd1=native, sd_model_checkpoint=loaded)


def picture() -> Image.Image:
    return Image.effect_noise((16, 16), 80).convert("RGB").resize((PX, PX), Image.Resampling.BICUBIC)


PICTURE = picture()


def arguments(webui: WebUI, guest: Guest) -> dict[str, Any]:
    """Skips where the webui lacks the extension or the checkpoint, which it loads."""
    found = [s for s in webui.ask("script-info") if s["name"] == guest.script and s["is_img2img"]]
    if not found:
        pytest.skip(f"the webui has no script {guest.script!r}; install {guest.folder}")
    if guest.needs:
        titles = {model["model_name"]: model["title"] for model in webui.ask("sd-models")}
        if guest.needs not in titles:
            pytest.skip(f"the webui has no checkpoint {guest.needs}: the tiny SD 1 with {NEEDED[guest.needs]}")
        webui.set_options(sd_model_checkpoint=titles[guest.needs])
    args = [arg["value"] for arg in found[0]["args"]]
    for place, value in guest.places.items():
        args[place] = value
    return {guest.script: {"args": args}}


NEEDED = {
    "tiny-wide": "model_channels 320, as FreeU knows layers by their 320, 640 and 1280 channels",
    "tiny-deep": "channel_mult of four numbers and 8 heads, for what knows SD by its innermost layers",
}


def from_picture(webui: WebUI, others: dict[str, Any], prompt: str = PROMPT, **settings: Any) -> Answer:
    ours = {"DemoFusion Hires": {"args": [{**SETTINGS, **settings}]}}
    return webui.redraw(
        PICTURE, None, alwayson_scripts={**others, **ours}, prompt=prompt, **{**FIELDS, "denoising_strength": 1.0}
    )


@pytest.mark.parametrize("name", GUESTS)
def test_it_takes_part_in_the_phases_and_leaves_nothing(small: WebUI, name: str) -> None:
    guest = GUESTS[name]
    others = arguments(small, guest)
    plain, ours = small.draw(**FIELDS), from_picture(small, {})
    both = from_picture(small, others, guest.prompt)
    # what AND_PERP is in a prompt, its extension alone knows
    same = from_picture(small, {}, PROMPT if name == "AND_PERP" else guest.prompt)
    assert mean_apart(both.picture, same.picture) > FAINT / 10
    assert (f"{guest.folder} {WITHIN}" in both.infotexts[0]) == guest.within
    assert "failed" not in both.infotexts[0] and "stopped" not in both.infotexts[0]
    assert from_picture(small, {}).images == ours.images and small.draw(**FIELDS).images == plain.images


@pytest.mark.parametrize("name", [name for name, guest in GUESTS.items() if guest.within])
def test_prompts_and_negative_prompts_are_told_apart_in_every_batch(small: WebUI, name: str) -> None:
    """By their places in a call, which the window batch would move."""
    guest = GUESTS[name]
    others = arguments(small, guest)
    one, many = (from_picture(small, others, guest.prompt, window_batch=n) for n in (1, 16))
    assert apart(one.picture, many.picture) <= ROUNDING


def test_thresholding_that_mimics_the_scale_that_there_is_changes_nothing(small: WebUI) -> None:
    """On the fused prediction of the whole picture, whose largest value is then the mimicked one's."""
    guest = GUESTS["dynamic thresholding"]
    others = arguments(small, guest._replace(places={0: True, 1: FIELDS["cfg_scale"], 2: 100.0}))
    assert apart(from_picture(small, others).picture, from_picture(small, {}).picture) <= ROUNDING


def test_self_attention_guidance_is_named_and_left_out_of_the_phases(small: WebUI) -> None:
    """It reads the attention of the last call as that of the whole picture; the webui catches the error."""
    others = arguments(small, SAG)
    alone, ours = from_picture(small, {}), small.draw(SETTINGS, **FIELDS)
    both = from_picture(small, others)
    assert apart(both.picture, alone.picture) <= ROUNDING  # by other batches
    assert f"the extension {SAG.folder} failed in the phases, which were drawn without it" in both.infotexts[0]
    drawn = small.draw(None, alwayson_scripts={**others, "DemoFusion Hires": {"args": [SETTINGS]}}, **FIELDS)
    assert apart(drawn.picture, ours.picture) > ROUNDING  # by the base image


DETAILING = """\
import json
from modules.processing import Processed, process_images
from modules.scripts import scripts_data
from PIL import Image
(detailer,) = {data.module for data in scripts_data if data.script_class.__name__ == "AfterDetailerScript"}
from adetailer.common import PredictOutput
seen, found = [], detailer.mediapipe_predict
def predict(model, image, confidence):
    seen.append(list(image.size))
    width, height = image.size
    mask = Image.new("L", image.size)
    mask.paste(255, (width // 4, height // 4, width // 2, height // 2))
    return PredictOutput([[width // 4, height // 4, width // 2, height // 2]], [mask], [0.9], image)
detailer.mediapipe_predict = predict
try:
    processed = process_images(p)
finally:
    detailer.mediapipe_predict = found
answer = {"seen": seen, "sizes": [list(image.size) for image in processed.images], "infotext": processed.infotexts[0]}
return Processed(p, processed.images, infotexts=[json.dumps(answer)])
"""


def detailed(webui: WebUI, ours: Sequence[Any]) -> tuple[dict[str, Any], Image.Image]:
    others = arguments(webui, Guest("adetailer", "adetailer", {0: True}))
    scripts = {**others, "DemoFusion Hires": {"args": list(ours)}}
    answer = webui.draw(None, alwayson_scripts=scripts, script_name="Custom code", script_args=[DETAILING, 2], **FIELDS)
    return json.loads(answer.infotexts[0]), answer.picture


def test_adetailer_redraws_in_the_result_at_its_size(small: WebUI) -> None:
    """With a detector that finds the same square in every picture: the pass after ours is drawn there, and there alone."""
    if "custom code" not in small.ask("scripts")["txt2img"]:
        pytest.skip("the webui was started without --allow-code")
    arguments(small, Guest("adetailer", "adetailer", {0: True}))
    ours = small.draw(SETTINGS, **FIELDS)
    told, result = detailed(small, [SETTINGS])
    assert told["seen"] == [[2 * PX, 2 * PX]] and told["sizes"][0] == [2 * PX, 2 * PX]
    assert "DemoFusion stopped" not in told["infotext"] and "ADetailer" in told["infotext"]
    inside, outside = (PX // 2, PX // 2, PX, PX), (5 * PX // 4, 0, 2 * PX, 2 * PX)
    assert apart(result.crop(inside), ours.picture.crop(inside)) > ROUNDING
    assert apart(result.crop(outside), ours.picture.crop(outside)) == 0
    assert small.draw(SETTINGS, **FIELDS).images == ours.images
