"""What kind of model a checkpoint is, loaded or not, and at which size that kind draws well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from modules import sd_models, shared

from .options import NATIVE_SD1, NATIVE_SD2V, NATIVE_SDXL, Option
from .parts import is_v
from .standin import StandIn, loaded, standing_for


@dataclass(frozen=True)
class Family:
    """side: the host's setting that says of which square it was trained on."""

    name: str
    side: Option
    parameterization: str = "eps"

    @property
    def native(self) -> int:
        """In pixels; 0 where nobody is to be warned."""
        return int(self.side.value)


FAMILIES = (
    SD1 := Family("SD 1", NATIVE_SD1),
    SD2V := Family("SD 2-v", NATIVE_SD2V, "v"),
    SDXL := Family("SDXL", NATIVE_SDXL),
)
"""SD 2 that predicts noise was trained on SD 1's size."""

TOLD = (
    (re.compile(r"stable-diffusion-xl|sdxl", re.I), SDXL),
    (re.compile(r"stable-diffusion-v2-768|sd_v2_768", re.I), SD2V),
    (re.compile(r"stable-diffusion-v[12]|sd_v[12]", re.I), SD1),
)
"""By what trainers write into a file: `modelspec.architecture` of its metadata, kohya's `ss_base_model_version`."""
NAMED = ((re.compile(r"xl(?![a-z])", re.I), SDXL), (re.compile(r"768[-_]?v|v2-?1[-_]768", re.I), SD2V))


@dataclass(frozen=True)
class Checkpoint:
    """model: the host's, None where it is not loaded. stand_in: what to reckon with. family: None where nobody can say."""

    name: str
    family: Family | None
    model: Any
    stand_in: StandIn


def checkpoint(wanted: str = "") -> Checkpoint:
    """The one of that name, which the host need not have loaded; else the one that it will draw with. Loads nothing."""
    model = loaded()
    info = sd_models.checkpoint_aliases.get(wanted or shared.opts.sd_model_checkpoint)
    of_model = getattr(model, "sd_checkpoint_info", None)
    if model is not None and (info is None or info is of_model or same(info, of_model)):
        name = getattr(of_model, "name_for_extra", "")
        return Checkpoint(name, family_of(model), model, standing_for(model))
    family = family_by_file(info) if info is not None else None
    kind = family or SD1
    stand_in = StandIn.usual(kind.parameterization, kind is SDXL)
    return Checkpoint(getattr(info, "name_for_extra", ""), family, None, stand_in)


def same(one: Any, other: Any) -> bool:
    return other is not None and one.filename == other.filename


def family_of(model: Any) -> Family:
    if getattr(model, "is_sdxl", False):
        return SDXL
    v_model = is_v(model)
    return SD2V if v_model and getattr(model, "is_sd2", False) else SD1


def family_by_file(info: Any) -> Family | None:
    metadata = getattr(info, "metadata", None) or {}
    told = " ".join(str(metadata.get(key, "")) for key in ("modelspec.architecture", "ss_base_model_version"))
    found = [family for pattern, family in TOLD if pattern.search(told)]
    found += [family for pattern, family in NAMED if pattern.search(info.name_for_extra)]
    return found[0] if found else None
