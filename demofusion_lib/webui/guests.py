"""What other extensions do in every evaluation of a phase: their callbacks, and what they count by."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from modules import script_callbacks, sd_samplers

from .others import extension_of

CALLED = ("callbacks_cfg_denoiser", "callbacks_cfg_denoised", "callbacks_cfg_after_cfg")
COUNTER = "lib_free_u.global_state"
"""FreeU's: it counts evaluations from the batch's first one, and is at work up to the count that a sampler has."""


@contextlib.contextmanager
def of_phase() -> Iterator[None]:
    """Other extensions' callbacks as in a picture of its own."""
    counter = sys.modules.get(COUNTER)
    if counter is not None:
        counter.current_sampling_step = 0  # type: ignore[attr-defined]
    failed: set[str] = set()
    before = [(each, each.callback) for kind in CALLED for each in script_callbacks.callback_map[kind]]
    for each, callback in before:
        each.callback = unless_failed(callback, each.script, failed)
    try:
        yield
    finally:
        for each, callback in before:
            each.callback = callback


def unless_failed(callback: Callable[[Any], Any], file: str, failed: set[str]) -> Callable[[Any], Any]:
    """Nothing once another callback of the same file has failed: the host catches what that one raises, and the next would
    go on with what is left of an earlier picture (as self-attention guidance does)."""

    @functools.wraps(callback)
    def called(params: Any) -> Any:
        if file in failed:
            return None
        try:
            return callback(params)
        except Exception:
            failed.add(file)
            raise

    return called


def sampler_left_behind(base: str, phases: str) -> str:
    """Whose sampler the base image is drawn with, where it is an extension's own and the phases have another; else empty."""
    if base == phases or any(config.name == base for config in sd_samplers.all_samplers):
        return ""
    config = sd_samplers.find_sampler_config(base)
    return "" if config is None else extension_of(config.constructor)
