"""Callbacks around every evaluation of the guided denoiser. What they raise is reported and swallowed."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from modules import errors


@dataclasses.dataclass
class ScriptCallback:
    script: str
    callback: Any
    name: str = "unnamed"


def _of_caller(callback):
    return ScriptCallback(sys._getframe(2).f_code.co_filename, callback)


class CFGDenoiserParams:
    def __init__(
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None
    ):
        self.x = x
        self.image_cond = image_cond
        self.sigma = sigma
        self.sampling_step = sampling_step
        self.total_sampling_steps = total_sampling_steps
        self.text_cond = text_cond
        self.text_uncond = text_uncond
        self.denoiser = denoiser


class CFGDenoisedParams:
    def __init__(self, x, sampling_step, total_sampling_steps, inner_model):
        self.x = x
        self.sampling_step = sampling_step
        self.total_sampling_steps = total_sampling_steps
        self.inner_model = inner_model


class AfterCFGCallbackParams:
    def __init__(self, x, sampling_step, total_sampling_steps):
        self.x = x
        self.sampling_step = sampling_step
        self.total_sampling_steps = total_sampling_steps


class ImageSaveParams:
    def __init__(self, image, p, filename, pnginfo):
        self.image = image
        self.p = p
        self.filename = filename
        self.pnginfo = pnginfo


callback_map: dict = {
    "callbacks_cfg_denoiser": [],
    "callbacks_cfg_denoised": [],
    "callbacks_cfg_after_cfg": [],
    "callbacks_before_image_saved": [],
    "callbacks_ui_settings": [],
    "callbacks_app_started": [],
    "callbacks_before_ui": [],
}


def add_callback(callbacks, fun, *, name=None, category="unknown", filename=None):
    callbacks.append(ScriptCallback(filename, fun) if category.startswith("cfg_") else fun)


def _fire(name: str, params) -> None:
    for each in callback_map[name]:
        try:
            (each.callback if isinstance(each, ScriptCallback) else each)(params)
        except Exception:
            errors.report(f"Error executing callback {name}", exc_info=True)


def cfg_denoiser_callback(params: CFGDenoiserParams):
    _fire("callbacks_cfg_denoiser", params)


def cfg_denoised_callback(params: CFGDenoisedParams):
    _fire("callbacks_cfg_denoised", params)


def cfg_after_cfg_callback(params: AfterCFGCallbackParams):
    _fire("callbacks_cfg_after_cfg", params)


def on_cfg_denoiser(callback, *, name=None):
    callback_map["callbacks_cfg_denoiser"].append(_of_caller(callback))


def on_cfg_denoised(callback, *, name=None):
    callback_map["callbacks_cfg_denoised"].append(_of_caller(callback))


def on_cfg_after_cfg(callback, *, name=None):
    callback_map["callbacks_cfg_after_cfg"].append(_of_caller(callback))


def before_image_saved_callback(params: ImageSaveParams):
    _fire("callbacks_before_image_saved", params)


def on_before_image_saved(callback, *, name=None):
    callback_map["callbacks_before_image_saved"].append(callback)


def on_ui_settings(callback, *, name=None):
    callback_map["callbacks_ui_settings"].append(callback)


def on_app_started(callback, *, name=None):
    callback_map["callbacks_app_started"].append(callback)


def on_before_ui(callback, *, name=None):
    callback_map["callbacks_before_ui"].append(callback)
