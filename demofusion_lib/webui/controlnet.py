"""The extension ControlNet (sd-webui-controlnet) in the phases: each unit's map follows the windows.

The extension wraps the UNet's `forward` and keeps there what its units hold, which the base image is drawn with. While a
phase calls the model, and only then, the units hold what belongs to the patches that it is given; everything is put back
after each call. Nothing of the extension is replaced.

A unit's map is asked for anew for each phase, by the extension itself and in the size that it has there, as for the second
pass of Hires. fix. Units without a map (IP-Adapter, reference, revision) are shown whole to every window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from modules import devices, errors, shared

from ..core import Looking, Phase
from ..hints import HOW, LABELS, SMOOTH, at_size, kind_of, part_of
from ..plan import Plan
from ..targets import LATENT_PX
from .enlarging import Coder
from .finishing import Pasted, is_finishing
from .maps import BASE_ONLY, PHASES_ONLY, Lent, Plane, is_tile, lending, option_of, share_at, sizes_px
from .units import MAPPED, Unit, kind_name, masking, nothing, shown_anew

SEPARATE = "Each ControlNet unit for each image in a batch"


def script_of(p: Any) -> Any:
    """The extension's script with its units of this run, None where it has none."""
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        network = getattr(script, "latest_network", None)
        if getattr(network, "control_params", None) is not None and hasattr(script, "enabled_units"):
            unet = p.sd_model.model.diffusion_model
            return script if network.model is unet and "forward" in vars(unet) else None
    return None


def left_out(p: Any) -> int:
    """How many units the extension was asked for and draws none of: one that it can't use takes all others with it, which only
    the webui's console is told of."""
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if hasattr(script, "controlnet_main_entry") and getattr(script, "latest_network", 0) is None:
            return len(getattr(script, "enabled_units", None) or ())
    return 0


class ControlNet:
    """The units of one batch, for its phases. tell: given what a user should know. coder: the host's VAE."""

    def __init__(self, p: Any, plan: Plan, tell: Callable[[str], None], coder: Coder):
        self.p, self.plan, self.tell, self.coder = p, plan, tell, coder
        self.script = script_of(p)
        self.network = self.script.latest_network if self.script else None
        self.pairs = list(zip(self.network.control_params, self.script.enabled_units)) if self.script else []
        self.units: list[Unit] = []
        self.picture: torch.Tensor | None = None
        if count := left_out(p):
            units = "its unit" if count == 1 else f"all of its {count} units"
            tell(f"ControlNet draws without {units}, as one can't be used: the webui's console says why")

    @property
    def modules(self) -> list[torch.nn.Module]:
        """What the extension calls beside the UNet."""
        models = [param.control_model for param, _ in self.pairs]
        return [model for model in models if isinstance(model, torch.nn.Module)]

    def mark(self, p: Any) -> None:
        """Tells the extension which of the phases' prompts are negative, as it tells itself of the base image's."""
        if self.network is not None:
            mark = type(self.network).hook.__globals__["mark_prompt_context"]
            mark(p.c, True)
            mark(p.uc, False)

    def first(self) -> contextlib.AbstractContextManager[None]:
        """While phase 1 is drawn: without the units that are for the phases alone, the others' maps in its size."""
        out = [param for param, unit in self.pairs if option_of(unit) == PHASES_ONLY]
        drawing = [(i, *pair) for i, pair in enumerate(self.pairs) if not any(pair[0] is one for one in out)]
        lent = [one for each in drawing for one in self._resized(*each)]
        return lending([*lent, *self._without(out)])

    def _resized(self, index: int, param: Any, unit: Any) -> Lent:
        """A unit's map where phase 1 is drawn behind a mask: the extension has found it in the size of the tab."""
        height_lat, width_lat = self.plan.first_lat
        size_px, base = (height_lat * LATENT_PX, width_lat * LATENT_PX), getattr(param, "hint_cond", None)
        mapped = kind_name(param) in MAPPED and isinstance(base, torch.Tensor) and base.ndim == 4
        if not self.plan.masked or not mapped or base.shape[2:] == size_px:
            return []
        first = Phase(number=1, last=1, scale=1.0, height_lat=height_lat, width_lat=width_lat, dilation=1)
        hint = self._map(index, param, unit, first, SMOOTH if base.shape[1] > 3 else kind_of(base)).to(base)
        made = [(param, name, None) for name in ("used_hint_cond_latent", "used_hint_inpaint_hijack")]
        return [(param, "used_hint_cond", hint), *made, *shown_anew(param, hint)]

    @contextlib.contextmanager
    def phase(self, phase: Phase, before: torch.Tensor) -> Iterator[None]:
        """While a phase is drawn. before: the latent that the one before has ended with."""
        self.before = before
        drawing = [(i, *pair) for i, pair in enumerate(self.pairs) if option_of(pair[1]) != BASE_ONLY]
        drawing = [] if self._is_separate() or not self._is_attached() else drawing
        try:
            if self.plan.params.tile_units and not any(is_tile(unit) for _, _, unit in drawing):
                self.tell("no unit of ControlNet's is a tile unit, so that none follows the phase before")
            units = [self._unit(*each, phase) for each in drawing]
            self.units = [unit for unit in units if unit is not None]
            drawn = [unit.param for unit in self.units]
            out = [param for param, _ in self.pairs if not any(param is one for one in drawn)]
            with lending(self._without(out) + self._regions(phase) + self._unaligned()):
                yield
            self._finish(phase)
        finally:
            self.units, self.picture = [], None

    @contextlib.contextmanager
    def following(self, now: Looking) -> Iterator[None]:
        """While the model is called."""
        if self.network is None:
            yield
            return
        share = share_at(now.t)
        lent: Lent = [(self.network.model, "current_sampling_percent", share)]
        for unit in self.units:
            param = unit.param
            stopped = not param.start_guidance_percent <= share <= param.stop_guidance_percent
            lent += [(param, "guidance_stopped", stopped), *([] if stopped else unit.lent(now))]
        with lending(lent):
            yield

    def _batch_options(self) -> tuple[str, bool]:
        """The extension's, of how the pictures of a batch have to do with the units and with each other."""
        apart, aligned = tuple(getattr(self.script, "ui_batch_option_state", ()))[:2] or ("", False)
        return str(apart), bool(aligned)

    def _is_attached(self) -> bool:
        """Whether the extension still wraps the UNet: after a refiner another one may stand in its place."""
        if self.network is None:
            return True
        unet = self.p.sd_model.model.diffusion_model
        attached = self.network.model is unet and "forward" in vars(unet)
        if not attached:
            self.tell("ControlNet takes part in the base image alone, as another model was loaded meanwhile")
        return attached

    def _is_separate(self) -> bool:
        """Whether each unit is for one picture of the batch: the extension tells them by the rows of a call."""
        separate = len(self.pairs) > 1 and self._batch_options()[0] == SEPARATE
        if separate:
            self.tell("ControlNet's units, each for one picture of the batch, take part in the base images alone")
        return separate

    def _unaligned(self) -> Lent:
        """Without StyleAlign, by which all rows of a call see each other: the extension leaves it out of large pictures too."""
        if self.network is None or not self._batch_options()[1]:
            return []
        self.tell("ControlNet's StyleAlign takes part in the base images alone")
        names = ("attention_auto_machine", "gn_auto_machine")
        return [(self.network, name, type(getattr(self.network, name)).Read) for name in names]

    def _without(self, out: Sequence[Any]) -> Lent:
        """What leaves units out."""
        lent: Lent = []
        for param in out:
            if kind_name(param) == "IPAdapter":
                lent.append((param.control_model, "weight", 0.0))
            if kind_name(param) == "Controlllite":
                lent += [(module, "forward", nothing) for module in param.control_model.modules.values()]
        if out:
            left = [param for param, _ in self.pairs if not any(param is one for one in out)]
            lent.append((self.network, "control_params", left))
        return lent

    def _unit(self, index: int, param: Any, unit: Any, phase: Phase) -> Unit | None:
        """None of one that can't take part."""
        base, name = getattr(param, "hint_cond", None), kind_name(param)
        if name not in MAPPED or not isinstance(base, torch.Tensor) or base.ndim != 4:
            return Unit(param)
        if len(base) not in (1, self.plan.images):
            self.tell(
                f"ControlNet's unit {index + 1} has {len(base)} maps for {self.plan.images} pictures and is left out of the phases"
            )
            return None
        kind = SMOOTH if base.shape[1] > 3 else kind_of(base)
        if self.plan.params.tile_units and is_tile(unit):
            kind, whole = SMOOTH, self._picture(phase).to(base)
        else:
            whole = self._map(index, param, unit, phase, kind).to(base)
        made = Unit(param, Plane(whole, HOW[kind], HOW[LABELS] if base.shape[1] > 3 else ""))
        module = str(unit.module)
        if "colorfix" in module or "inpaint_only" in module:
            made.latent = self._encoded(whole[:, :3] * 2 - 1)
        if base.shape[1] == 4 and self._inpaints():
            mask = whole[:, 3:].gt(0.5).to(whole)
            hidden = self._encoded((whole[:, :3] * 2 - 1) * (1 - mask))
            hidden.whole = torch.cat([F.max_pool2d(mask, LATENT_PX).to(hidden.whole), hidden.whole], dim=1)
            made.inpainted = hidden
        if param.effective_region_mask is not None:
            made.region = self._region(param.effective_region_mask, phase)
        return made

    def _inpaints(self) -> bool:
        return getattr(self.p.sd_model.model, "conditioning_key", None) in ("hybrid", "concat")

    def _encoded(self, pixels: torch.Tensor) -> Plane:
        latent = torch.cat([self.coder.encode(one[None]) for one in pixels])
        return Plane(latent.to(devices.device, devices.dtype_unet), "cells")

    def _picture(self, phase: Phase) -> torch.Tensor:
        """What the phase before has drawn, in this one's size; `(images, 3, height, width)` in [0, 1]."""
        if self.picture is None:
            size_px = phase.height_lat * LATENT_PX, phase.width_lat * LATENT_PX
            pictures = [self.coder.decode(latent[None]) for latent in self.before]
            shades = torch.cat(pictures).add(1).div(2).clamp(0, 1)
            self.picture = at_size(shades, size_px, SMOOTH)
        return self.picture

    def _map(self, index: int, param: Any, unit: Any, phase: Phase, kind: str) -> torch.Tensor:
        """The unit's map in the phase's size: as the extension finds it, else the base image's own enlarged."""
        whole_px, corner_px, size_px = sizes_px(self.plan, phase)
        try:
            found = self._found(index, param, unit, phase, whole_px)
        except Exception:
            errors.report("DemoFusion: ControlNet found no map in the phase's size", exc_info=True)
            found = None
        if found is None or found.shape[1:] != (param.hint_cond.shape[1], *whole_px):
            self.tell(f"the map of ControlNet's unit {index + 1} is enlarged from the base image's")
            found = at_size(param.hint_cond, whole_px, kind)
        return part_of(found, corner_px, size_px)

    def _found(self, index: int, param: Any, unit: Any, phase: Phase, whole_px: tuple[int, int]) -> torch.Tensor | None:
        """As the extension's `controlnet_main_entry` does it for the second pass of Hires. fix.

        A resolution that it has found for the base image by itself (pixel-perfect) grows with the phase, as far as there is
        more of the user's picture to be seen.
        """
        known = type(self.script).controlnet_main_entry.__globals__
        if len(param.hint_cond) > 1 or "get_control" not in known or "Preprocessor" not in known:
            return None
        resolution = unit.processor_res
        if unit.pixel_perfect:
            shown = self.script.choose_input_image(self.p, unit, index)[0]
            resolution = max(resolution, min(round(resolution * phase.scale), *shown.shape[:2]))
        own: Lent = [(self.p, "height", whole_px[0]), (self.p, "width", whole_px[1])]
        before = unit.pixel_perfect, unit.processor_res
        unit.pixel_perfect, unit.processor_res = False, resolution
        try:
            with lending(own):
                preprocessor = known["Preprocessor"].get_preprocessor(unit.module)
                controls = known["get_control"](self.p, unit, index, param.control_model_type, preprocessor)[0]
        finally:
            unit.pixel_perfect, unit.processor_res = before
        return controls[0] if len(controls) == 1 and isinstance(controls[0], torch.Tensor) else None

    def _finish(self, phase: Phase) -> None:
        """What the extension does to finished pictures, which it has prepared for the base image's size."""
        finishing = [(i, param) for i, (param, unit) in enumerate(self.pairs) if is_finishing(str(unit.module))]
        planes = {id(unit.param): unit.hint for unit in self.units}
        done = list(getattr(self.script, "post_processors", ()))
        for at, (i, param) in enumerate(finishing[: len(done)]):
            plane, module = planes.get(id(param)), str(self.pairs[i][1].module)
            if plane is not None and "inpaint_only" in module:
                sigma = shared.opts.data.get("control_net_inpaint_blur_sigma", 7)
                done[at] = Pasted(plane.whole, round(sigma * phase.scale) // 2 * 2 + 1, done[at])
            elif plane is not None:
                self.tell(f"ControlNet's unit {i + 1} ({module}) finishes pictures of the base image's size alone")
        if finishing:
            self.script.post_processors = done

    def _region(self, mask: torch.Tensor, phase: Phase) -> Plane:
        whole_px, corner_px, size_px = sizes_px(self.plan, phase)
        return Plane(part_of(F.interpolate(mask, size=whole_px, mode="bilinear"), corner_px, size_px))

    def _regions(self, phase: Phase) -> Lent:
        """Masks of IP-Adapters, which count the tokens of the base image."""
        lent: Lent = []
        for param, _ in self.pairs:
            mask = getattr(param, "effective_region_mask", None)
            if kind_name(param) == "IPAdapter" and mask is not None:
                lent.append((param.control_model, "apply_effective_region_mask", masking(self._region(mask, phase))))
        return lent
