"""The network under classifier-free guidance, over whole latents or through the engine's windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import ALONE, Call, Low, PhaseEngine, Share, looking, shrink, shrunk_noise
from ..targets import LATENT_PX
from .controls import Steering
from .models import Model
from .prompts import Encoded

Progress = Callable[[int], None]
"""Told of every evaluation of the network: how many rows it had."""


@dataclass(frozen=True)
class SigmaForm:
    """`x = x0 + sigma * noise`, the answer is the denoised: k-diffusion's contract."""

    sigma: float
    prediction: str

    @property
    def skip(self) -> float:
        return {"epsilon": 1.0, "v_prediction": 1 / (self.sigma**2 + 1), "sample": 0.0}[self.prediction]

    def network_input(self, x: torch.Tensor) -> torch.Tensor:
        return x.div(math.sqrt(self.sigma**2 + 1))

    def answer(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if self.prediction == "sample":
            return output
        if self.prediction == "v_prediction":
            return x.mul(self.skip).sub(output, alpha=self.sigma / math.sqrt(self.sigma**2 + 1))
        return x.sub(output, alpha=self.sigma)


@dataclass(frozen=True)
class EpsForm:
    """`x = alpha * x0 + sigma * noise`, the answer is epsilon: DDIM's contract."""

    alpha: float
    sigma: float
    prediction: str

    @property
    def skip(self) -> float:
        return {"epsilon": 0.0, "v_prediction": self.sigma, "sample": 1 / self.sigma}[self.prediction]

    def network_input(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def answer(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if self.prediction == "sample":
            return x.sub(output, alpha=self.alpha).div(self.sigma)
        return output.mul(self.alpha).add(x, alpha=self.sigma) if self.prediction == "v_prediction" else output


Shrunk = Callable[[SigmaForm | EpsForm, float], tuple[float, SigmaForm | EpsForm]]
"""`shrunk(form, gain)`: the timestep and the form of a latent with so much less noise."""


@dataclass(frozen=True)
class SizeTold:
    """SDXL's size conditioning in pixels, `(height, width)`; crop corners come from the windows."""

    original_px: tuple[int, int]
    target_px: tuple[int, int]


def passes(model: Model, guidance: float) -> int:
    """How many rows each image takes: cond and uncond, or cond alone where guidance is 1 or the UNet is told it."""
    return 1 if guidance == 1 or model.guidance_width else 2


def guidance_embedding(guidance: float, width: int) -> torch.Tensor:
    """What a UNet distilled under guidance is told of it, `(1, width)`: sines, then cosines, of the scale less 1.

    As a timestep's, of a thousandfold value (latent consistency models, arXiv 2310.04378).
    """
    half = width // 2
    rates = torch.arange(half).mul(-math.log(10000) / (half - 1)).exp()
    angles = rates.mul(1000 * (guidance - 1))
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None]


@dataclass(frozen=True)
class Repeated:
    """What the prompts of a call's rows tell the network, a row for each of its patches; None where it is told nothing."""

    context: torch.Tensor
    readable: torch.Tensor | None
    pooled: torch.Tensor | None
    images: tuple[torch.Tensor, ...] = ()


KEPT = 4
"""So many calls' `Repeated` are kept at most: of one picture those of prompt and negative prompt, of windows and sub-images."""


def to_device(numbers: Sequence[Sequence[float]], like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers on the device of `like`, by way of memory from which a GPU takes them without being waited for."""
    made = torch.tensor(numbers, dtype=dtype)
    if like.is_cuda:
        return made.pin_memory().to(like.device, non_blocking=True)
    return made if like.device.type == "cpu" else made.to(like.device)


class Guided:
    """One picture's or batch's guided prediction. With an engine the network sees its windows, else the whole latent.

    cond, uncond: a row for each image of the batch. regions: the same for each part of the picture that has a prompt of its
    own, one after the other; for an engine that has them. guidance: 1 leaves the uncond out; so does a UNet that is told it.
    base_lat: the size `(height, width)` at which an engine with low-pass guidance is guided. share: who asks the network,
    where several processes draw. steering: ControlNets beside it.
    """

    def __init__(
        self, model: Model, cond: Encoded, uncond: Encoded, guidance: float, told: SizeTold,
        *, engine: PhaseEngine | None = None, base_lat: tuple[int, int] = (0, 0), progress: Progress = lambda rows: None,
        share: Share = ALONE, regions: Encoded | None = None,
        steering: Steering | None = None,
    ):  # fmt: skip
        self.model = model
        self.guidance = guidance
        self.passes = passes(model, guidance)
        parts = [cond, uncond] if self.passes == 2 else [cond]
        self.images, self.own = len(cond.lengths), sum(len(part.lengths) for part in parts)
        self.encoded = Encoded.joined(parts if regions is None else [*parts, regions])
        self.told = told
        self.engine = engine
        self.base_lat = base_lat
        self.progress = progress
        self.share = share
        self.steering = steering or Steering()
        self.evaluations = 0
        self.repeated: dict[tuple[torch.dtype, tuple[int, ...]], Repeated] = {}

    @torch.no_grad()
    def __call__(
        self, x: torch.Tensor, t: float, form: SigmaForm | EpsForm, shrunk: Shrunk | None = None
    ) -> torch.Tensor:
        """`x (batch, 4, height, width)`; the answer in the form's own terms. With an engine, `shrunk` is needed."""
        self.share.agree_(x)
        rows = torch.cat([x] * self.passes)

        def predict(patches: torch.Tensor, rows: Sequence[int], *_: Any) -> torch.Tensor:
            return form.answer(patches, self._network(form.network_input(patches), t, rows))

        def rescue(patches: torch.Tensor, rows: Sequence[int], *_: Any) -> torch.Tensor:
            with self.model.unet_in_float32(), self.steering.in_float32():
                return predict(patches, rows)

        if self.engine is None:
            output = self._once(rows, lambda: predict(rows, range(len(rows))))
        else:
            assert shrunk is not None
            shares: list[float | None] = [*[1.0] * len(x), *[None] * (len(rows) - len(x))]
            evaluation = self.engine.evaluation(list(range(len(x))) * self.passes, shares, t)
            low = self._low(x, form, shrunk)
            output = evaluation(rows, 0, form.skip, predict, rescue=rescue, low=low, base_lat=self.base_lat)
        if self.passes == 1:
            return output
        cond, uncond = output.chunk(2)
        return uncond + self.guidance * (cond - uncond)

    def _low(self, x: torch.Tensor, form: SigmaForm | EpsForm, shrunk: Shrunk) -> Low:
        """The answers for the shrunk latent, whose noise is less by what shrinking leaves of it."""

        def low(rows: Sequence[int]) -> torch.Tensor:
            gain = shrunk_noise((x.shape[-2], x.shape[-1]), self.base_lat)
            t, small = shrunk(form, gain)
            q = shrink(x, *self.base_lat)[[row % len(x) for row in rows]]
            if isinstance(form, SigmaForm):
                return self._once(q, lambda: small.answer(q, self._network(small.network_input(q), t, rows)))
            assert isinstance(small, EpsForm)
            q = q.mul(small.alpha / form.alpha)
            # a difference of epsilons is one of denoised times -alpha / sigma: `gain` times as large at the base's size
            return self._once(q, lambda: small.answer(q, self._network(q, t, rows)).mul_(gain))

        return low

    def _once(self, like: torch.Tensor, ask: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The answer of one call, like `like`, which is one process's where several draw: in halves its rows would be others."""
        cells = (self.model.native_px // LATENT_PX) ** 2
        call = Call(ask, len(like), tuple(like.shape), like.dtype, len(like) * like.shape[-2] * like.shape[-1] / cells)
        answer = self.share.outputs([call])[0]
        return (
            answer if self.share.alone else answer.clone()
        )  # a sampler keeps it, and others' memory is written to again

    def _network(self, x: torch.Tensor, t: float, rows: Sequence[int]) -> torch.Tensor:
        model, now = self.model, looking()
        told_by = now.prompts if now else [0] * len(rows)
        prompts = self._prompts(tuple(self._row(row, prompt) for row, prompt in zip(rows, told_by)))
        added: dict[str, Any] = {}
        told: torch.Tensor | None = None
        if model.guidance_width:
            told = guidance_embedding(self.guidance, model.guidance_width).to(x.device, model.dtype).expand(len(x), -1)
        if prompts.pooled is not None:
            added = {"text_embeds": prompts.pooled, "time_ids": self._time_ids(x)}
        if prompts.images:
            added["image_embeds"] = list(prompts.images)
        times = torch.full((len(x),), t, device=x.device)
        x_in = x.to(model.dtype)
        steered = self.steering(x_in, t, times, prompts.context, prompts.readable, added_cond_kwargs=added or None)
        output = model.unet(
            x_in, times, encoder_hidden_states=prompts.context, encoder_attention_mask=prompts.readable,
            timestep_cond=told, added_cond_kwargs=added or None, return_dict=False, **model.told, **steered,
        )[0]  # fmt: skip
        self.evaluations += len(x)
        self.progress(len(x))
        return output.to(x.dtype)

    def _row(self, row: int, prompt: int) -> int:
        """Of what is encoded, the one for a row of the call that is asked with one of its prompts."""
        return self.own + (prompt - 1) * self.images + row % self.images if prompt else row

    def _prompts(self, rows: tuple[int, ...]) -> Repeated:
        """Repeated once for a phase, not for every call of it."""
        dtype = self.model.dtype
        known = self.repeated.get((dtype, rows))
        if known is not None:
            return known
        context, readable = self.encoded.rows(rows)
        pooled, chosen = self.encoded.pooled, list(rows)
        images = tuple(image[chosen].to(dtype) for image in self.encoded.images)
        made = Repeated(context.to(dtype), readable, None if pooled is None else pooled[chosen].to(dtype), images)
        if len(self.repeated) < KEPT:
            self.repeated[dtype, rows] = made
        return made

    def _time_ids(self, x: torch.Tensor) -> torch.Tensor:
        now = looking()
        corners = [view.corner_lat or (0, 0) for view in now.views] if now else [(0, 0)] * len(x)
        ids = [
            [*self.told.original_px, top * LATENT_PX, left * LATENT_PX, *self.told.target_px] for top, left in corners
        ]
        return to_device(ids, x, self.model.dtype)
