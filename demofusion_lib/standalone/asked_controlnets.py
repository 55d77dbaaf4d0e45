"""`--controlnet` and the flags that belong to it, as far as nothing is loaded for them."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..setting import quoted
from .errors import UserError, first_line
from .folders import reason
from .names import AUTO
from .sources import is_there
from .toy import TOY, TOY_CONTROLNET

FLAGS = ("controlnet", "hint", "hint_kind", "controlnet_scale", "controlnet_start", "controlnet_end")
"""Each may be given several times; the last four once for all of them, too."""
UNSAID: Mapping[str, Any] = {
    "hint_kind": AUTO, "controlnet_scale": 1.0, "controlnet_start": 0.0, "controlnet_end": 1.0,
}  # fmt: skip
SUPPORTED = "ControlNetModel"
ALLOWED = f"{TOY}, a diffusers folder of a {SUPPORTED}"


def asked_for(args: Namespace) -> list[dict[str, Any]]:
    """What each ControlNet is given, by flag. Raises UserError for what doesn't go together, and for no ControlNet's folder."""
    lists = {name: getattr(args, name) or [] for name in FLAGS}
    nets = lists["controlnet"]
    for name, values in lists.items():
        if values and not nets:
            raise UserError(f"{name} is {quoted(values[0])}, allowed with controlnet alone")
        if values and len(values) != len(nets) and (len(values) > 1 or name == "hint"):
            raise UserError(
                f"{name} is given {len(values)} times, allowed: once for each of the {len(nets)} controlnets"
            )
    if nets and not lists["hint"]:
        raise UserError(f"controlnet is {quoted(nets[0])}, allowed with a hint for it alone")
    if nets and args.strength == 0:
        raise UserError(f"controlnet is {quoted(nets[0])}, allowed with a strength above 0 alone: 0 draws nothing")
    each = [
        {name: (values * len(nets))[i] if values else UNSAID[name] for name, values in lists.items()}
        for i in range(len(nets))
    ]
    for one in each:
        _check_span(one["controlnet_start"], one["controlnet_end"])
        _check_folder(one["controlnet"])
    return each


def _check_span(start: float, end: float) -> None:
    if start > end:
        raise UserError(f"controlnet_start is {start:g}, allowed: up to controlnet_end, which is {end:g}")


def folder_of_net(name: str) -> Path:
    return TOY_CONTROLNET if name == TOY else Path(name)


def _check_folder(name: str) -> None:
    if name != TOY and not is_there(name, Path.is_dir):
        raise refused(name, "is no folder")
    try:
        config = json.loads((folder_of_net(name) / "config.json").read_text(encoding="utf-8"))
        kind = config.get("_class_name")
    except OSError as error:
        raise refused(name, f"has no config.json ({reason(error)})") from error
    except (ValueError, AttributeError) as error:
        raise refused(name, f"has a config.json that can't be read ({first_line(error)})") from error
    if kind != SUPPORTED:
        raise refused(name, f"is a {quoted(kind)}")


def refused(name: str, why: str) -> UserError:
    return UserError(f"controlnet is {quoted(name)}, which {why}, allowed: {ALLOWED}")
