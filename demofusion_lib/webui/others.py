"""Which other extension something comes from, and which script is at work."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from modules import extensions

PIECEWISE = ("sd_upscale.py", "outpainting_mk_2.py", "poor_mans_outpainting.py", "ultimate-upscale.py")
"""The files of such scripts: the webui's own, and Ultimate SD upscale."""


def extension_of(function: Any) -> str:
    """The name to tell the user of whoever made `function`, or an object that is called: the extension's, else its file's."""
    if not inspect.isroutine(function):
        function = type(function)
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").resolve()
    except TypeError:  # nothing, or nothing made of Python code
        return "another extension"
    for extension in extensions.extensions:
        if Path(extension.path).resolve() in file.parents:
            return f"the extension {extension.name}"
    return f"another extension ({file.name})"


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
