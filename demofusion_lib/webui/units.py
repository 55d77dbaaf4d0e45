"""What one unit of sd-webui-controlnet shows the model in a phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..core import Looking, looking
from .maps import Lent, Plane, whole_steps

MAPPED = ("ControlNet", "ControlLoRA", "InstantID", "ControlNetUnion", "T2I_Adapter", "Controlllite")
"""Kinds of units that have a map of the picture, as the extension names them."""


def kind_name(param: Any) -> str:
    return str(getattr(param.control_model_type, "name", ""))


def shown_anew(param: Any, hint: torch.Tensor) -> Lent:
    """What makes kinds of models that keep the map by themselves, or what they have made of it, see another."""
    if kind_name(param) == "T2I_Adapter":
        return [(param.control_model, "control", None), (param.control_model, "hint_cond", None)]
    if kind_name(param) != "Controlllite":
        return []
    image = hint * 2 - 1
    modules = list(param.control_model.modules.values())
    shown: Lent = [(module, "cond_image", whole_steps(module, image)) for module in modules]
    return [*shown, *((module, "cond_emb", None) for module in modules)]


@dataclass
class Unit:
    """One unit in one phase. hint: its map. latent: what the extension would encode of it. inpainted: what it would put in
    the place of an inpainting model's own condition. region: where the unit is to have a say."""

    param: Any
    hint: Plane | None = None
    latent: Plane | None = None
    inpainted: Plane | None = None
    region: Plane | None = None

    def lent(self, now: Looking) -> Lent:
        param = self.param
        if self.hint is None:
            return self._reference(len(now.views)) if kind_name(param) == "AttentionInjection" else []
        hint = self.hint.part(now)
        latent, inpainted = (plane and plane.part(now) for plane in (self.latent, self.inpainted))
        region = self.region and self.region.part(now)
        lent: Lent = [
            (param, "used_hint_cond", hint),
            (param, "used_hint_cond_latent", latent),
            (param, "used_hint_inpaint_hijack", inpainted),
        ]
        lent += shown_anew(param, hint)
        if kind_name(param) == "T2I_Adapter" and param.cfg_injection:
            # the extension would repeat what it takes for one map
            asked = torch.tensor([not no for no in now.negative]).to(hint)[:, None, None, None]
            region = asked if region is None else region.to(hint) * asked
            lent.append((param, "cfg_injection", False))
        if region is not None:
            lent.append((param, "effective_region_mask", region))
        return lent

    def _reference(self, rows: int) -> Lent:
        """The same picture for every patch: the extension has made as many of it as the base image's calls had rows."""
        latent = self.param.used_hint_cond_latent
        whole = [(self.param, "used_hint_cond", self.param.hint_cond)]
        return (
            whole
            if latent is None
            else [*whole, (self.param, "used_hint_cond_latent", latent[:1].expand(rows, -1, -1, -1))]
        )


def nothing(*_: Any) -> float:
    """In the place of what a unit adds."""
    return 0.0


def masking(region: Plane) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of what is added to `(patches, tokens, width)` of an attention, that which lies in the region."""

    def masked(out: torch.Tensor) -> torch.Tensor:
        now = looking()
        if now is None:
            return out
        height, width = now.shape_lat
        rows = max(1, round(height * math.sqrt(out.shape[1] / (height * width))))
        shares = F.interpolate(region.part(now).to(out), size=(rows, out.shape[1] // rows), mode="bilinear")
        return out * shares.flatten(1)[..., None]

    return masked
