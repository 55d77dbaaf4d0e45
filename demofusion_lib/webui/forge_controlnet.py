"""The ControlNet that Forge's family has built in, in the phases.

Its script patches the UNet anew before each sampling, by what each unit has found for the base image. Before a phase's it is
handed what the same unit finds in the phase's size; which part of that a call of the model is shown is `linked`'s matter.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from modules import errors

from ..core import Phase
from ..hints import SMOOTH, at_size, kind_of, part_of
from .controlnet import ControlNet
from .linked import Linked
from .maps import BASE_ONLY, PHASES_ONLY, Lent, is_tile, lending, option_of, sizes_px
from .parts import of_forge

PATCHING, PREPARING = "process_unit_before_every_sampling", "process_unit_after_click_generate"
"""The script's methods of a unit: it patches the UNet; it finds the unit's maps."""
MAPS, MASKS = ("control_cond", "control_cond_for_hr_fix"), ("control_mask", "control_mask_for_hr_fix")
"""What it keeps of a unit, for the picture and for Hires. fix."""
KNOWN = ("ControlNetPatcher", "ControlLLLitePatcher", "IPAdapterPatcher")
"""Models that follow the windows, or show the same to each."""
PATCHES = ("block_modifiers", "block_inner_modifiers", "patches", "patches_replace")
"""Of the UNet, in its options."""


def forge_script(p: Any) -> Any:
    """None where the host has none, or another."""
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if all(callable(getattr(script, name, None)) for name in (PATCHING, PREPARING, "get_input_data")):
            return script
    return None


def left_out(params: Any) -> str:
    """Why a unit can't follow the windows; empty where it can. params: what the script keeps of it."""
    if "Reference" in getattr(params.preprocessor, "tags", ()):
        return "needs the whole picture in the network at once"
    if type(params.model).__name__ == "FooocusInpaintPatcher":
        return "adds to the network what belongs to the whole picture"
    if type(params.model).__name__ == "IPAdapterPatcher" and params.control_mask is not None:
        return "has a mask, which IP-Adapter would lay over each window"
    return ""


def count_patches(p: Any) -> int:
    """Functions in the UNet."""
    options = of_forge(p.sd_model).unet.model_options.get("transformer_options", {})

    def count(held: Any) -> int:
        held = list(held.values()) if isinstance(held, dict) else held
        return sum(map(count, held)) if isinstance(held, list) else 1

    return sum(count(options.get(name, [])) for name in PATCHES)


class ForgeControlNet(ControlNet):
    """The units of one batch, for its phases."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.script = forge_script(self.p)

    def first(self) -> contextlib.AbstractContextManager[None]:
        if self.script is None:
            return contextlib.nullcontext()
        patch = getattr(self.script, PATCHING)

        def in_base(p: Any, unit: Any, params: Any, *args: Any, **kwargs: Any) -> None:
            if option_of(unit) != PHASES_ONLY:
                patch(p, unit, params, *args, **kwargs)

        return lending([(self.script, PATCHING, in_base)])

    @contextlib.contextmanager
    def phase(self, phase: Phase, before: torch.Tensor) -> Iterator[None]:
        self.before, self.drawn, self.followed = before, phase, False
        self.kept: list[tuple[Any, dict[str, Any]]] = []
        if self.script is not None:
            self.patch = getattr(self.script, PATCHING)
        try:
            with lending([] if self.script is None else [(self.script, PATCHING, self._patch)]):
                yield
        except BaseException:
            for owner, state in self.kept:  # what a finished picture of the phase before is finished by
                vars(owner).update(state)
            raise
        finally:
            self.picture, self.kept = None, []

    def linked(self, first: Any) -> Linked:
        """first: of the ControlNets that the phase's patcher has."""
        if self.plan.params.tile_units and not self.followed:
            self.tell("no unit of ControlNet's is a tile unit, so that none follows the phase before")
        linked = Linked(first, sizes_px(self.plan, self.drawn), self.plan.images)
        for name in linked.unfollowed:
            self.tell(f"{name} has no map of the picture, and is asked in the base image only")
        return linked

    def _patch(self, p: Any, unit: Any, params: Any, *args: Any, **kwargs: Any) -> None:
        """In place of the script's own, while a phase is begun. What is raised the host reports, and goes on without."""
        try:
            self._patch_in_phase(p, unit, params, *args, **kwargs)
        except Exception as error:
            self.tell(f"a unit of ControlNet's is left out of phase {self.drawn.number} ({error})")
            raise

    def _patch_in_phase(self, p: Any, unit: Any, params: Any, *args: Any, **kwargs: Any) -> None:
        if option_of(unit) == BASE_ONLY:
            return
        number = [each is params for each in self.script.current_params.values()].index(True)
        name = f"ControlNet's unit {number + 1} ({unit.module})"
        reason = left_out(params)
        if reason:
            self.tell(f"{name} draws in the base image only: it {reason}")
            return
        lent: Lent = [(p, "iteration", 0), (p, "enable_hr", False)]
        lent += [(params, key, value) for key, value in self._maps(number, p, unit, params).items()]
        if "colorfix" in str(unit.module):
            lent.append((params.preprocessor, "process_before_every_sampling", as_they_are))
            self.tell(f"{name} keeps the colours in the base image only")
        self.kept.append((params.preprocessor, dict(vars(params.preprocessor))))
        count = count_patches(p)
        with lending(lent):
            self.patch(p, unit, params, *args, **kwargs)
        if count_patches(p) > count and type(params.model).__name__ not in KNOWN:
            self.tell(f"what {name} does to the UNet it does to every window as to a whole picture")

    def _maps(self, number: int, p: Any, unit: Any, params: Any) -> dict[str, Any]:
        """What the script keeps of a unit, in the phase's size; nothing of a unit without a map."""
        base = params.control_cond
        if not isinstance(base, torch.Tensor) or base.ndim != 4:
            return {}
        whole_px, corner_px, size_px = sizes_px(self.plan, self.drawn)
        alone = all(torch.equal(row, base[0]) for row in base[1:])
        found, at = None, p.iteration * p.batch_size
        if alone:
            try:
                found = self._found_by(p, unit, params, whole_px)
            except Exception:
                errors.report("DemoFusion: ControlNet found no map in the phase's size", exc_info=True)
        own: dict[str, Any] = {}
        for names, kind in ((MAPS, None), (MASKS, SMOOTH)):
            rows, whole = getattr(params, names[0]), getattr(found, names[0], None)
            if rows is None:
                continue
            if whole is None or whole.shape[1:] != (rows.shape[1], *whole_px):
                if names is MAPS:
                    self.tell(f"the map of ControlNet's unit {number + 1} is enlarged from the base image's")
                rows = rows[:1] if alone else rows[at : at + p.batch_size] if len(rows) > p.batch_size else rows
                whole = at_size(rows, whole_px, kind or kind_of(rows))
            own |= dict.fromkeys(names, part_of(whole, corner_px, size_px))
        if self.plan.params.tile_units and is_tile(unit):
            self.followed = True
            own |= dict.fromkeys(MAPS, self._picture(self.drawn).to(base))
        return own

    def _found_by(self, p: Any, unit: Any, params: Any, whole_px: tuple[int, int]) -> Any:
        """As the script finds a unit's maps when Generate is pressed, for a picture of this size."""
        unit, found = copy.copy(unit), type(params)()
        self.script.bound_check_params(unit)
        unit.save_detected_map = False
        own: Lent = [
            (p, "height", whole_px[0]), (p, "width", whole_px[1]), (p, "batch_size", 1), (p, "n_iter", 1),
            (p, "enable_hr", False),
        ]  # fmt: skip
        if unit.pixel_perfect:
            unit.processor_res, unit.pixel_perfect = self._resolution(p, unit, params, whole_px), False
        with lending(own):
            getattr(self.script, PREPARING)(p, unit, found)
        return found

    def _resolution(self, p: Any, unit: Any, params: Any, whole_px: tuple[int, int]) -> int:
        """What pixel-perfect says of the base image, and more in larger phases as far as there is more of the user's picture."""
        known = type(self.script).get_input_data.__globals__["external_code"].pixel_perfect_resolution
        height, width = (int(length) for length in params.control_cond.shape[-2:])
        inputs, mode = self.script.get_input_data(p, unit, params.preprocessor, height, width)
        shown = inputs[0][0]
        base, wanted = (int(known(shown, *size, mode)) for size in ((height, width), whole_px))
        return max(base, min(wanted, *shown.shape[:2]))


def as_they_are(process: Any, cond: Any, mask: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """In place of what a preprocessor does before a sampling."""
    return cond, mask
