"""The accordion and its infotext fields, both made from the table of settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules import shared
from modules.ui_components import InputAccordion

from ..params import BY_NAME, SETTINGS, Params, Setting, SettingsError, preset_values
from ..presets import DEFAULT, NONE, PRESETS
from .choices import offered

ENABLED = SETTINGS[0]
KEPT = "customscript/demofusion.py/txt2img/"
"""What the webui keeps of our page, in its `ui-config.json`."""
ROWS = (
    ("scale", "preset"),
    ("plan", "steps"),
    ("target_width", "target_height"),
    ("a1", "a2", "a3"),
    ("blur", "overlap"),
    ("border", "sdxl_size"),
    ("skip_residual", "dilated", "jitter"),
    ("step_normalised", "keep_phases", "save_phases"),
    ("start", "gate"),
    ("residual", "window_weight"),
    ("guidance", "guidance_until"),
    ("phase_sampler", "phase_scheduler"),
    ("phase_cfg",),
    ("phase_prompt", "phase_negative"),
    ("enlarge", "vae", "window_batch"),
    ("resume",),
)
"""Where the settings stand on the page. Their order among the API's arguments is the table's."""


SET_BY_PRESETS = tuple(s.name for s in SETTINGS if any(s.name in values for values in PRESETS.values()))


def choose(preset: str) -> list[Any]:
    """The values that a preset has in the parts that presets set."""
    values = preset_values(preset)
    return [gr.update(value=values[name]) for name in SET_BY_PRESETS]


def first_preset() -> str:
    """What the page begins with. Where the webui has kept the values of a version without presets, which it puts into the
    other parts again, it is none, as they are."""
    try:
        kept = json.loads(Path(shared.cmd_opts.ui_config_file).read_text(encoding="utf-8"))
        of_ours = {key.split("/")[-2] for key in kept if key.startswith(KEPT) and key.endswith("/value")}
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return DEFAULT
    return NONE if of_ours and BY_NAME["preset"].label not in of_ours else DEFAULT


def component(setting: Setting, value: Any) -> Any:
    common = {"label": setting.label, "value": value, "elem_id": setting.elem_id, "tooltip": setting.help}
    if setting.kind is bool:
        return gr.Checkbox(**common)
    if setting.choices:
        return gr.Dropdown(choices=list(setting.choices), **common)
    if setting.names:
        return gr.Dropdown(choices=offered(setting), **common)
    if setting.is_prompt:
        return gr.Textbox(lines=2, **common)
    if setting.is_text:
        return gr.Textbox(max_lines=1, **common)
    return gr.Slider(minimum=setting.low, maximum=setting.high, step=setting.step, **common)


def accordion() -> list[Any]:
    """The components in the table's order, which is the order of the API's arguments."""
    values = preset_values(first_preset())
    with InputAccordion(ENABLED.default, label=ENABLED.label, elem_id=ENABLED.elem_id, tooltip=ENABLED.help) as enabled:
        parts = {ENABLED.name: enabled}
        for names in ROWS:
            with gr.Row():
                parts.update((name, component(BY_NAME[name], values[name])) for name in names)
    # `input`: chosen by hand. Pasting an infotext sets every part by itself
    chosen = [parts[name] for name in SET_BY_PRESETS]
    parts["preset"].input(choose, inputs=[parts["preset"]], outputs=chosen, show_progress="hidden", queue=False)
    return [parts[setting.name] for setting in SETTINGS]


def paste(setting: Setting) -> Callable[[dict[str, Any]], Any]:
    """The value that restores an image's setting: what its infotext says, the default where it says nothing."""

    def value(params: dict[str, Any]) -> Any:
        try:
            restored = getattr(Params.from_infotext(params), setting.name)
        except SettingsError:
            return preset_values(NONE)[setting.name]
        return restored if ENABLED.key in params or setting is ENABLED else gr.update()

    return value


def paste_fields(components: list[Any]) -> list[tuple[Any, Callable[[dict[str, Any]], Any]]]:
    return [(part, paste(setting)) for part, setting in zip(components, SETTINGS)]
