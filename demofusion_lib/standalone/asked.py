"""What a call of the library's pipeline asks for, by the names that diffusers' users know, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import torch

from ..setting import quoted
from ..targets import LATENT_PX
from .errors import UserError

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_STEPS, MOST_PX = 1000, 16384
TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
EMBEDS = (
    "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
)  # fmt: skip
TENSORS = ["latents"]
CONTROLS = ("control_image", "controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")
"""What pipelines with ControlNets take besides."""
Text = str | Sequence[str] | None


@dataclass(frozen=True)
class Texts:
    """Prompts, or what a text encoder made of them, as diffusers' `encode_prompt` takes them by name."""

    prompt: Text = None
    prompt_2: Text = None
    negative_prompt: Text = None
    negative_prompt_2: Text = None
    prompt_embeds: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None
    pooled_prompt_embeds: torch.Tensor | None = None
    negative_pooled_prompt_embeds: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """How many prompts there are."""
        if self.prompt_embeds is not None:
            return len(self.prompt_embeds)
        return 1 if self.prompt is None or isinstance(self.prompt, str) else len(self.prompt)

    @property
    def prompts(self) -> list[str]:
        """Of each row; nothing where only embeddings are known."""
        if self.prompt is None:
            return [""] * self.rows
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    def given(self) -> dict[str, Any]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def each(self) -> dict[str, Any]:
        """As given, a list of texts, one for each row: diffusers wants prompts and negative prompts to be of one kind."""
        spread = {name: [text] * self.rows for name, text in self.given().items() if isinstance(text, str)}
        return {name: list(text) if isinstance(text, tuple) else text for name, text in self.given().items()} | spread

    def with_prompt(self, prompt: str) -> Texts:
        """The same negatives under another prompt, one for all rows."""
        negatives = {name: value for name, value in self.each().items() if name.startswith("negative")}
        return Texts(prompt=[prompt] * self.rows, **negatives)

    def with_negative(self, negative: str) -> Texts:
        """The same prompts under another negative prompt, one for all rows."""
        prompts = {name: value for name, value in self.each().items() if not name.startswith("negative")}
        return Texts(**prompts, negative_prompt=[negative] * self.rows)

    def check(self, *, is_sdxl: bool, context_width: int) -> None:
        if (self.prompt is None) == (self.prompt_embeds is None):
            neither = self.prompt is None
            told = "prompt is None" if neither else f"prompt is {quoted(self.prompt)} beside prompt_embeds"
            raise UserError(f"{told}, allowed: one of prompt and prompt_embeds")
        for name in TEXTS:
            self._check_text(name)
        for name in EMBEDS:
            self._check_embeds(name, context_width)
        if not is_sdxl:
            two = [name for name in self.given() if name.endswith("_2") or "pooled" in name]
            if two:
                raise UserError(f"{two[0]} is given, allowed with SDXL alone, which has two text encoders")
        for side in ("", "negative_") if is_sdxl else ():
            has_pooled = getattr(self, f"{side}pooled_prompt_embeds") is not None
            if (getattr(self, f"{side}prompt_embeds") is None) == has_pooled:
                raise UserError(
                    f"{side}pooled_prompt_embeds is {'given' if has_pooled else 'None'}, "
                    f"allowed with SDXL: both it and {side}prompt_embeds, or neither"
                )

    def _check_text(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{name} is {quoted(value)}, allowed: a text, or a list of texts")
        for text in texts:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise UserError(f"{name} is {quoted(text)}, allowed: text in UTF-8") from error
        if not isinstance(value, str) and len(value) != self.rows:
            raise UserError(
                f"{name} has {len(value)} texts, allowed: one text, or as many as there are prompts ({self.rows})"
            )

    def _check_embeds(self, name: str, context_width: int) -> None:
        value = getattr(self, name)
        if value is None:
            return
        pooled = "pooled" in name
        # one without a row for each prompt says nothing of how many there are
        unknown = name == "prompt_embeds" and getattr(value, "ndim", 0) != 3
        rows = "prompts" if unknown else self.rows
        shape = f"{rows} x {'width' if pooled else f'tokens x {context_width}'}"
        is_tensor = isinstance(value, torch.Tensor) and value.ndim == (2 if pooled else 3)
        if not is_tensor or len(value) != self.rows or (not pooled and value.shape[-1] != context_width):
            told = tuple(value.shape) if isinstance(value, torch.Tensor) else quoted(value)
            raise UserError(f"{name} is {told}, allowed: a tensor of {shape}")
        if (
            name == "negative_prompt_embeds"
            and self.prompt_embeds is not None
            and value.shape != self.prompt_embeds.shape
        ):
            raise UserError(
                f"{name} is {tuple(value.shape)}, allowed: prompt_embeds' {tuple(self.prompt_embeds.shape)}"
            )


@dataclass(frozen=True)
class Asked:
    """All of a call but the settings. handed: what only the borrowed pipeline knows, which gets it as it is."""

    texts: Texts
    height: int | None
    width: int | None
    num_inference_steps: int
    guidance_scale: float
    num_images_per_prompt: int = 1
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    latents: torch.Tensor | None = None
    image: Any = None
    strength: float | None = None
    ip_adapter_image: Any = None
    ip_adapter_image_embeds: Any = None
    cross_attention_kwargs: Mapping[str, Any] | None = None
    clip_skip: int | None = None
    output_type: str = "pil"
    callback_on_step_end: Callable[..., Any] | None = None
    handed: Mapping[str, Any] = field(default_factory=dict)
    control_image: Any = None
    controlnet_conditioning_scale: Any = None
    control_guidance_start: Any = None
    control_guidance_end: Any = None

    def __post_init__(self) -> None:
        check_number("num_inference_steps", self.num_inference_steps, Integral, 1, MOST_STEPS)
        check_number("guidance_scale", self.guidance_scale, Real, 0, 100)
        check_number("num_images_per_prompt", self.num_images_per_prompt, Integral, 1, 1000)
        if self.strength is not None:
            check_number("strength", self.strength, Real, 0, 1)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), Integral, LATENT_PX, MOST_PX, LATENT_PX)
        if self.clip_skip is not None:
            check_number("clip_skip", self.clip_skip, Integral, 0, 100)
        if self.output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type is {quoted(self.output_type)}, allowed: {', '.join(OUTPUT_TYPES)}")
        if self.callback_on_step_end is not None and not callable(self.callback_on_step_end):
            raise UserError(f"callback_on_step_end is {quoted(self.callback_on_step_end)}, allowed: a function")
        self._check_generator()
        self._check_attention()

    @property
    def images(self) -> int:
        """How many are drawn."""
        return self.texts.rows * self.num_images_per_prompt

    @property
    def prompts(self) -> list[str]:
        """Of each image."""
        return [prompt for prompt in self.texts.prompts for _ in range(self.num_images_per_prompt)]

    @property
    def lora_scale(self) -> float | None:
        return (self.cross_attention_kwargs or {}).get("scale")

    def _check_generator(self) -> None:
        given = self.generator
        if given is None or isinstance(given, torch.Generator):
            return
        if not isinstance(given, (list, tuple)) or not all(isinstance(one, torch.Generator) for one in given):
            raise UserError(f"generator is {quoted(given)}, allowed: a torch.Generator, or a list of them")
        if len(given) != self.images:
            raise UserError(f"generator has {len(given)} entries, allowed: one for each of the {self.images} images")

    def _check_attention(self) -> None:
        given = self.cross_attention_kwargs
        if given is None:
            return
        unknown = sorted(set(given) - {"scale"}) if isinstance(given, Mapping) else [quoted(given)]
        if unknown:
            # masks and their kin lie on the whole picture, where a phase shows the network windows of it
            raise UserError(f"cross_attention_kwargs has {', '.join(map(str, unknown))}, allowed: scale")


def check_number(name: str, value: Any, kind: Any, low: float, high: float, multiple: int = 1) -> None:
    """Raises UserError."""
    whole = kind is Integral
    fits = isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high  # which NaN isn't
    if not fits or (whole and value % multiple):
        words = "whole numbers " if whole else ""
        behind = f", multiples of {multiple}" if multiple > 1 else ""
        raise UserError(f"{name} is {quoted(value)}, allowed: {words}{low:g} to {high:g}{behind}")


def check_callback_tensors(callback: Any, names: Any) -> None:
    """Raises UserError for tensors that the phases don't have."""
    wanted = getattr(callback, "tensor_inputs", names)
    if not isinstance(wanted, (list, tuple)) or list(wanted) not in (TENSORS, []):
        raise UserError(f"callback_on_step_end_tensor_inputs is {quoted(wanted)}, allowed: {TENSORS}")
