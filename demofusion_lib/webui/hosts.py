"""Which webui this is. The engine has its place in some; in any other the host would draw past it, and not a word said."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from modules import shared

from ..setting import SettingsError, quoted

FIRST = "AUTOMATIC1111's webui"
CLASSIC = "Forge Classic"
NEO = "Forge Neo"
FORGES = ("reForge", "Forge", CLASSIC, NEO)
"""Those of Forge's family that the engine has been seen to draw in."""


class Unasked(RuntimeError):
    """The host has drawn past the engine."""

    def __init__(self) -> None:
        super().__init__(f"{host_name()} has drawn a step without asking the model by windows")


def is_forge() -> bool:
    """Whether it is one of Forge's family, which loads and asks its models in a way of its own."""
    return has("modules_forge")


def is_classic() -> bool:
    return is_forge() and family() == CLASSIC


def family() -> str:
    """Of Forge's: by the packages that its models come from; Classic and Neo by the name that stands in the version's place."""
    if not has("ldm_patched"):
        return NEO if version() == "neo" else "Forge"
    if has("ldm_patched.hooks"):
        return "reForge"
    return CLASSIC if version() == "classic" else "an older Forge"


def version() -> str:
    """Of Forge's family; empty where it tells none."""
    return told_of_version("version")


def told_of_version(name: str) -> str:
    return str(getattr(sys.modules.get("modules_forge.forge_version"), name, ""))


def has(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def host_name() -> str:
    """As a person calls it, with its version where it tells one."""
    if is_forge():
        number = told_of_version("release") if family() == NEO else version()
        return CLASSIC if is_classic() else f"{family()} {number}".strip()
    folder = os.path.basename(os.path.abspath(getattr(shared, "script_path", "") or os.getcwd()))
    return f"the webui in the folder {quoted(folder)}"


def check_host(sd_model: Any = None) -> None:
    """sd_model: what the host draws with, where that is known yet. Raises SettingsError, naming the host."""
    told, known = f"the webui is {host_name()}", True
    if is_forge():
        known = family() in FORGES
    elif sd_model is not None:
        told += f", whose model is a {type(sd_model).__name__}"
        known = is_asked_as_known(sd_model)
    if not known:
        raise SettingsError(f"{told}, allowed: {', '.join((FIRST, *FORGES))}")


def is_asked_as_known(sd_model: Any) -> bool:
    """By `apply_model` around a UNet, as the first host's samplers do."""
    return callable(getattr(sd_model, "apply_model", None)) and hasattr(sd_model, "model")
