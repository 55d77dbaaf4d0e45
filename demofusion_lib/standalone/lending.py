"""A diffusers pipeline that is lent to the engine: its parts, its prompts as it encodes them, and phase 1 as it draws it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import diffusers
import torch

from ..setting import quoted
from ..targets import LATENT_PX
from .asked import CONTROLS, Asked, Texts
from .errors import UserError
from .lent_controls import LentControls, check_nets
from .models import LATENT_CHANNELS, Model, check_parts, model_of, overflows_in_half
from .prompts import Encoded
from .training import check_training

TEXT_TO_IMAGE = (
    "StableDiffusionPipeline", "StableDiffusionXLPipeline",
    "StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline",
)  # fmt: skip
IMAGE_TO_IMAGE = (
    "StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionXLControlNetImg2ImgPipeline",
)  # fmt: skip
CONTROLLED = tuple(kind for kind in (*TEXT_TO_IMAGE, *IMAGE_TO_IMAGE) if "ControlNet" in kind)
SUPPORTED = (*TEXT_TO_IMAGE, *IMAGE_TO_IMAGE)
OURS = frozenset({
    "self", "kwargs", "args", "output_type", "return_dict", "callback", "callback_steps", "denoising_start", "denoising_end",
})  # fmt: skip
"""What a pipeline takes and a call can't hand on: it is the whole picture that the phases begin from."""
UNHEARD = ("adapter", "controlnet")
"""Parts that would have to be shown what each window shows."""


def check_pipeline(pipeline: Any) -> None:
    """Raises UserError for a pipeline that can't be lent."""
    name = type(pipeline).__name__
    if not isinstance(pipeline, tuple(getattr(diffusers, kind) for kind in SUPPORTED)):
        raise UserError(f"pipe is {quoted(name)}, allowed: {', '.join(SUPPORTED)}")
    heard = ("controlnet",) if is_controlled(pipeline) else ()
    missing = [part for part in ("unet", "vae", "scheduler", *heard) if getattr(pipeline, part, None) is None]
    carried = [part for part in UNHEARD if part not in heard and getattr(pipeline, part, None) is not None]
    try:
        if missing:
            raise UserError(f"has no {', '.join(missing)}, supported: whole models")
        if carried:
            raise UserError(f"carries {', '.join(carried)}, supported: pipelines without")
        if pipeline.config.get("requires_aesthetics_score"):
            raise UserError("is a refiner, supported: base models")
        check_parts(pipeline)
        check_training(pipeline.scheduler)
        if heard:
            check_nets(pipeline, model_of(pipeline, name_of(pipeline)))
    except UserError as error:
        raise UserError(f"pipe is {quoted(name)}, which {error}") from error


def is_controlled(pipeline: Any) -> bool:
    return isinstance(pipeline, tuple(getattr(diffusers, kind) for kind in CONTROLLED))


@dataclass(frozen=True)
class Lender:
    """One call's use of a pipeline. Raises UserError for what it can't be asked."""

    pipeline: Any
    asked: Asked

    def __post_init__(self) -> None:
        check_pipeline(self.pipeline)
        unet = self.pipeline.unet
        self.asked.texts.check(is_sdxl=self.is_sdxl, context_width=unet.config.cross_attention_dim)
        if self.redraws and self.asked.image is None:
            raise UserError(f"image is None, allowed with {type(self.pipeline).__name__}: a picture")
        self._check_controls()
        if not self.redraws and self.asked.strength is not None and self.picture is None:
            raise UserError(f"strength is {self.asked.strength:g}, allowed with image alone")
        if self.picture is not None and not (self.redraws and self.controls):
            for name in ("height", "width"):
                if getattr(self.asked, name) is not None:
                    raise UserError(
                        f"{name} is {getattr(self.asked, name)}, allowed without image alone: it has its own size"
                    )
        self._check_latents()
        if not self.draws and self.asked.latents is not None:
            raise UserError("latents is given, allowed without image alone: the picture is phase 1")
        if self.asked.texts.prompt is not None and not self._has_encoders:
            raise UserError(
                f"prompt is {quoted(self.asked.texts.prompt)}, allowed with a pipeline that has its text encoders and "
                "tokenizers: this one takes prompt_embeds"
            )
        self._check_adapters()
        self._check_clip_skip()
        self._check_steps()
        _ = self.base_lat

    @property
    def is_sdxl(self) -> bool:
        return hasattr(self.pipeline, "text_encoder_2")

    @property
    def _has_encoders(self) -> bool:
        """All that its UNet listens to: SDXL's refiner has the second alone."""
        pipeline = self.pipeline
        first = pipeline.text_encoder is not None and pipeline.tokenizer is not None
        if not self.is_sdxl:
            return first
        second = pipeline.text_encoder_2
        if second is None or pipeline.tokenizer_2 is None:
            return False
        return first or second.config.hidden_size == pipeline.unet.config.cross_attention_dim

    @property
    def redraws(self) -> bool:
        """Whether its phase 1 is a picture drawn anew: one of diffusers' img2img pipelines."""
        return isinstance(self.pipeline, tuple(getattr(diffusers, kind) for kind in IMAGE_TO_IMAGE))

    @property
    def draws(self) -> bool:
        """Whether there is a phase 1 of its own: not where a picture stands in for it."""
        return self.redraws or self.picture is None

    @property
    def picture(self) -> Any:
        """The caller's own: diffusers' pipelines that draw from text with ControlNets call their hint `image`."""
        return None if self.controls and self.controls.hint_name == "image" else self.asked.image

    @cached_property
    def controls(self) -> LentControls | None:
        if not is_controlled(self.pipeline):
            return None
        by_image = not self.redraws and self.asked.control_image is None
        return LentControls(self.pipeline, self.asked, "image" if by_image else "control_image")

    @property
    def base_lat(self) -> tuple[int, int]:
        """`(height, width)` of phase 1 in cells."""
        if self.asked.latents is not None:
            return self.asked.latents.shape[-2], self.asked.latents.shape[-1]
        if self.redraws:
            return self._image_lat()
        native = int(self.pipeline.unet.config.sample_size) * LATENT_PX
        own_px = self.controls.size_px if self.controls else (native, native)
        height, width = (side or own for side, own in zip((self.asked.height, self.asked.width), own_px))
        return height // LATENT_PX, width // LATENT_PX

    def model(self) -> Model:
        told = (
            {}
            if self.asked.cross_attention_kwargs is None
            else {"cross_attention_kwargs": {**self.asked.cross_attention_kwargs}}
        )
        return replace(
            model_of(self.pipeline, name_of(self.pipeline)), told=told, text=(), where=self.pipeline._execution_device
        )

    def encode(self, texts: Texts, *, guided: bool) -> tuple[Encoded, Encoded]:
        """The prompts' and the negative ones', a row for each image. Not guided, the second is the first."""
        asked, device = self.asked, self.pipeline._execution_device
        answer = self.pipeline.encode_prompt(
            **{"prompt": None, **texts.each()}, device=device, num_images_per_prompt=asked.num_images_per_prompt,
            do_classifier_free_guidance=guided, lora_scale=asked.lora_scale, clip_skip=asked.clip_skip,
        )  # fmt: skip
        pooled = (answer[2], answer[3]) if self.is_sdxl else (None, None)
        images = self._pictures(guided)
        made = [
            Encoded(context, one, (context.shape[1],) * len(context), seen)
            for context, one, seen in zip(answer[:2], pooled, images)
            if context is not None
        ]
        return made[0], made[-1] if guided else made[0]

    def first(self, callback: Any) -> torch.Tensor:
        """Phase 1's latents `(images, 4, height, width)`, as the pipeline draws them. callback: at each step's end."""
        asked = self.asked
        named: dict[str, Any] = {
            "num_inference_steps": asked.num_inference_steps, "guidance_scale": asked.guidance_scale,
            "num_images_per_prompt": asked.num_images_per_prompt, "generator": _as_list(asked.generator),
            "latents": asked.latents, "ip_adapter_image": asked.ip_adapter_image,
            "ip_adapter_image_embeds": asked.ip_adapter_image_embeds, "clip_skip": asked.clip_skip,
            "cross_attention_kwargs": asked.cross_attention_kwargs, **asked.handed,
        }  # fmt: skip
        if self.redraws:
            named |= {"image": asked.image, "strength": asked.strength}
        if self.controls:
            named |= self.controls.told()
        if self.controls or not self.redraws:
            height, width = self.base_lat
            named |= {"height": height * LATENT_PX, "width": width * LATENT_PX}
        named = {name: value for name, value in named.items() if value is not None}
        with self._without_bar():
            latents: torch.Tensor = self.pipeline(
                **asked.texts.each(), **named, output_type="latent", return_dict=False, callback_on_step_end=callback
            )[0]
        if self.controls:
            self.controls.put_away()
        expected = (asked.images, LATENT_CHANNELS, *self.base_lat)
        if latents.shape != expected:
            raise RuntimeError(f"the pipeline's own latents are {tuple(latents.shape)}, expected: {expected}")
        return latents.float()

    @contextlib.contextmanager
    def vae_as_needed(self) -> Iterator[None]:
        """SDXL's first VAE in float32, and afterwards as it was."""
        vae = self.pipeline.vae
        before = vae.dtype
        try:
            if overflows_in_half(self.pipeline):
                vae.to(dtype=torch.float32)
            yield
        finally:
            if vae.dtype != before:
                vae.to(dtype=before)

    @contextlib.contextmanager
    def _without_bar(self) -> Iterator[None]:
        """One bar shows all phases."""
        before = getattr(self.pipeline, "_progress_bar_config", {})
        self.pipeline.set_progress_bar_config(disable=True)
        try:
            yield
        finally:
            self.pipeline.set_progress_bar_config(**before)

    def _pictures(self, guided: bool) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """What each IP-Adapter makes of its picture: for the prompts, for the negative ones."""
        asked = self.asked
        if asked.ip_adapter_image is None and asked.ip_adapter_image_embeds is None:
            return (), ()
        made = self.pipeline.prepare_ip_adapter_image_embeds(
            asked.ip_adapter_image, asked.ip_adapter_image_embeds, self.pipeline._execution_device, asked.images, guided
        )
        if not guided:
            return tuple(made), ()
        halves = [one.chunk(2) for one in made]
        return tuple(prompt for _, prompt in halves), tuple(negative for negative, _ in halves)

    def _image_lat(self) -> tuple[int, int]:
        try:
            wanted = (self.asked.height, self.asked.width)
            height, width = self.pipeline.image_processor.preprocess(self.asked.image, *wanted).shape[-2:]
        except Exception as error:
            raise UserError(
                f"image is {quoted(self.asked.image)}, allowed: what diffusers takes for one ({error})"
            ) from error
        is_latent = isinstance(self.asked.image, torch.Tensor) and self.asked.image.shape[-3] == LATENT_CHANNELS
        found = (height, width) if is_latent else (height // LATENT_PX, width // LATENT_PX)
        for name, said, side in zip(("height", "width"), wanted, found):
            if said is not None and said != side * LATENT_PX:
                raise UserError(f"{name} is {said}, allowed with this image: {side * LATENT_PX}")
        return found

    def _check_latents(self) -> None:
        given, asked = self.asked.latents, self.asked
        if given is None:
            return
        takes = inspect.signature(type(self.pipeline).__call__).parameters
        if self.redraws:
            known = "latents" in takes
            raise UserError(f"latents is given, allowed with {', '.join(TEXT_TO_IMAGE)}{'' if known else ' alone'}")
        shape = f"{asked.images} x {LATENT_CHANNELS} x height/{LATENT_PX} x width/{LATENT_PX}"
        is_tensor = isinstance(given, torch.Tensor) and given.ndim == 4
        if not is_tensor or given.shape[:2] != (asked.images, LATENT_CHANNELS):
            told = tuple(given.shape) if isinstance(given, torch.Tensor) else quoted(given)
            raise UserError(f"latents is {told}, allowed: a tensor of {shape}")
        for name, side in (("height", given.shape[-2]), ("width", given.shape[-1])):
            said = getattr(asked, name)
            if said is not None and said != side * LATENT_PX:
                raise UserError(f"{name} is {said}, allowed with these latents: {side * LATENT_PX}")

    def _check_controls(self) -> None:
        for name in CONTROLS:
            if not self.controls and getattr(self.asked, name) is not None:
                raise UserError(f"{name} is given, allowed with {', '.join(CONTROLLED)}")
        if self.controls and not self.draws and self.asked.strength == 0:
            raise UserError("strength is 0, allowed with ControlNets above 0 alone: 0 draws nothing")

    def _check_clip_skip(self) -> None:
        layers = [
            encoder.config.num_hidden_layers
            for name in ("text_encoder", "text_encoder_2")
            if (encoder := getattr(self.pipeline, name, None)) is not None
        ]
        most = min(layers, default=0) - self.is_sdxl
        if layers and (self.asked.clip_skip or 0) > most:
            raise UserError(f"clip_skip is {self.asked.clip_skip}, allowed with this text encoder: 0 to {most}")

    def _check_steps(self) -> None:
        """diffusers draws nothing where strength leaves no step, and answers no latent."""
        takes = {"timesteps", "sigmas", "denoising_start"} & self.asked.handed.keys()
        if not self.redraws or not self.draws or takes:
            return
        strength = own_default(self.pipeline, "strength") if self.asked.strength is None else self.asked.strength
        steps = self.asked.num_inference_steps
        if int(steps * strength) < 1:
            raise UserError(
                f"strength is {strength:g} of {steps} num_inference_steps, allowed: a product of 1 step or more"
            )

    def _check_adapters(self) -> None:
        given = self.asked.ip_adapter_image is not None or self.asked.ip_adapter_image_embeds is not None
        carries = getattr(self.pipeline.unet, "encoder_hid_proj", None) is not None
        if given and not carries:
            name = "ip_adapter_image" if self.asked.ip_adapter_image is not None else "ip_adapter_image_embeds"
            raise UserError(f"{name} is given, allowed with a pipeline that has loaded an IP-Adapter")
        if carries and not given:
            raise UserError(
                "ip_adapter_image is None, allowed with a pipeline that has loaded an IP-Adapter: a picture"
            )


def handed_on(pipeline: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """Of arguments that are none of ours, those that the pipeline takes for itself."""
    takes = taken_by(pipeline)
    return {name: value for name, value in named.items() if name in takes}


def taken_by(pipeline: Any) -> set[str]:
    """The names of what a pipeline takes besides."""
    return set(inspect.signature(type(pipeline).__call__).parameters) - OURS


def own_default(pipeline: Any, name: str) -> Any:
    """What the pipeline takes for an argument where nobody says it."""
    return inspect.signature(type(pipeline).__call__).parameters[name].default


def name_of(pipeline: Any) -> str:
    return str(getattr(pipeline.config, "_name_or_path", "") or type(pipeline).__name__)


def _as_list(generator: Any) -> Any:
    return list(generator) if isinstance(generator, tuple) else generator
