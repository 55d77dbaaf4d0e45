"""After a refiner in the base image: the base model again, which draws the phases."""

from __future__ import annotations

import sys
from typing import Any

from modules import extra_networks, sd_models, sd_samplers_common

from .tiling import wraps

IN_PLACE = "ORIGINAL_CHECKPOINT"
"""Of Forge Neo's samplers: the base model's file, while a refiner's weights are in its UNet (its option `refiner_fast_sd`)."""


def back_to_base_model(p: Any) -> bool:
    """Whether it had to be loaded."""
    if getattr(sd_samplers_common, IN_PLACE, None) is not None:
        _put_back(p)
    elif p.refiner_checkpoint_info is None or p.sd_model.sd_checkpoint_info != p.refiner_checkpoint_info:
        return False
    elif hasattr(sd_models, "forge_model_reload"):  # where `reload_model_weights` does nothing
        sd_models.forge_model_reload()
    else:
        _reload(p)
    if not p.disable_extra_networks:
        extra_networks.activate(p, p.extra_network_data)
    for place in (sd_models, sys.modules.get("modules_forge.forge_loader")):  # there in Forge Classic, nowhere in Neo
        if hasattr(place, "apply_alpha_schedule_override"):
            place.apply_alpha_schedule_override(p.sd_model, p)
            break
    return True


def _reload(p: Any) -> None:
    from modules import sd_hijack  # Forge Neo has none

    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights()
    sd_hijack.model_hijack.apply_circular(wraps(p))  # loading has turned it off


def _put_back(p: Any) -> None:
    """As the host's script does when all pictures are drawn."""
    for script in getattr(p.scripts, "alwayson_scripts", ()):
        if type(script).__name__ == "ScriptRefiner":
            script.postprocess(p, None)
            return
    raise RuntimeError(
        "a refiner's weights are left in the webui's model; its settings show no refiner that takes them out"
    )
