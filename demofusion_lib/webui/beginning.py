"""What the page shows in the place of what the webui has kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules import shared

from ..params import SETTINGS, preset_values
from ..presets import NONE, PRESETS


def kept(where: str) -> dict[str, Any]:
    """By setting, what the webui's `ui-config.json` says of a tab; nothing where it can't be read. where: what stands
    before the labels there."""
    try:
        found = json.loads(Path(shared.cmd_opts.ui_config_file).read_text(encoding="utf-8"))
        return {s.name: found[key] for s in SETTINGS if (key := f"{where}{s.label}/value") in found}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def shown_instead(where: str, begun: Mapping[str, Any], of_presets: Sequence[str]) -> dict[str, Any]:
    """The values of the preset that was written into the file by hand, where those beside it are what the webui has kept of
    another one, untouched. None sets nothing.

    begun: what the parts are made with, and keep where the file has nothing for them. of_presets: what presets set.
    """
    values = kept(where)
    preset = values.get("preset")
    if not isinstance(preset, str) or preset not in PRESETS or preset == NONE:
        return {}
    wanted = preset_values(preset)
    found = {name: values.get(name, begun[name]) for name in of_presets}
    others = [{name: preset_values(other)[name] for name in of_presets} for other in PRESETS if other != preset]
    return {name: wanted[name] for name in of_presets} if found in others else {}


def begin_with(part: Any, value: Any) -> None:
    """What the browser is told; the part keeps the host's, which its tab of defaults compares with the page."""
    configured = part.get_config
    part.get_config = lambda: {**configured(), "value": value}
