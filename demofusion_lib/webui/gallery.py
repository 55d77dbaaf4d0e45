"""The button beside the gallery's own upscale button: the selected picture goes through the phases.

It is drawn as its infotext tells, by what DemoFusion is set to on the page. Phase 1 is not drawn again: its latent is held,
or the picture itself takes its place (see `given`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from modules import infotext_utils, processing, sd_models, shared
from modules.ui_components import ToolButton
from PIL import Image

from ..params import BY_NAME, SETTINGS, TITLE, Params, by_label, named
from ..setting import SettingsError
from .ui import TIPS

BESIDE = "txt2img_upscale"
"""The host's own button, by its element id."""
ELEMENT = "txt2img_demofusion_upscale"
SYMBOL = "\U0001f50e"


def made(component: Any) -> None:
    """To be told of every component that the host makes."""
    if component.elem_id != BESIDE:
        return
    button = ToolButton(value=SYMBOL, elem_id=ELEMENT, tooltip=TIPS["enlarge"])
    wire = component.click

    def click(*args: Any, **kwargs: Any) -> Any:
        """The host wires its button to all that txt2img takes; ours takes and answers the same."""
        from modules.call_queue import wrap_gradio_gpu_call

        component.click = wire
        wired = wire(*args, **kwargs)
        same = {name: kwargs[name] for name in ("_js", "js", "inputs", "outputs") if name in kwargs}
        button.click(
            fn=wrap_gradio_gpu_call(enlarge, extra_outputs=[gr.update(), gr.update(), gr.update()]),
            show_progress=False, **same,
        )  # fmt: skip
        return wired

    component.click = click


class Refused(Exception):
    """One line for the page."""


def enlarge(
    id_task: str, request: gr.Request, gallery: Any, index: int, generation_info: str, *args: Any
) -> Sequence[Any]:
    """Answers as the host's button does: the gallery, what is known of its pictures, an infotext and comments."""
    try:
        at, known = selected(gallery, index, generation_info)
        p = request_for(id_task, request, args, known["infotexts"][at], gallery[at])
    except (Refused, SettingsError) as error:
        return refused(error)
    try:
        processed = processing.process_images(p)
    finally:
        p.close()
    shared.total_tqdm.clear()
    told = html(processed.comments, "comments")
    if not processed.images:
        return gr.update(), gr.update(), gr.update(), told
    put(known, at, processed)
    pictures = [*map(shown, gallery[:at]), *processed.images, *map(shown, gallery[at + 1 :])]
    return pictures, json.dumps(known), html(processed.infotexts[0]), told


def refused(error: Exception) -> Sequence[Any]:
    mistakes = by_label(error) if isinstance(error, SettingsError) else {"": str(error)}
    told = f"DemoFusion: not drawn: {'; '.join(mistakes.values())}"
    gr.Warning(told)
    return gr.update(), gr.update(), gr.update(), html(told, "comments")


def html(text: str, classname: str | None = None) -> str:
    from modules.ui_common import plaintext_to_html

    return str(plaintext_to_html(text, classname=classname))


def selected(gallery: Any, index: int, generation_info: str) -> tuple[int, dict[str, Any]]:
    """Which picture it is, and what the page knows of all. Raises Refused."""
    if not gallery:
        raise Refused("there is no picture in the gallery")
    try:
        known = json.loads(generation_info)
        count = len(known["infotexts"])
    except (ValueError, TypeError, KeyError):
        raise Refused("nothing is known of the picture in the gallery; its infotext can be pasted") from None
    at = index if 0 <= index < len(gallery) else 0
    if at < known.get("index_of_first_image", 0):
        raise Refused("a grid is selected, allowed: one of its pictures")
    if at >= count or not known["infotexts"][at]:
        raise Refused("nothing is known of the selected picture")
    return at, known


def request_for(
    id_task: str, request: gr.Request, args: Sequence[Any], infotext: str, picture: Any
) -> processing.StableDiffusionProcessingTxt2Img:
    """What is to be drawn. args: all that the page hands to txt2img. Raises Refused, and SettingsError."""
    from modules.txt2img import txt2img_create_processing

    from . import takeover
    from .given import give
    from .planning import reach

    p = txt2img_create_processing(id_task, request, *args)
    as_told(p, infotext_utils.parse_generation_parameters(infotext, []))
    settings = switch_on(p)
    origin = takeover.origin_of(p, infotext)
    if origin is not None:
        setattr(p, takeover.CHOSEN, origin)
    else:
        give(p, infotext_utils.image_from_url_text(picture))
    if not reach(p, settings)[1]:
        raise Refused("the target is the picture's own size, allowed: a larger one")
    return p


def as_told(p: Any, told: Mapping[str, Any]) -> None:
    """The request for the picture of an infotext. What the host's scripts have made of the page's fields is done by now."""
    if "Seed" not in told or "Sampler" not in told or "Size-1" not in told:
        raise Refused("nothing is known of how the selected picture was drawn")
    p.prompt, p.negative_prompt = told.get("Prompt", ""), told.get("Negative prompt", "")
    p.styles = list(told.get("Styles array") or ())
    p.batch_size = p.n_iter = 1
    p.enable_hr = False
    p.do_not_save_grid = True
    p.sampler_name, p.scheduler = told["Sampler"], told.get("Schedule type", "Automatic")
    p.tiling = told.get("Tiling") == "True"
    p.restore_faces = "Face restoration" in told
    p.refiner_checkpoint = told.get("Refiner")
    fields = {
        "steps": ("Steps", int, p.steps), "cfg_scale": ("CFG scale", number, p.cfg_scale), "seed": ("Seed", int, -1),
        "width": ("Size-1", int, p.width), "height": ("Size-2", int, p.height),
        "subseed": ("Variation seed", int, -1), "subseed_strength": ("Variation seed strength", number, 0),
        "seed_resize_from_w": ("Seed resize from-1", int, 0), "seed_resize_from_h": ("Seed resize from-2", int, 0),
        "refiner_switch_at": ("Refiner switch at", number, None),
    }  # fmt: skip
    try:
        for field, (key, kind, default) in fields.items():
            setattr(p, field, kind(told[key]) if key in told else default)
    except (TypeError, ValueError):
        raise Refused(f"{key} of the selected picture can't be read") from None
    for _, option, value in infotext_utils.get_override_settings(told):
        p.override_settings[option] = value
    wanted = p.override_settings.get("sd_model_checkpoint")
    if wanted is not None and sd_models.checkpoint_aliases.get(wanted) is None:
        raise Refused(f"the selected picture's model {told.get('Model', wanted)} is not there")


def number(text: str) -> float:
    """As the infotext has it, which the picture's own shall be again."""
    return int(text) if text.isdecimal() else float(text)


def switch_on(p: Any) -> Params:
    """DemoFusion on, and no script but those that are always there. Raises SettingsError."""
    script = next(script for script in p.scripts.alwayson_scripts if script.title() == TITLE)
    values = list(p.script_args)
    own = {**named(values[script.args_from : script.args_to]), "enabled": True, "resume": BY_NAME["resume"].default}
    values[script.args_from : script.args_to] = [own[setting.name] for setting in SETTINGS]
    values[0] = 0
    p.script_args = tuple(values)
    return Params.from_names(own)


def put(known: dict[str, Any], at: int, processed: Any) -> None:
    """What the page knows of the pictures that take the place of one."""
    from .kept import PER_PICTURE

    count, place = len(processed.images), at - known.get("index_of_first_image", 0)
    known["infotexts"][at : at + 1] = processed.infotexts
    for name in PER_PICTURE:
        values = known.get(name)
        if isinstance(values, list) and place < len(values):
            values[place : place + 1] = (list(getattr(processed, name)) * count)[:count]


def shown(picture: Mapping[str, Any]) -> Image.Image:
    """One that stays in the gallery, by its file alone: the host's gallery looks for the name of that first."""
    stays = Image.new("RGB", (1, 1))
    stays.already_saved_as = picture["name"].rsplit("?", 1)[0]  # type: ignore[attr-defined]
    return stays
