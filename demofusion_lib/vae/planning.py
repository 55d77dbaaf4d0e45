"""How a picture is worked on: exact or estimated, and where its layers lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What a decode or encode does; `str` of it is a line for the user.

    mode: `exact` or `estimated`. store: `device`, `host` or `file`.
    device_bytes: live tensors on the device beside the store and the weights. store_bytes: the layers in the store.
    """

    mode: str
    store: str
    dtype: torch.dtype
    device_bytes: int
    store_bytes: int

    def __str__(self) -> str:
        where = {"device": "on the device", "host": "in host memory", "file": "in a file"}[self.store]
        kind = "exact" if self.mode == "exact" else "estimated group norms"
        return f"VAE by tiles, {kind}, {self.store_bytes / GIB:.2f} GiB of layers {where}"
