"""The accordion and its infotext fields, both made from the table of settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from modules import shared
from modules.ui_components import FormRow, InputAccordion, ToolButton

from ..params import BY_NAME, SETTINGS, preset_values
from ..presets import DEFAULT, NONE, PRESETS
from ..setting import Setting
from . import pasting
from .beginning import begin_with, shown_instead
from .choices import offered
from .following import Following
from .tabs import TXT2IMG, Tab

ENABLED = SETTINGS[0]
TARGET = ("target_width", "target_height")

Rows = tuple[tuple[str, ...], ...]
GROUPS: dict[str, Rows] = {
    "Phases": (
        ("plan",),
        ("steps", "start"),
        ("phase_sampler", "phase_scheduler"),
        ("phase_cfg",),
        ("phase_prompt", "phase_negative"),
        ("regions",),
        ("enlarge",),
        ("tile_units",),
    ),
    "Method": (
        ("skip_residual", "a1"),
        ("residual",),
        ("step_normalised",),
        ("dilated", "a2"),
        ("blur", "a3"),
        ("gate",),
        ("guidance",),
        ("guidance_until",),
    ),
    "Windows": (("jitter", "overlap"), ("window_weight",), ("border",), ("sdxl_size",)),
    "Memory": (("vae",), ("window_batch",), ("save_phases", "resume")),
}
"""What stands in which of the closed accordions, by row. A setting that is named nowhere comes last in the first."""
FIRST = ("preset", "scale", *TARGET, "keep_phases")
"""What is always to be seen. The settings' order among the API's arguments is the table's."""

SWITCH, LOCK = "\U000021c5", "\U0001f512"  # the first is the host's own
TIPS = {
    "switch": "Switch target width/height",
    "lock": "Keep the target's aspect ratio while one side is changed",
    "enlarge": "Enlarge the selected picture by DemoFusion, as the accordion is set. What is still held of it is not drawn again.",
}

PLACEHOLDERS = {"regions": "a red house ADDCOL a forest"}

SET_BY_PRESETS = tuple(s.name for s in SETTINGS if any(s.name in values for values in PRESETS.values()))


def groups() -> dict[str, Rows]:
    """`GROUPS` with every setting of the table."""
    placed = {ENABLED.name, *FIRST, *(name for rows in GROUPS.values() for row in rows for name in row)}
    rest = tuple((s.name,) for s in SETTINGS if s.name not in placed)
    first = next(iter(GROUPS))
    return GROUPS | {first: (*GROUPS[first], *rest)}


def choose(preset: str) -> list[Any]:
    """The values that a preset has in the parts that presets set."""
    values = preset_values(preset)
    return [gr.update(value=values[name]) for name in SET_BY_PRESETS]


def first_preset(tab: Tab = TXT2IMG) -> str:
    """What a tab begins with. Where the webui has kept the values of a version without presets, which it puts into the
    other parts again, it is none, as they are."""
    try:
        kept = json.loads(Path(shared.cmd_opts.ui_config_file).read_text(encoding="utf-8"))
        of_ours = {key.split("/")[-2] for key in kept if key.startswith(tab.kept) and key.endswith("/value")}
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return DEFAULT
    return NONE if of_ours and BY_NAME["preset"].label not in of_ours else DEFAULT


def component(setting: Setting, value: Any, tab: Tab) -> Any:
    common = {"label": setting.label, "value": value, "elem_id": tab.elem_id(setting), "tooltip": tab.help_of(setting)}
    if setting.kind is bool:
        return gr.Checkbox(**common)
    if setting.choices:
        return worded(gr.Radio(choices=list(setting.choices), **common), setting, tab)
    if setting.names:
        names = offered(setting)
        return gr.Dropdown(choices=names, visible=len(names) > 1, **common)  # a host may have nothing to choose from
    if setting.reads:
        return gr.Textbox(lines=2, placeholder=PLACEHOLDERS.get(setting.name, ""), **common)
    if setting.is_prompt:
        return gr.Textbox(lines=2, placeholder=tab.empty, **common)
    if setting.is_text:
        return gr.Textbox(max_lines=1, **common)
    return gr.Slider(minimum=setting.low, maximum=setting.high, step=setting.step, **common)


def worded(part: Any, setting: Setting, tab: Tab) -> Any:
    """Shows the choices in their words, on the page alone: the host looks among the choices for the value that it has kept."""
    words = list(zip(tab.words_of(setting), setting.choices))
    configured = part.get_config
    part.get_config = lambda: {**configured(), "choices": words}
    return part


def accordion(following: Following) -> list[Any]:
    """The components in the table's order, which is the order of the API's arguments."""
    tab = following.tab
    values = preset_values(first_preset(tab))
    parts: dict[str, Any] = {}

    def place(*names: str) -> None:
        parts.update((name, component(BY_NAME[name], values[name], tab)) for name in names)

    with InputAccordion(ENABLED.default, label=ENABLED.label, elem_id=tab.elem_id(ENABLED)) as enabled:
        # not among its arguments: Forge's hands them all to an accordion that takes no tooltip, and its API stays away
        enabled.webui_tooltip = tab.help_of(ENABLED)
        parts[ENABLED.name] = enabled
        place("preset")
        place("scale")
        gr.HTML('<div class="demofusion-line" role="status"></div>')
        buttons = list(target(place, tab))
        place("keep_phases")
        for label, rows in groups().items():
            with gr.Accordion(label, open=False, elem_id=tab.element(label.lower()), elem_classes="demofusion-group"):
                for row in rows:
                    with gr.Row():
                        place(*row)
    # `input`: chosen by hand. Pasting an infotext sets every part by itself
    chosen = [parts[name] for name in SET_BY_PRESETS]
    parts["preset"].input(choose, inputs=[parts["preset"]], outputs=chosen, show_progress="hidden", queue=False)
    for name, value in shown_instead(tab.kept, values, SET_BY_PRESETS).items():
        begin_with(parts[name], value)
    for button in buttons:
        button.do_not_save_to_config = True
    ordered = [parts[setting.name] for setting in SETTINGS]
    following.place(ordered)
    return ordered


def target(place: Callable[..., None], tab: Tab) -> Iterator[Any]:
    """The target's sides as the host has the base image's, with what the browser does to both (`javascript/demofusion.js`)."""
    with FormRow():
        with gr.Column(elem_id=tab.element("target"), scale=4):
            place(*TARGET)
        with gr.Column(elem_id=tab.element("target-tools"), scale=1, elem_classes="dimensions-tools"):
            for name, symbol in (("switch", SWITCH), ("lock", LOCK)):
                yield ToolButton(
                    value=symbol,
                    elem_id=tab.element(f"target-{name}"),
                    tooltip=TIPS[name],
                    elem_classes=[f"demofusion-{name}"],
                )


def paste(setting: Setting, tab: Tab) -> Callable[[dict[str, Any]], Any]:
    """The value that restores an image's setting: what its infotext says, the default where it says nothing.
    What can't be read is told, and the rest restored."""

    def value(params: dict[str, Any]) -> Any:
        on = pasting.switches(params, tab)
        if not on:
            return False if setting is ENABLED and on is False else gr.update()
        values, errors = pasting.read(params)
        if errors and setting is ENABLED:  # once, not for every setting
            told = pasting.told(errors)
            gr.Warning(told)
            pasting.UNREAD.set(told.removeprefix("DemoFusion: "))
        return values[setting.name]

    return value


def paste_fields(components: Sequence[Any], tab: Tab = TXT2IMG) -> list[tuple[Any, Callable[[dict[str, Any]], Any]]]:
    return [(part, paste(setting, tab)) for part, setting in zip(components, SETTINGS)]
