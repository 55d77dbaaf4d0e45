"""Which webui this is. The engine has its place in some; in any other the host would draw past it, and not a word said."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from modules import shared

from ..params import SettingsError, quoted

ALLOWED = "AUTOMATIC1111's webui"


class Unasked(RuntimeError):
    """The host has drawn past the engine."""

    def __init__(self) -> None:
        super().__init__(f"{host_name()} has drawn a step without asking the model by windows")


def is_forge() -> bool:
    """Whether it is one of Forge's family, which loads and asks its models in a way of its own."""
    return "modules_forge" in sys.modules or importlib.util.find_spec("modules_forge") is not None


def host_name() -> str:
    """As a person calls it, with its version where it tells one."""
    if is_forge():
        kind = "reForge" if importlib.util.find_spec("ldm_patched") is not None else "Forge"
        version = getattr(sys.modules.get("modules_forge.forge_version"), "version", "")
        return f"{kind} {version}".strip()
    folder = os.path.basename(os.path.abspath(getattr(shared, "script_path", "") or os.getcwd()))
    return f"the webui in the folder {quoted(folder)}"


def check_host(sd_model: Any = None) -> None:
    """sd_model: what the host draws with, where that is known yet. Raises SettingsError, naming the host."""
    if is_forge() or getattr(sd_model, "forge_objects", None) is not None:
        raise SettingsError(f"the webui is {host_name()}, allowed: {ALLOWED}")
    if sd_model is not None and not is_asked_as_known(sd_model):
        raise SettingsError(
            f"the webui is {host_name()}, whose model is a {type(sd_model).__name__}, allowed: {ALLOWED}"
        )


def is_asked_as_known(sd_model: Any) -> bool:
    """By `apply_model` around a UNet, as the first host's samplers do."""
    return callable(getattr(sd_model, "apply_model", None)) and hasattr(sd_model, "model")
