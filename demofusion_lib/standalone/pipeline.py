"""`DemoFusionPipeline`: the engine over a diffusers pipeline that somebody else has made. docs/library.md is its page."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from tqdm.auto import tqdm

from ..params import BY_NAME, Params
from ..setting import SAME, SettingsError, quoted
from .asked import TENSORS, Asked, Texts, check_callback_tensors
from .borrowed import Borrowed
from .decoding import Way, decode, pixels_of
from .drawing import Finished, Order
from .errors import UserError
from .given import picture_of
from .lending import Lender, check_pipeline, handed_on, own_default, taken_by
from .names import find_phase_sampler, with_todays_names
from .ranks import each
from .road import Road
from .schedulers import ALIKE, sampler_of

logger = logging.getLogger("demofusion")
STRENGTH = 0.5
"""As the command line's."""
HELD_BACK = ("save_phases", "resume")
"""Settings that name files of the command line's."""


@dataclass
class DemoFusionOutput(BaseOutput):  # type: ignore[misc]
    """images: of the last phase, as `output_type` says. phases: of every phase, phase 1 first, with `keep_phases` alone.
    nsfw_content_detected: of each image, where the pipeline carries a safety checker. notes: what a user should know.
    stopped: whether a callback ended the run early; then `images` are of the last phase that was finished."""

    images: Any
    phases: list[Any] | None = None
    nsfw_content_detected: list[bool] | None = None
    notes: list[str] | None = None
    stopped: bool = False


class Stopped(Exception):
    """A callback has asked for it."""


class DemoFusionPipeline:
    """Draws with a diffusers pipeline, far above the size that its model was trained on.

    wrapped: the pipeline that draws phase 1 and lends its parts; what is changed there, a scheduler or a LoRA, is changed here.
    Its attributes can be read here, its parts set.
    """

    def __init__(self, pipe: Any):
        """Raises ValueError for a pipeline that isn't supported, in one line."""
        pipe = pipe.wrapped if isinstance(pipe, DemoFusionPipeline) else pipe
        check_pipeline(pipe)
        self.__dict__.update(wrapped=pipe, finished=[], phase=0, _progress_bar_config={})

    @classmethod
    def from_pipe(cls, pipe: Any) -> DemoFusionPipeline:
        """Over an existing pipeline, whose parts stay where they are."""
        return cls(pipe)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        is_part = name in self.wrapped.components or name == "_interrupt"
        object.__setattr__(self.wrapped if is_part else self, name, value)

    def to(self, *args: Any, **kwargs: Any) -> DemoFusionPipeline:
        self.wrapped.to(*args, **kwargs)
        return self

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """As diffusers': what tqdm is given, `disable=True` say. One bar shows all phases."""
        self._progress_bar_config = kwargs

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        image: Any = None,
        strength: float | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        clip_skip: int | None = None,
        control_image: Any = None,
        controlnet_conditioning_scale: float | Sequence[float] | None = None,
        control_guidance_start: float | Sequence[float] | None = None,
        control_guidance_end: float | Sequence[float] | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **settings: Any,
    ) -> DemoFusionOutput | tuple[Any, ...]:
        """Phase 1 is the wrapped pipeline's own picture; then the phases climb.

        height, width: of phase 1. image: of a pipeline with ControlNets that draws from text the hint, unless that is in
        control_image. What is not named above is a setting of DemoFusion (`scale`, `preset`, `target_width` and the
        rest), or something that the wrapped pipeline takes, which is handed to it for phase 1 alone.

        Raises ValueError for what can't be used, in one line that names the argument, the value and what is allowed.
        """
        pipe = self.wrapped
        if callback_on_step_end is not None:
            check_callback_tensors(callback_on_step_end, callback_on_step_end_tensor_inputs)
        handed = handed_on(pipe, {name: value for name, value in settings.items() if name not in BY_NAME})
        _check_names(pipe, settings, handed)
        params = _params({name: value for name, value in settings.items() if name not in handed})
        asked = Asked(
            Texts(
                prompt, prompt_2, negative_prompt, negative_prompt_2,
                prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds,
            ),
            height, width, _or_own(pipe, "num_inference_steps", num_inference_steps),
            _or_own(pipe, "guidance_scale", guidance_scale), num_images_per_prompt, generator, latents, image, strength,
            ip_adapter_image, ip_adapter_image_embeds, cross_attention_kwargs, clip_skip, output_type, callback_on_step_end, handed,
            control_image, controlnet_conditioning_scale, control_guidance_start, control_guidance_end,
        )  # fmt: skip
        result = Run(self, Lender(pipe, asked), params).result()
        return result if return_dict else result.to_tuple()


class Run:
    """One call."""

    def __init__(self, pipe: DemoFusionPipeline, lender: Lender, params: Params):
        self.pipe, self.lender, self.params, self.asked = pipe, lender, params, lender.asked
        self.notes: list[str] = []
        callback = self._first_step if self.asked.callback_on_step_end or not self._is_quiet else None
        self.drawing = Borrowed(lender, self._order(), callback, self._step)
        self.note(params.rounding(self.drawing.plan.picture_lat or self.drawing.plan.drawn_lat))
        if self.drawing.picture is not None:
            picture = self.drawing.order.picture
            assert picture is not None
            for note in self.drawing.plan.picture_notes((picture.shape[-2], picture.shape[-1])):
                self.note(note)

    def result(self) -> DemoFusionOutput:
        drawing, pipe = self.drawing, self.pipe
        pipe.__dict__.update(finished=[], phase=1)
        pipe._interrupt = False
        shown: dict[int, Any] = {}
        stopped = False
        with tqdm(**{"total": 0, "unit": "row", **pipe._progress_bar_config}) as bar:
            self.road = Road(drawing.plan, bar, decodes=self.asked.output_type != "latent")
            drawing.progress = self.road.rows
            drawing.way = Way(self.params.vae, self.note, self.road.coded)
            with self.lender.vae_as_needed():
                try:
                    for phase in each(drawing.ranks, drawing.phases()):
                        pipe.finished.append(phase)
                        pipe.__dict__["phase"] = phase.number + 1
                        if self.params.keep_phases:
                            shown[phase.number] = self._shown(phase)
                        if pipe._interrupt:
                            raise Stopped
                except Stopped:
                    stopped = pipe.finished[-1].number < drawing.last
                last = pipe.finished[-1]
                images, seen = shown[last.number] if last.number in shown else self._shown(last)
            if not stopped:
                self.road.end()
        self.pipe.wrapped.maybe_free_model_hooks()
        phases = [images for images, _ in shown.values()] if self.params.keep_phases else None
        return DemoFusionOutput(images, phases, seen, self.notes, stopped)

    def note(self, text: str) -> None:
        if text and text not in self.notes:
            self.notes.append(text)
            logger.warning(text)

    @property
    def _is_quiet(self) -> bool:
        return bool(self.pipe._progress_bar_config.get("disable", False))

    def _order(self) -> Order:
        asked, picture, strength = self.asked, None, 1.0
        if not self.lender.draws:
            picture, notes = picture_of(self.lender.picture)
            for note in notes:
                self.note(note)
            strength = STRENGTH if asked.strength is None else float(asked.strength)
            if strength == 0 and asked.output_type == "latent":
                raise UserError("output_type is 'latent', allowed with a strength above 0 alone: 0 draws no latent")
        sampler, scheduler = self._samplers()
        height, width = self.lender.base_lat
        controls = self.lender.controls.for_phases() if self.lender.controls else []
        return Order(
            asked.prompts, [0] * asked.images, width * 8, height * 8, self.params, "", int(asked.num_inference_steps),
            sampler, scheduler, self._guidance(), picture, strength, controls,
        )  # fmt: skip

    def _samplers(self) -> tuple[str, str]:
        """Those of phase 1 as the phases take them, unless they have their own."""
        scheduler = self.lender.pipeline.scheduler
        found = sampler_of(scheduler)
        if found is None:
            if self.params.phase_sampler == SAME:
                raise UserError(
                    f"scheduler is {quoted(type(scheduler).__name__)}, allowed: {', '.join(ALIKE)}, or a phase_sampler by name"
                )
            found = "Euler", "Uniform"
        sampler, _ = find_phase_sampler(self.params, *found)
        self.params.check_steps(int(self.asked.num_inference_steps), sampler.solver, sampler.name)
        return found

    def _guidance(self) -> float:
        """1 is none here, where to diffusers all up to 1 is; a UNet that is told its guidance is told it as it is."""
        told = self.lender.pipeline.unet.config.get("time_cond_proj_dim") is not None
        scale = float(self.asked.guidance_scale)
        return scale if told else max(scale, 1.0)

    def _first_step(self, pipe: Any, step: int, t: Any, named: dict[str, Any]) -> dict[str, Any]:
        left = self.drawing.plan.base_evaluations // max(1, int(self.asked.num_inference_steps))
        self.road.rows(left)
        callback = self.asked.callback_on_step_end
        return named if callback is None else callback(self.pipe, step, t, named) or {}

    def _step(self, phase: int, step: int, t: float, x: torch.Tensor) -> None:
        callback = self.asked.callback_on_step_end
        if callback is not None:
            answer = callback(self.pipe, step, round(t), {"latents": x})
            changed = (answer or {}).get("latents", x)
            if changed is not x:
                x.copy_(changed)
        if self.pipe._interrupt:
            raise Stopped

    def _shown(self, phase: Finished) -> tuple[Any, list[bool] | None]:
        """A phase's pictures as they are wanted, and what the safety checker says of each."""
        kind, drawing, pipe = self.asked.output_type, self.drawing, self.lender.pipeline
        if kind == "latent":
            return phase.latent, None
        checker, watermark = getattr(pipe, "safety_checker", None), getattr(pipe, "watermark", None)
        if kind == "pil" and checker is None and watermark is None and phase.picture is None:
            return decode(drawing.model, phase.latent, replace(drawing._way, finish=drawing.held)), None
        pixels = self._pixels(phase)
        if watermark is not None:
            pixels = watermark.apply_watermark(pixels)
        seen = None
        if checker is not None:
            pixels, seen = pipe.run_safety_checker(pixels, drawing.model.device, drawing.model.dtype)
        plain = [not one for one in seen] if seen else [True] * len(pixels)
        return _as(kind, pixels, plain), seen

    def _pixels(self, phase: Finished) -> torch.Tensor:
        """`(images, 3, height, width)` in [-1, 1]."""
        drawing = self.drawing
        if phase.picture is not None:
            return phase.picture.expand(self.asked.images, -1, -1, -1)
        return torch.cat([drawing.held(pixels_of(drawing.model, one[None], drawing._way)) for one in phase.latent])


def _as(kind: str, pixels: torch.Tensor, plain: Sequence[bool]) -> Any:
    """`pixels` as diffusers gives them; those that are not plain are in [0, 1] already."""
    whole = torch.stack(
        [one.float() / 2 + 0.5 if is_plain else one.float() for one, is_plain in zip(pixels, plain)]
    ).clamp_(0, 1)
    if kind == "pt":
        return whole
    values = whole.permute(0, 2, 3, 1).cpu().numpy()
    return values if kind == "np" else [Image.fromarray((one * 255).round().astype("uint8")) for one in values]


def _check_names(pipe: Any, given: Mapping[str, Any], handed: Mapping[str, Any]) -> None:
    """Raises UserError for an argument that is neither ours nor the pipeline's, nor a setting."""
    unknown = [name for name in given if name not in BY_NAME and name not in handed]
    if not unknown:
        return
    own = inspect.signature(DemoFusionPipeline.__call__).parameters.keys() - {"self", "settings"}
    known = {*own, *BY_NAME, *taken_by(pipe)} - {*HELD_BACK}
    near = difflib.get_close_matches(unknown[0], sorted(known), 1, 0.6)
    told = f" (the nearest is {near[0]})" if near else ""
    raise UserError(
        f"unknown argument {quoted(unknown[0])}{told}, allowed: this call's, the pipeline's own, or a setting of docs/settings.md"
    )


def _params(settings: Mapping[str, Any]) -> Params:
    """Raises SettingsError, UserError."""
    enabled = settings.get("enabled", True)
    params = with_todays_names(Params.from_names({**settings, "enabled": enabled}))
    for name in HELD_BACK:
        if getattr(params, name):
            raise SettingsError(f"{name} is {quoted(getattr(params, name))}, allowed: {BY_NAME[name].default!r}", name)
    return params if params.enabled else replace(params, scale=1.0, target_width=0, target_height=0)


def _or_own(pipe: Any, name: str, value: Any) -> Any:
    return own_default(pipe, name) if value is None else value


__all__ = ["TENSORS", "DemoFusionOutput", "DemoFusionPipeline"]
