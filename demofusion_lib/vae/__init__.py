"""Stable Diffusion's VAE on pictures of any size, tile by tile, with the undivided VAE's own result; torch alone."""

from .coding import MODES, TILE_LAT, chosen, decode, encode, peak_bytes
from .errors import NoRoom, NotFinite, Unreadable
from .memory import Memory
from .planning import Plan
from .sharing import Sharing

__all__ = [
    "MODES",
    "TILE_LAT",
    "Memory",
    "NoRoom",
    "NotFinite",
    "Plan",
    "Sharing",
    "Unreadable",
    "chosen",
    "decode",
    "encode",
    "peak_bytes",
]
