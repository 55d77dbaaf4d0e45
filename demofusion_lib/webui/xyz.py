"""Our axes in the host's X/Y/Z plot, one for each setting that an infotext tells of.

An axis stands before what the page or the request has set, and switches DemoFusion on for its cells unless the axis
"[DemoFusion] Enabled" says otherwise: else a plot over a setting of ours would show one picture over and over. A preset on
an axis does what choosing it on the page does: what presets set becomes the preset's, whatever stood there before, and
what they don't set, the scale say, stays. Another axis counts before it, whichever comes first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from modules import scripts

from ..params import SETTINGS, Params, named, preset_values
from ..setting import Setting, SettingsError
from .choices import check_there, offered, with_todays_names
from .others import chosen_script
from .refusal import refusal
from .ui import ENABLED, SET_BY_PRESETS

FILE = "xyz_grid.py"
ATTRIBUTE = "demofusion_axes"
"""Of a processing object: what the axes of its cell set, by name."""


IN_ORDER = sorted((s for s in SETTINGS if s.told), key=lambda setting: setting.name != "preset")
"""Of the axes: presets first, which are what there is to compare; then the table's order."""


def label(setting: Setting) -> str:
    return f"[DemoFusion] {'Enabled' if setting is ENABLED else setting.label}"


def add_axes() -> None:
    """Offers them in the host's script, once, where it has that script. To be called before that makes its page."""
    for data in scripts.scripts_data:
        if os.path.basename(str(data.path)) == FILE and hasattr(data.module, "axis_options"):
            there = {option.label for option in data.module.axis_options}
            ours = (axis(data.module, setting) for setting in IN_ORDER)
            data.module.axis_options.extend(option for option in ours if option.label not in there)


def axis(module: Any, setting: Setting) -> Any:
    """One of the host's options. It splits texts and ranges of numbers by `type`, and shows `choices` in a list."""
    choices = None
    if setting.kind is bool:
        choices = partial(list, ("True", "False"))
    elif setting.kind is str and not setting.is_prompt:
        choices = partial(offered, setting) if setting.names else partial(list, setting.choices)
    type_ = setting.kind if setting.kind in (int, float) else str
    return module.AxisOption(
        label(setting), type_, partial(put, setting), confirm=partial(confirm, setting), choices=choices
    )


def read(setting: Setting, value: Any) -> Any:
    """The setting's value from a cell's; raises SettingsError. A step within a range of numbers is a sum of others."""
    if isinstance(value, str):
        return setting.from_text(value.strip())
    return setting.check(round(value, 8) if isinstance(value, float) else value)


def confirm(setting: Setting, p: Any, values: Sequence[Any]) -> None:
    """Before the first cell is drawn; what is wrong with a cell alone, a target below its base say, stops that cell."""
    try:
        for value in values:
            value = read(setting, value)
            if setting.names:
                check_there(setting, value)
    except SettingsError as error:
        raise refusal(error) from None


def put(setting: Setting, p: Any, value: Any, values: Sequence[Any]) -> None:
    """p: a cell's own copy, which shares everything that it holds with the other cells'."""
    with contextlib.suppress(SettingsError):  # the cell refuses it, as it would any value
        value = read(setting, value)
    setattr(p, ATTRIBUTE, {**axes_of(p), setting.name: value})


def axes_of(p: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(p, ATTRIBUTE, {})
    return found


def in_cell(args: Sequence[Any], axes: Mapping[str, Any]) -> Params:
    """The settings of a cell. Raises SettingsError."""
    values = dict(named(args))
    if "preset" in axes:
        of_preset = preset_values(axes["preset"])
        values |= {name: of_preset[name] for name in SET_BY_PRESETS}
    return with_todays_names(Params.from_names({**values, ENABLED.name: True, **axes}))


def in_plot(p: Any) -> bool:
    """Whether the run is one of a plot's: refused, it leaves its cell empty and must not end the others."""
    script = chosen_script(p)
    return script is not None and os.path.basename(str(script.filename)) == FILE
