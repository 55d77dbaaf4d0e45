"""Which of a diffusers folder's weight files to read: their variant, and a format that can't run code."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from ..setting import quoted
from .errors import UserError

FILE = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?(?:\.(?P<old>[^.]+))?\.(?P<format>safetensors|bin)"
)
"""As diffusers and transformers name them. Shards of a variant had its name behind their number once."""
PLAIN = ""
SAFE_TORCH = (2, 6)
"""The first whose `torch.load(weights_only=True)` runs no code that a file brings (CVE-2025-32434)."""


def formats_by_variant(folder: Path) -> dict[str, set[str]]:
    """Of one part: `{"": {"safetensors"}, "fp16": {"safetensors", "bin"}}`."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in folder.iterdir() if folder.is_dir() else ():
        match = FILE.fullmatch(file.name)
        if match:
            found[match["variant"] or match["old"] or PLAIN].add(match["format"])
    return dict(found)


def choose_weights(folder: Path, parts: Iterable[str], variant: str = PLAIN) -> tuple[str | None, bool]:
    """The `variant` to load, None for none, and whether all of it is in safetensors.

    A variant that is the only one there need not be asked for. Parts without the variant are taken plain, as diffusers
    does. Raises UserError, in words that go on behind the model's name.
    """
    found = {part: formats_by_variant(folder / part) for part in parts}
    empty = [part for part, variants in found.items() if not variants]
    if empty:
        raise UserError(f"has no weights of its {', '.join(empty)}, supported: .safetensors, .bin")
    chosen = variant or _only_variant(found)
    if chosen and not any(chosen in variants for variants in found.values()):
        raise UserError(f"has no weights of the variant {quoted(chosen)}, allowed: {_variants(found)}")
    taken = {part: variants.get(chosen) or variants.get(PLAIN) for part, variants in found.items()}
    lacking = [part for part, formats in taken.items() if not formats]
    if lacking:
        raise UserError(f"has no plain weights of its {', '.join(lacking)}, allowed with --variant: {_variants(found)}")
    safe = all("safetensors" in formats for formats in taken.values() if formats)
    if not safe and not reads_bin_safely():
        raise UserError(
            f"has weights as .bin only, which are read from torch {SAFE_TORCH[0]}.{SAFE_TORCH[1]} on (this is "
            f"{torch.__version__}: such a file could run code in it), supported: .safetensors, as save_pretrained writes it"
        )
    return chosen or None, safe


def _only_variant(found: dict[str, dict[str, set[str]]]) -> str:
    """That of the parts without plain weights, if all of them have the same one and no other."""
    lacking = [set(variants) for variants in found.values() if PLAIN not in variants]
    common = set.intersection(*lacking) if lacking else set()
    return common.pop() if len(common) == 1 else PLAIN


def _variants(found: dict[str, dict[str, set[str]]]) -> str:
    return ", ".join(sorted({name or "none" for variants in found.values() for name in variants}))


def reads_bin_safely() -> bool:
    return tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2]) >= SAFE_TORCH
