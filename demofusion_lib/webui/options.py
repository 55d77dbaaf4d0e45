"""The section "DemoFusion" of the host's Settings page. What a request may not change is kept from its API."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules import shared

from ..params import Params
from ..setting import SettingsError
from ..targets import LATENT_PX, scale_below, size_text

if TYPE_CHECKING:
    from ..core import Phase

SECTION = ("demofusion", "DemoFusion")


@dataclass(frozen=True)
class Option:
    """One of them. most: of a number, from 0; 0 for a text. restricted: whoever asks the API may not set it."""

    name: str
    default: Any
    label: str
    info: str = ""
    most: int = 0
    step: int = 1
    restricted: bool = False

    @property
    def value(self) -> Any:
        """What is set, the default where that is nothing such an option can be."""
        value = getattr(shared.opts, self.name, self.default)
        if isinstance(self.default, str):
            return value if isinstance(value, str) else self.default
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
        return int(value) if number else self.default


OPTIONS = (
    NATIVE_SD1 := Option(
        "demofusion_native_sd1", 512, "Native size of SD 1 models, in pixels", "a base image that is far from it is warned of",
        2048, 64,
    ),
    NATIVE_SD2V := Option("demofusion_native_sd2v", 768, "Native size of SD 2 models that predict v, in pixels", "", 2048, 64),
    NATIVE_SDXL := Option("demofusion_native_sdxl", 1024, "Native size of SDXL models, in pixels", "", 2048, 64),
    PREVIEW_PX := Option(
        "demofusion_preview_px", 1_000_000, "Live previews of the phases show at most so many pixels",
        "larger ones are made smaller before they are decoded", 16_000_000, 10_000,
    ),
    SAVED_DIR := Option(
        "demofusion_saved_dir", "", "Folder for the latents of finished phases (Save latents)",
        "empty: the folder demofusion beside the pictures", restricted=True,
    ),
    HELD_MB := Option(
        "demofusion_held_mb", 256, "Latents of finished phases are held in memory, up to so many MB",
        "a later run goes on from those that it would draw again; 0: none", 4096, 16,
    ),
    MAX_SIDE := Option(
        "demofusion_max_side", 0, "Longest side that may be asked for, in pixels",
        "0: any; more is refused on the page and in the API", 16384, 64, restricted=True,
    ),
)  # fmt: skip


def add_options() -> None:
    """The host's callback `on_ui_settings`."""
    import gradio as gr

    for option in OPTIONS:
        component, args = gr.Textbox, dict(shared.hide_dirs) if option is SAVED_DIR else {}
        if option.most:
            component, args = gr.Slider, {"minimum": 0, "maximum": option.most, "step": option.step}
        made = shared.OptionInfo(
            option.default, option.label, component, args, section=SECTION, restrict_api=option.restricted
        )
        shared.opts.add_option(option.name, made.info(option.info) if option.info else made)


def check_side(settings: Params, drawn_lat: tuple[int, int], phases: list[Phase]) -> None:
    """Raises SettingsError for a result larger than this webui draws. drawn_lat: `(height, width)` of the base image."""
    most = MAX_SIDE.value
    if not most or not phases:
        return
    size_lat = phases[-1].height_lat, phases[-1].width_lat
    if max(size_lat) * LATENT_PX <= most:
        return
    here = f"a result of up to {most} px a side here, and this would be {size_text(*size_lat)}"
    sides = {"target_width": settings.target_width, "target_height": settings.target_height}
    errors = [
        SettingsError(f"{name} is {side}, allowed: {here} (the nearest is {most // LATENT_PX * LATENT_PX})", name)
        for name, side in sides.items()
        if side > most
    ]
    if not errors:  # the scale, or a target's other side, which follows from it
        name = next((name for name, side in sides.items() if side), "scale")
        nearest = scale_below(most / (max(drawn_lat) * LATENT_PX)) if name == "scale" else 0
        told = f" (the nearest is {nearest:g})" if nearest >= 1 else ""
        errors = [SettingsError(f"{name} is {getattr(settings, name):g}, allowed: {here}{told}", name)]
    raise SettingsError.of_all(errors)
