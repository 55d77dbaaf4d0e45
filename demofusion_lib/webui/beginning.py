"""What the page begins with, beside what the webui has kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules import shared

from ..params import SETTINGS, preset_values
from ..presets import DEFAULT, NONE, PRESETS

KEPT = "customscript/demofusion.py/txt2img/"
"""Before what the webui keeps of our page in its `ui-config.json`, which it puts into the parts again."""
SET_BY_PRESETS = tuple(s.name for s in SETTINGS if any(s.name in values for values in PRESETS.values()))


def kept() -> dict[str, Any]:
    """By setting, what the file says; nothing where it can't be read."""
    try:
        found = json.loads(Path(shared.cmd_opts.ui_config_file).read_text(encoding="utf-8"))
        values = {
            key[len(KEPT) : -len("/value")]: found[key]
            for key in found
            if key.startswith(KEPT) and key.endswith("/value")
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return {s.name: values[s.label] for s in SETTINGS if s.label in values}


def first_preset() -> str:
    """Of the parts as they are made. Where the webui has kept the values of a version without presets, it is none, as
    they are."""
    values = kept()
    return NONE if values and "preset" not in values else DEFAULT


def shown_instead() -> Mapping[str, Any]:
    """What the page shows in the place of what was kept: the values of the preset that was written into the file by hand,
    where those beside it are what the webui has kept of another one, untouched. None sets nothing."""
    values, begun = kept(), preset_values(first_preset())
    preset = values.get("preset")
    if not isinstance(preset, str) or preset not in PRESETS or preset == NONE:
        return {}
    wanted = preset_values(preset)
    found = {name: values.get(name, begun[name]) for name in SET_BY_PRESETS}
    others = [{name: preset_values(other)[name] for name in SET_BY_PRESETS} for other in PRESETS if other != preset]
    return {name: wanted[name] for name in SET_BY_PRESETS} if found in others else {}
