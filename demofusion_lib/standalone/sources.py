"""What a model is called: the toy, a folder, a single file, a name on the hub. Known without loading anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..setting import quoted
from ..targets import LATENT_PX
from .errors import UserError
from .names import AUTO
from .toy import CONFIG_FILE, TOY

ALLOWED = f"{TOY}, a diffusers folder, OWNER/NAME on the hub, a .safetensors file"
HUB_NAME = 96  # characters, the hub's own limit


@dataclass(frozen=True)
class Source:
    """A model as the command line names it. config: an own one for a single file. prediction: `auto` or a name."""

    name: str
    variant: str = ""
    config: str = ""
    prediction: str = AUTO

    @property
    def is_file(self) -> bool:
        return self.name.endswith(".safetensors")

    def check(self) -> None:
        """Raises UserError for flags that say nothing here."""
        if self.variant and (self.name == TOY or self.is_file):
            raise UserError(f"variant is {quoted(self.variant)}, allowed for a diffusers folder or a name on the hub")
        if self.config and not self.is_file:
            raise UserError(f"config is {quoted(self.config)}, allowed for a single .safetensors file")
        if self.is_file and not is_there(self.name, Path.is_file):
            raise self.refused("is no file")
        if (
            self.name != TOY
            and not self.is_file
            and not is_there(self.name, Path.is_dir)
            and not is_hub_name(self.name)
        ):
            raise self.refused(f"is no file or folder, allowed: {ALLOWED}")

    def refused(self, why: str) -> UserError:
        return UserError(f"model is {quoted(self.name)}, which {why}")


def native_px_of(name: str) -> int | None:
    """The size that a model is said to draw at, where a small file tells it: the toy's, and a folder's."""
    file = CONFIG_FILE if name == TOY else Path(name) / "unet" / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        size = (config["unet"] if name == TOY else config)["sample_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size * LATENT_PX if isinstance(size, int) else None


def is_there(name: str, is_kind: Callable[[Path], bool]) -> bool:
    """Also of what can't be a path: empty, too long, with a zero in it."""
    try:
        return bool(name) and is_kind(Path(name))
    except (OSError, ValueError):
        return False


def is_hub_name(name: str) -> bool:
    return len(name) <= HUB_NAME and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None
