"""How long a row of the model and a pixel of the VAE took on this machine, in earlier runs: kept in the host's own cache."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from modules import cache, devices, shared

from ..targets import LATENT_PX
from ..work import BASE_ROW, DECODED_PX, ENCODED_PX, ROW, Speeds, default_speeds
from .parts import unet_of, vae_of

CACHE = "demofusion-speeds"
REMEMBERED = 7
"""Of so many latest runs the median counts, the faster of two: what comes once, such as the first run's warming up, is left
behind by the second."""
ALIKE = 2.0
"""A row of another size, up to so many times as large or small, is reckoned by its area."""


def known(model: Any, drawn_lat: tuple[int, int], vae: str = "auto") -> Speeds | None:
    """Of a model of the host's that is loaded, for windows of `(height, width)` cells; None before a row of about that size
    has been timed, and without a model. vae: the setting.

    What only the VAE has not shown yet is reckoned from the row. Never raises.
    """
    try:
        return None if model is None else _known(model, drawn_lat, vae)
    except Exception:  # a model that is put together otherwise
        return None


def _known(model: Any, drawn_lat: tuple[int, int], vae: str) -> Speeds | None:
    base_row, row = (_row(model, kind, drawn_lat) for kind in (BASE_ROW, ROW))
    either = base_row if row is None else row
    if either is None:
        return None
    guess = default_speeds(either, drawn_lat[0] * drawn_lat[1] * LATENT_PX**2)
    of_vae = _seconds(vae_key(model, vae))
    decoded, encoded = (_median(of_vae.get(kind, [])) for kind in (DECODED_PX, ENCODED_PX))
    return Speeds(either, decoded or guess.decoded_px, encoded or guess.encoded_px, base_row)


def learn(model: Any, drawn_lat: tuple[int, int], vae: str, seconds: Mapping[str, float]) -> None:
    """`seconds` of a row or pixel by kind (`work.KINDS`), from a run that has just ended, however it did. Never raises."""
    rows = {f"{kind} {drawn_lat[0] * drawn_lat[1]}": seconds[kind] for kind in (BASE_ROW, ROW) if kind in seconds}
    pixels = {kind: seconds[kind] for kind in (DECODED_PX, ENCODED_PX) if kind in seconds}
    try:
        _add(unet_key(model), rows)
        _add(vae_key(model, vae), pixels)
    except Exception:  # a full disk, another process's lock: the next run learns it
        return


def unet_key(model: Any) -> str:
    """What a row's time depends on beside its size."""
    attention = shared.opts.data.get("cross_attention_optimization")
    return f"unet {_shape_of(unet_of(model))} {devices.dtype_unet} {_machine(model)} {attention}"


def vae_key(model: Any, mode: str) -> str:
    """What a pixel's time depends on beside the picture's size."""
    return f"vae {_shape_of(vae_of(model))} {devices.dtype_vae} {_machine(model)} {mode}"


def _machine(model: Any) -> str:
    device = torch.device(devices.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}{', lowvram' if getattr(model, 'lowvram', False) else ''}"


def _shape_of(module: Any) -> str:
    """The same for all checkpoints of one architecture."""
    parameters = getattr(module, "parameters", list)()
    return f"{type(module).__name__} {sum(parameter.numel() for parameter in parameters)}"


def _row(model: Any, kind: str, drawn_lat: tuple[int, int]) -> float | None:
    """Of the size that is nearest to the one that is asked for."""
    wanted, found = drawn_lat[0] * drawn_lat[1], {}
    for name, seconds in _seconds(unet_key(model)).items():
        of_kind, _, cells = name.partition(" ")
        if of_kind == kind and cells.isdigit() and int(cells) and seconds:
            found[int(cells)] = seconds
    apart = {cells: abs(math.log(cells / wanted)) for cells in found}
    nearest = min(apart, key=lambda cells: apart[cells], default=None)
    if nearest is None or apart[nearest] > math.log(ALIKE) + 1e-9:
        return None
    median = _median(found[nearest])
    return None if median is None else median * wanted / nearest


def _median(seconds: Iterable[float]) -> float | None:
    values = list(seconds)
    return statistics.median_low(values) if values else None


def _seconds(key: str) -> dict[str, list[float]]:
    """What is remembered under a key; of anything else that may stand there, nothing."""
    try:
        return _read(_cache().get(key))
    except Exception:
        return {}


def _read(text: Any) -> dict[str, list[float]]:
    values = json.loads(text)
    return {
        str(name): [float(value) for value in some if _is_time(value)]
        for name, some in values.items()
        if isinstance(some, list)
    }


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _add(key: str, learnt: Mapping[str, float]) -> None:
    before = _seconds(key)
    for name, seconds in learnt.items():
        if _is_time(seconds):
            before[name] = [*before.get(name, []), seconds][-REMEMBERED:]
    if learnt:
        _cache()[key] = json.dumps(before)


def _cache() -> Any:
    """Its folder is made on first use only."""
    return cache.cache(CACHE)
