"""The engine in Forge's family (reForge, Forge), whose samplers ask a patcher of the UNet in place of an inner model.

Its seam is the patcher's function wrapper: given what `apply_model` would be given, it answers the denoised. `x` arrives
there in `x0 + sigma * noise`, whatever the sampler steps in.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from modules import sd_models, shared
from modules.sd_samplers_common import InterruptedException

from ..core import Evaluation, Looking, PhaseEngine, look, looking, shrink, shrunk_noise
from .conditions import CropCorner, told_of
from .linked import ASKED, CONTROL, Linked, StandIn
from .parts import levels_of, of_forge
from .placed import RegionConds
from .seats import Padding, Watcher

WRAPPER = "model_function_wrapper"
TEXT = "c_crossattn"
PEAK = "memory_peak_estimation_modifier"
MEMORY = ("ldm_patched.modules.model_management", "backend.memory_management")
"""What reckons with it in reForge and in Forge."""
FORECASTING = {"lib_spectrum": "Spectrum"}
"""By their packages, extensions whose wrapper answers a call of the model by its earlier answers."""
MODEST = 4
"""Windows, where it isn't known yet how many are drawn at once."""
NEGATIVE = 1
"""In `cond_or_uncond`, which names the chunks of a call, each a row for every image; a prompt is 0."""
ROW_WISE = ("cond_mark", "cond_indices", "uncond_indices")
"""What Forge tells beside it, of each row."""


@contextlib.contextmanager
def objects_of_phase(p: Any) -> Iterator[None]:
    """The model's patchers as the host begins a sampling with, for other extensions to patch; put back afterwards."""
    model = p.sd_model
    before = model.forge_objects
    model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
    try:
        sd_models.apply_token_merging(model, p.get_token_merging_ratio())
        yield
    finally:
        model.forge_objects = before


class ByPatches:
    """Answers for the whole latent by asking the UNet for parts of it, in one phase."""

    def __init__(
        self, model: Any, engine: PhaseEngine, corner: CropCorner | None, watcher: Watcher, padding: Padding,
        base_lat: tuple[int, int], regions: RegionConds | None, linked: Linked, outer: Any,
    ):  # fmt: skip
        """outer: a wrapper that another extension has set, which is to be called for each part."""
        self.levels = levels_of(model)
        self.corner = corner
        self.watcher = watcher
        self.padding = padding
        self.base_lat = base_lat
        self.regions = regions
        self.linked = linked
        self.outer = outer
        self.calls = 0
        self.begin(engine.evaluation([0], [1.0], 0.0), torch.zeros(1))

    def begin(self, evaluation: Evaluation, level: torch.Tensor) -> None:
        """A new evaluation of the guided denoiser."""
        self.evaluation = evaluation
        self.parts = max(evaluation.owners.count(0) - 1, 1)
        self.prompts = self.parts

    def rows(self, chunks: Sequence[int], images: int) -> list[int]:
        """The number that each row of a call has in the evaluation: there prompts come image by image, then negatives. The
        host's chunks come last prompt first.
        """
        owners, rows = self.evaluation.owners, []
        for chunk in chunks:
            if chunk != NEGATIVE:
                self.prompts = (self.prompts or self.parts) - 1
            for image in range(images):
                own = [row for row, owner in enumerate(owners) if owner == image]
                rows.append(own[-1] if chunk == NEGATIVE else own[min(self.prompts, len(own) - 2)])
        if NEGATIVE in chunks and self.prompts and not self.evaluation.guidance.in_windows(self.evaluation.t):
            raise RuntimeError("the webui has asked for the negative prompt before the prompt, which stands in for it")
        return rows

    def skip(self, sigma: torch.Tensor) -> float:
        """How much of `x` the answer holds beside the network's output."""
        one = torch.ones(1, 1, 1, 1, device=sigma.device)
        return float(self.levels.calculate_denoised(sigma[:1], torch.zeros_like(one), one))

    def __call__(self, apply_model: Callable[..., torch.Tensor], call: dict[str, Any]) -> torch.Tensor:
        """As the host calls a wrapper: `call` holds `input`, `timestep` (sigma), `c` and `cond_or_uncond`."""
        self.calls += 1
        x, sigma, told, chunks = call["input"], call["timestep"], dict(call["c"]), list(call["cond_or_uncond"])
        images = len(x) // len(chunks)
        marks = [mark for mark in chunks for _ in range(images)]
        options = told.pop("transformer_options", {})
        for name in (CONTROL, ASKED):
            told.pop(name, None)

        def ask(patches: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            now = looking()
            assert now is not None
            part, of_patches = self._part(told, now), [marks[row] for row in now.rows]
            answers = []
            with self.padding(now):
                for chosen, own in self._by_prompt(part, now):
                    own_marks, level = [of_patches[i] for i in chosen], sigma[chosen]
                    own_options = own["transformer_options"] = options_of(options, own_marks, level)
                    given = patches if len(chosen) == len(patches) else patches[chosen]
                    with look(now.some(chosen)) as here:
                        own.update(self.linked.told(given, level, own, here))
                        with self.linked.following(own_options, here):
                            answers.append((chosen, self._given(apply_model, given, level, own, own_marks)))
            if len(answers) == 1:
                return answers[0][1]
            whole = torch.empty_like(patches)
            for chosen, answer in answers:
                whole[chosen] = answer
            return whole

        def predict(patches: torch.Tensor, rows: Sequence[int], *_: Any) -> torch.Tensor:
            stop_if_pressed()
            self.watcher.patches(patches)
            return ask(patches, sigma[list(rows)])

        def low(rows: Sequence[int]) -> torch.Tensor:
            """On the whole latent, shrunk to the base's size, at the noise that shrinking leaves."""
            stop_if_pressed()
            q = shrink(x, *self.base_lat)[list(rows)]
            self.watcher.patches(q)
            return ask(q, sigma[list(rows)] * shrunk_noise((x.shape[-2], x.shape[-1]), self.base_lat))

        return self.evaluation(x, self.rows(chunks, images), self.skip(sigma), predict, low=low, base_lat=self.base_lat)

    def _part(self, told: dict[str, Any], now: Looking) -> dict[str, Any]:
        part: dict[str, Any] = told_of(told, now)
        if self.regions is not None and "y" in part:
            part["y"] = self.regions.write_vectors(part["y"], now.prompts)
        if self.corner is not None and "y" in part:
            part["y"] = self.corner.write(part["y"], now)
        return part

    def _by_prompt(self, part: dict[str, Any], now: Looking) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """A condition in parts whose texts are of one length, as prompts of regions need not be; else in one."""
        if self.regions is None or not any(now.prompts):
            yield list(range(len(now.rows))), part
            return
        text = part.pop(TEXT)
        for chosen, own in self.regions.apart({**part, "crossattn": text}, now.prompts):
            own[TEXT] = own.pop("crossattn")
            yield chosen, own

    def _given(
        self, apply_model: Callable[..., torch.Tensor], patches: torch.Tensor, sigma: torch.Tensor,
        part: dict[str, Any], chunks: Sequence[int],
    ) -> torch.Tensor:  # fmt: skip
        if self.outer is None:
            return apply_model(patches, sigma, **part)
        answer: torch.Tensor = self.outer(
            apply_model, {"input": patches, "timestep": sigma, "c": part, "cond_or_uncond": list(chunks)}
        )
        return answer


def stop_if_pressed() -> None:
    if shared.state.interrupted or shared.state.skipped:
        raise InterruptedException


def options_of(options: dict[str, Any], marks: Sequence[int], sigma: torch.Tensor) -> dict[str, Any]:
    """The host's options of a call, for patches each of which is a chunk of its own."""
    found = {**options, "cond_or_uncond": list(marks), "sigmas": sigma[:1]}
    if "uuids" in found:
        found["uuids"] = [0] * len(marks)
    if "cond_mark" in found:
        found["cond_mark"] = torch.tensor(marks, dtype=sigma.dtype, device=sigma.device)
        found["cond_indices"] = [i for i, mark in enumerate(marks) if mark != NEGATIVE]
        found["uncond_indices"] = [i for i, mark in enumerate(marks) if mark == NEGATIVE]
    return found


class ForgeSeat:
    """The engine's place in a model's patchers, until it is left."""

    def __init__(
        self, model: Any, engine: PhaseEngine, corner: CropCorner | None, watcher: Watcher, padding: Padding,
        base_lat: tuple[int, int], regions: RegionConds | None, links: Callable[[Any], Linked], tell: Callable[[str], None],
    ):  # fmt: skip
        """links: given the first of the ControlNets that are linked to the patcher, or None."""
        self.objects = of_forge(model)
        self.before = self.objects.unet
        unet = self.before.clone()
        first = unet.controlnet_linked_list
        unet.controlnet_linked_list = None if first is None else StandIn(first)
        fused = self.fused = ByPatches(
            model, engine, corner, watcher, padding, base_lat, regions, links(first), wrapper_of_others(unet, tell)
        )
        self.memory = Smaller(unet, engine)
        # a function: the host copies its options in depth, and with a method's object all that hangs on it
        unet.set_model_unet_function_wrapper(lambda apply_model, call: fused(apply_model, call))
        self.objects.unet = unet

    def leave(self) -> None:
        self.objects.unet = self.before
        self.memory.leave()


def wrapper_of_others(unet: Any, tell: Callable[[str], None]) -> Any:
    """What another extension has put where ours goes, None for nothing that can be called for each window."""
    outer = unet.model_options.get(WRAPPER)
    name = FORECASTING.get(getattr(outer, "__module__", "").partition(".")[0], "")
    if name:
        tell(f"{name} draws in the base image only: it would answer a window by what it has seen of others")
        return None
    return outer


class Smaller:
    """What the host reckons with in a phase: the windows that the UNet is given at once. By the whole latent, 22 GB at 4096 px,
    it would turn other models out, and cut its calls up."""

    def __init__(self, unet: Any, engine: PhaseEngine):
        """unet: the phase's own patcher."""
        self.model = unet.model
        batch, window_lat = engine.fusion.batch, engine.fusion.grid.window_lat
        reckoned, self.before = self.model.memory_required, vars(self.model).get("memory_required")

        def of_windows(input_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
            rows, channels, *size_lat = input_shape
            part_lat = [min(own, window) for own, window in zip(size_lat, window_lat)]
            at_once = rows if part_lat == size_lat else batch.size or MODEST
            return reckoned([at_once, channels, *part_lat], *args, **kwargs)

        self.model.memory_required = of_windows  # which is all that Forge Neo asks
        if hasattr(unet, "set_memory_peak_estimation_modifier") and PEAK not in unet.model_options:  # another's stays
            unet.set_memory_peak_estimation_modifier(of_windows)

    def leave(self) -> None:
        if self.before is None:
            vars(self.model).pop("memory_required", None)
        else:
            self.model.memory_required = self.before


def always_tiled(model: Any) -> bool:
    """Whether the host is set to decode by its own tiles ("Never OOM"). False of the first host."""
    if of_forge(model) is None:
        return False
    return any(getattr(sys.modules.get(name), "VAE_ALWAYS_TILED", False) for name in MEMORY)


@contextlib.contextmanager
def reckoned_by_tiles(model: Any, cells: int) -> Iterator[None]:
    """The host frees memory for a decode of the whole latent: with tiles it need not be more than for one of so many cells.

    Of the first host nothing is changed.
    """
    objects = of_forge(model)
    if objects is None:
        yield
        return
    vae, reckoned = objects.vae, objects.vae.memory_used_decode

    def of_tiles(shape: Sequence[int], *args: Any) -> Any:
        gain = min(1.0, math.sqrt(cells / (shape[2] * shape[3])))
        return reckoned((*shape[:2], math.ceil(shape[2] * gain), math.ceil(shape[3] * gain)), *args)

    vae.memory_used_decode = of_tiles
    try:
        yield
    finally:
        vae.memory_used_decode = reckoned
