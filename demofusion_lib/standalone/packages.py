"""Parts of installed packages, without running the rest of them."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def folder_of(package: str) -> Path:
    """Where a package lies. Raises ModuleNotFoundError if it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.submodule_search_locations[0])


def part_of(package: str, module: str) -> ModuleType:
    """`package.module` under a private name, its package's own `__init__` left unrun.

    That of k-diffusion imports all that its training and evaluation need (clip, clean-fid, kornia, wandb): seconds at
    every start, and `clip` stops at its first line where setuptools has no `pkg_resources` any more, from 82 on.
    """
    private = f"{__package__}._{package}"
    if private not in sys.modules:
        parent = ModuleType(private)
        parent.__path__ = [str(folder_of(package))]
        sys.modules[private] = parent
    return import_module(f"{private}.{module}")
