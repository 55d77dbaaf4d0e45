"""Checkpoints for the doubles: what the webui reads of a model, around denoisers small enough to write down."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from modules.sd_models import CheckpointInfo

WORDS = 75  # to a chunk of a prompt, as in CLIP
SIZE_KEYS = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")


def scaled_linear_alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def convolution(kernel: torch.Tensor) -> torch.nn.Conv2d:
    """Of a kernel of three by three, zeros beyond the edge until the webui says otherwise."""
    layer = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, bias=False).requires_grad_(False)
    layer.weight.copy_(kernel)
    return layer


def is_circular(layer: torch.nn.Conv2d) -> bool:
    return layer.padding_mode == "circular"


def text_numbers(text: str) -> list[float]:
    """Four numbers in [-1, 1) that stand for a text's meaning."""
    state = 7
    for character in text.strip():
        state = (state * 31 + ord(character)) % 2**31
    return [((state * factor) % 1009) / 1009 * 2 - 1 for factor in (3, 17, 91, 523)]


@dataclass(repr=False)
class Call:
    """One call of the model: what it was given."""

    x: torch.Tensor
    t: torch.Tensor
    text: torch.Tensor
    vector: torch.Tensor | None
    concat: torch.Tensor | None
    circular: bool = False
    """Whether the model's convolution goes on at the opposite edge."""


@dataclass
class Hooks:
    """What a test does within the model's call number `n`, counted from 0, with its output, and with decoded images."""

    on_call: Callable[[int], None] = lambda n: None
    output: Callable[[int, torch.Tensor], torch.Tensor] = lambda n, output: output
    decoded: Callable[[torch.Tensor], torch.Tensor] = lambda image: image


class SizeEmbedder(torch.nn.Module):
    """Each number as a sinusoid of `outdim` columns (the timestep embedding of diffusion models)."""

    def __init__(self, input_key: str, outdim: int = 256):
        super().__init__()
        self.input_key = input_key
        self.outdim = outdim

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        half = self.outdim // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / half))
        angles = numbers.float()[..., None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)

    def read(self, sinusoids: torch.Tensor) -> torch.Tensor:
        """The whole numbers again, from the slowest wave."""
        half = self.outdim // 2
        waves = sinusoids.view(len(sinusoids), -1, self.outdim)
        angle = torch.atan2(waves[..., -1], waves[..., half - 1])
        return (angle / math.exp(-math.log(10000) * (half - 1) / half)).round()


class Conditioner:
    """SDXL's: the pooled text, then the three pairs of numbers."""

    def __init__(self, pooled: int = 4):
        self.pooled = pooled
        self.embedders = [SimpleNamespace(input_key="txt"), *(SizeEmbedder(key) for key in SIZE_KEYS)]

    def read(self, vector: torch.Tensor) -> list[tuple[int, ...]]:
        """For each row: original height, width, crop top, left, target height, width."""
        return [tuple(row) for row in self.embedders[1].read(vector[:, self.pooled :]).int().tolist()]


class Encoder(torch.nn.Conv2d):
    """What the decoder makes flat squares of, a fourth channel of nothing, and four that say how sure that is."""

    def __init__(self):
        super().__init__(3, 8, 8, stride=8, bias=False)
        self.weight.data = torch.eye(8, 3)[:, :, None, None].expand(8, 3, 8, 8) / 64


class TinyModel:
    """A checkpoint of a Gaussian image distribution whose mean is the prompt, with a texture of its neighbourhood.

    texture: weight of the part of the prediction that depends on neighbouring cells, and so on the window's edges.
    spread: standard deviation of the distribution, 0 for one single image.
    accent: what this checkpoint's text encoder adds to every number, so that its conditions can be told apart.
    """

    is_sd3 = False
    is_sdxl_inpaint = False
    cond_stage_key = "txt"
    latent_channels = 4
    device = torch.device("cpu")

    def __init__(
        self,
        name: str = "tiny.safetensors",
        *,
        parameterization: str = "eps",
        conditioning_key: str = "crossattn",
        sdxl: bool = False,
        texture: float = 0.3,
        spread: float = 0.5,
        accent: float = 0.0,
    ):
        self.parameterization = parameterization
        self.is_sdxl = sdxl
        self.texture = texture
        self.spread = spread
        self.accent = accent
        self.convolution = convolution(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(5)) / 6)
        unet = torch.nn.Sequential(self.convolution)
        self.model = SimpleNamespace(conditioning_key=conditioning_key, diffusion_model=unet)
        vae = [convolution(torch.zeros(3, 3, 3, 3))]
        self.first_stage_model = SimpleNamespace(
            dtype=torch.float32, to=lambda *args: None, layers=vae,
            decode=lambda latent: latent[:, :3].div(4).repeat_interleave(8, -1).repeat_interleave(8, -2),
            encoder=Encoder(), quant_conv=lambda moments: moments.mul(4), _forward_pre_hooks={},
        )  # fmt: skip
        self.scale_factor = 1.0
        self.sd_checkpoint_info = CheckpointInfo(name)
        self.alphas_cumprod = self.alphas_cumprod_original = scaled_linear_alphas_cumprod()
        self.cond_stage_model_empty_prompt = self.encode("")[None]
        if sdxl:
            self.conditioner = Conditioner()
        self.hooks = Hooks()
        self.calls = 0
        self.encoded_sizes: list[tuple[int, int]] = []
        self.decoded: list[torch.Tensor] = []
        self.decoded_circular: list[bool] = []
        self.encoded: list[tuple[str, int | None, int | None]] = []
        self.watch: Callable[[Call], None] = lambda call: None

    def ema_scope(self) -> Any:
        return contextlib.nullcontext()

    def encode(self, text: str) -> torch.Tensor:
        """A row for each token; longer prompts take more chunks."""
        chunks = max(1, math.ceil(len(text.split()) / WORDS))
        return torch.tensor(text_numbers(text)).add(self.accent).expand(chunks * (WORDS + 2), -1).clone()

    def get_learned_conditioning(self, batch: Any) -> Any:
        width, height = getattr(batch, "width", None), getattr(batch, "height", None)
        self.encoded += [(text, width, height) for text in batch]
        texts = [self.encode(text) for text in batch]
        length = max(len(text) for text in texts)
        crossattn = torch.stack([F.pad(t, (0, 0, 0, length - len(t)), value=0.0) for t in texts])
        if not self.is_sdxl:
            return crossattn
        from modules.shared import opts

        numbers = [(height, width), (opts.sdxl_crop_top, opts.sdxl_crop_left), (height, width)]
        parts = [e(torch.tensor([n] * len(texts))) for e, n in zip(self.conditioner.embedders[1:], numbers)]
        return {"crossattn": crossattn, "vector": torch.cat([crossattn[:, 0], *parts], dim=1)}

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict) -> torch.Tensor:
        """Epsilon or v at the variance-preserving `x` and the training timesteps `t`."""
        text = cond["crossattn"] if "crossattn" in cond else torch.cat(cond["c_crossattn"], 1)
        concat = torch.cat(cond["c_concat"], 1) if cond.get("c_concat") else None
        number, self.calls = self.calls, self.calls + 1
        self.watch(Call(x.clone(), t.clone(), text.clone(), cond.get("vector"), concat, is_circular(self.convolution)))
        self.hooks.on_call(number)
        shown = concat if self.model.conditioning_key in ("hybrid", "concat") else None
        return self.hooks.output(number, self.network(x, t, text, cond.get("vector"), shown))

    def network(self, x, t, text, vector=None, concat=None) -> torch.Tensor:
        alpha, sigma = self.alpha_sigma(t)
        mean = text.mean(1)[:, :, None, None]
        if vector is not None:
            numbers = torch.tensor(self.conditioner.read(vector), dtype=torch.float32) / 256
            mean = mean + 0.2 * torch.stack([numbers[:, i::2].sum(1) for i in (0, 1)] * 2, 1).sin()[:, :, None, None]
        if concat is not None:
            mean = mean + 0.3 * concat.mean(1, keepdim=True)
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        x0 = x0 + self.texture * sigma * torch.tanh(self.convolution(x))
        eps = (x - alpha * x0) / sigma
        return alpha * eps - sigma * x0 if self.parameterization == "v" else eps

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """At timesteps that need not be whole."""
        t = t.double().clamp(0, 999)
        low = t.floor().long()
        below, above = (self.alphas_cumprod[i].double().log() for i in (low, (low + 1).clamp(max=999)))
        squared = torch.lerp(below, above, t - low).exp()
        return squared.sqrt().float()[:, None, None, None], (1 - squared).sqrt().float()[:, None, None, None]

    def decode_first_stage(self, latent: torch.Tensor) -> torch.Tensor:
        self.decoded.append(latent.clone())
        self.decoded_circular.append(all(map(is_circular, self.first_stage_model.layers)))
        return self.hooks.decoded(self.first_stage_model.decode(latent))

    def encode_first_stage(self, image: torch.Tensor) -> torch.Tensor:
        self.encoded_sizes.append(tuple(image.shape[-2:]))
        return F.pad(F.avg_pool2d(image, 8), (0, 0, 0, 0, 0, 1))

    def get_first_stage_encoding(self, encoded: torch.Tensor) -> torch.Tensor:
        return encoded
