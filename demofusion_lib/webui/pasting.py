"""What a pasted infotext restores of ours: all of it that can be read, and the rest is named."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from modules import shared
from modules.styles import extract_style_text_from_prompt

from ..params import BY_NAME, SETTINGS, by_label, read_each
from ..presets import DEFAULT, NONE
from ..setting import Setting, SettingsError
from .choices import check_there, todays_names
from .tabs import IMG2IMG, Tab

UNREAD: ContextVar[str] = ContextVar("demofusion_unread", default="")
"""What the infotext of a request to the API has that could not be read: the host reads it before it makes the run, and in the
same context, which no other request has."""
ENABLED_KEY = SETTINGS[0].key
STYLES = "Styles array"
"""Among a pasted infotext's parameters: the styles that the host has found in its prompts and taken out of them."""


def drawn_from_picture(params: Mapping[str, Any]) -> bool:
    """Whether an infotext is of a picture that was drawn in img2img. params: the host's reading of it, which puts a size of 0
    for Hires. fix where there was none."""
    hires = "Hires upscale" in params or "Hires upscaler" in params or str(params.get("Hires resize-1", 0)) != "0"
    return "Denoising strength" in params and not hires


def switches(params: Mapping[str, Any], tab: Tab) -> bool | None:
    """Whether an infotext switches a tab's accordion on, so that all of it is restored, or off; None: it is left as it is.

    What was drawn from a prompt says nothing of how it is to be enlarged in img2img: with the settings that it was drawn
    with, a picture that is large already would be enlarged again.
    """
    if tab is IMG2IMG and not drawn_from_picture(params):
        return None
    return ENABLED_KEY in params and (tab is IMG2IMG) == drawn_from_picture(params)


def read(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[SettingsError]]:
    """Every setting, and what was wrong with those that are left at what they would be without a word of them.

    params: the host's reading of an infotext, of any version: one that names no preset has none.
    """
    texts = {setting.name: params[setting.key] for setting in SETTINGS if setting.key in params}
    preset, unknown = NONE, _unknown_preset(texts)
    if unknown:  # of a later version, say: what it was is not known, and none would be the dearest guess
        del texts["preset"]
        preset = DEFAULT
    values, errors = read_each(texts, Setting.from_text, preset)
    values |= todays_names(values)
    errors = [*unknown, *errors]
    for setting in SETTINGS:
        if setting.names:
            try:
                check_there(setting, values[setting.name])
            except SettingsError as error:
                values[setting.name] = setting.default
                errors.append(error)
    for name in params.get(STYLES) or ():
        style = shared.prompt_styles.styles.get(name)
        if style is not None:
            values |= {
                "phase_prompt": _without(style.prompt, values["phase_prompt"]),
                "phase_negative": _without(style.negative_prompt, values["phase_negative"]),
            }
    return values, errors


def _unknown_preset(texts: Mapping[str, str]) -> list[SettingsError]:
    try:
        BY_NAME["preset"].from_text(texts.get("preset", NONE))
    except SettingsError as error:
        return [error]
    return []


def _without(style: str | None, prompt: str) -> str:
    """The prompt as it was before the style was added, which the host adds again."""
    return extract_style_text_from_prompt(style, prompt)[1] if style and prompt else prompt


def told(errors: list[SettingsError]) -> str:
    """What could not be read, in the page's words; empty where there is nothing to tell."""
    named = by_label(SettingsError.of_all(errors)).values()
    return f"DemoFusion: not pasted: {'; '.join(named)}" if errors else ""


def take_unread() -> str:
    """What is to be told of this request's infotext, once."""
    text = UNREAD.get()
    UNREAD.set("")
    return text
