"""Which other extension something comes from, and which script is at work."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from modules import errors, extensions

PIECEWISE = ("sd_upscale.py", "outpainting_mk_2.py", "poor_mans_outpainting.py", "ultimate-upscale.py")
"""The files of such scripts: the webui's own, and Ultimate SD upscale."""
BENEATH = {"ICLightScript": "IC-Light"}
"""By their classes, scripts that give the UNet another picture beside all of this one. Their first argument says whether they
are on, alone or in a mapping of names."""
OWN = Path(__file__).resolve().parents[2]
"""The folder that this extension lies in, wherever a link to it may be."""
TOLD = 120


def extension_of(function: Any) -> str:
    """The name to tell the user of whoever made `function`, or an object that is called: the extension's, else its file's."""
    if not inspect.isroutine(function):  # the function's file, as the webui keeps no module for a script's classes
        kind = type(function)
        function = next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), kind)
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").resolve()
    except TypeError:  # nothing, or nothing made of Python code
        return "another extension"
    name = name_at(file)
    return f"the extension {name}" if name else f"another extension ({file.name})"


def name_at(file: Path) -> str:
    """Of the extension that a resolved file belongs to; empty for none."""
    found = (each.name for each in extensions.extensions if Path(each.path).resolve() in file.parents)
    return next(found, "")


def failed_since(before: Sequence[Any]) -> dict[str, str]:
    """By the names of other extensions, what the host has caught of them and gone on without. before: its records of then."""
    faults: dict[str, str] = {}
    for record in errors.exception_records:
        if any(record is one for one in before):
            continue
        frames = (Path(str(place).partition(", line ")[0]).resolve() for place, _ in record["traceback"])
        name = next(filter(None, (name_at(file) for file in frames if OWN not in file.parents)), "")
        if name:
            faults.setdefault(name, (str(record["exception"]).strip().splitlines() or ["no message"])[0][:TOLD])
    return faults


def does_instead(coder: Any) -> str:
    """Who has put something else in the place of what a VAE's encoder or decoder does; empty for nobody."""
    forward = vars(coder).get("forward") if isinstance(coder, torch.nn.Module) else None
    own = getattr(forward, "__func__", None) is getattr(type(coder), "forward", None)
    return "" if forward is None or own else extension_of(forward)


def chosen_script(p: Any) -> Any:
    """The host's one of those below the settings that the run is made with, None for none."""
    chosen = (getattr(p, "script_args", None) or [0])[0]
    selectable = getattr(getattr(p, "scripts", None), "selectable_scripts", [])
    return selectable[chosen - 1] if isinstance(chosen, int) and 0 < chosen <= len(selectable) else None


def in_pieces(p: Any) -> str:
    """The name of a script that draws a given picture piece by piece, each by a run of its own, and puts them together as
    large as they were; empty for none."""
    script = chosen_script(p)
    return script.title() if script is not None and os.path.basename(str(script.filename)) in PIECEWISE else ""


def laid_beneath(p: Any) -> str:
    """What lays a picture beneath all of this one; empty for nothing."""
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", []):
        name = BENEATH.get(type(script).__name__, "")
        if name:
            first = next(iter((p.script_args or ())[script.args_from : script.args_to]), False)
            if (first.get("enabled", False) if isinstance(first, Mapping) else first) is True:
                return name
    return ""
