"""Which other extension something comes from."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from modules import extensions


def extension_of(function: Any) -> str:
    """The name to tell the user of whoever made `function`: the extension's, else its file's."""
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").resolve()
    except TypeError:  # nothing, or nothing made of Python code
        return "another extension"
    for extension in extensions.extensions:
        if Path(extension.path).resolve() in file.parents:
            return f"the extension {extension.name}"
    return f"another extension ({file.name})"
