"""What every other extension is told during a generation, and where in a latent a patch was cut from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from modules import script_callbacks, scripts
from tiny_models import Call


@dataclass(repr=False)
class Evaluation:
    """One evaluation of the guided denoiser: the rows of the whole latent, and the model's calls within."""

    x: torch.Tensor
    image_cond: torch.Tensor
    sigma: torch.Tensor
    step: int
    denoised: torch.Tensor | None = None
    guided: torch.Tensor | None = None
    calls: list[Call] = field(default_factory=list)

    @property
    def patches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each patch that the model was given with the first row of its text."""
        return [(x, text[0]) for call in self.calls for x, text in zip(call.x, call.text)]


@dataclass(repr=False)
class Sampling:
    """One run of a sampler, as `process_before_every_sampling` announced it."""

    x: torch.Tensor
    noise: torch.Tensor
    c: Any
    uc: Any
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return [call for evaluation in self.evaluations for call in evaluation.calls]


class Witness(scripts.Script):
    """An extension that listens to everything and changes nothing."""

    def __init__(self):
        self.samplings: list[Sampling] = []
        script_callbacks.on_cfg_denoiser(self.before_model)
        script_callbacks.on_cfg_denoised(self.after_model)
        script_callbacks.on_cfg_after_cfg(self.after_guidance)

    def title(self) -> str:
        return "witness"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p, *args, x, noise, c, uc, **kwargs):
        self.samplings.append(Sampling(x.clone(), noise.clone(), c, uc))

    @property
    def now(self) -> Evaluation:
        return self.samplings[-1].evaluations[-1]

    def before_model(self, params):
        if not self.samplings:  # of a generation without scripts
            self.samplings.append(Sampling(params.x, params.x, None, None))
        evaluation = Evaluation(params.x.clone(), params.image_cond, params.sigma.clone(), params.sampling_step)
        self.samplings[-1].evaluations.append(evaluation)

    def model_called(self, call: Call) -> None:
        self.now.calls.append(call)

    def after_model(self, params):
        assert self.now.denoised is None
        self.now.denoised = params.x.clone()

    def after_guidance(self, params):
        assert self.now.guided is None
        self.now.guided = params.x.clone()


def find_window(patch: torch.Tensor, whole: torch.Tensor) -> tuple[int, int] | None:
    """`(top, left)` of the part of `whole (channels, height, width)` that `patch` was cut from, if it was."""
    height, width = patch.shape[-2:]
    corners = whole[:, : whole.shape[-2] - height + 1, : whole.shape[-1] - width + 1]
    for top, left in (corners == patch[:, :1, :1]).all(0).nonzero().tolist():
        if torch.equal(whole[:, top : top + height, left : left + width], patch):
            return top, left
    return None


def find_dilated(patch: torch.Tensor, whole: torch.Tensor, dilation: int) -> tuple[int, int] | None:
    """The offset of the strided sub-image that `patch` is, if it is one."""
    for i in range(dilation):
        for j in range(dilation):
            part = whole[:, i::dilation, j::dilation]
            if part.shape == patch.shape and torch.equal(part, patch):
                return i, j
    return None
