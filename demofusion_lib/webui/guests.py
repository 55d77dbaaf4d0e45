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
    with contextlib.ExitStack() as guards:
        for kind in CALLED:
            guards.enter_context(guarded(script_callbacks.callback_map[kind], failed))
        yield


@contextlib.contextmanager
def guarded(calls: list[Any], failed: set[str]) -> Iterator[None]:
    """calls: the host's, which it holds in an order of its own too, so that each is changed in place; before webui 1.9 each
    is a tuple, and another takes its place."""
    before = [(each, each.callback) for each in calls]
    instead = {}
    for each, callback in before:
        own = unless_failed(callback, each.script, failed)
        if isinstance(each, tuple):
            instead[id(each)] = each._replace(callback=own)  # type: ignore[attr-defined]
        else:
            each.callback = own
    calls[:] = [instead.get(id(each), each) for each in calls]
    originals = {id(instead[id(each)]): each for each, _ in before if id(each) in instead}
    try:
        yield
    finally:
        calls[:] = [originals.get(id(each), each) for each in calls]
        for each, callback in before:
            if id(each) not in instead:
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
