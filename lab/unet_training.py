"""Trains the UNet and the prompt's encoder on latents of the scenes, as SD models are trained: epsilon, SD's noise schedule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.nn.functional as F

from .data import draw_picture
from .text import TextEncoder
from .unet import UNet
from .vae import VAE
from .vae_training import SCALE_FACTOR

TIMESTEPS = 1000
EMA = 0.998

Log = Callable[[str], None]
Tokenize = Callable[[Sequence[str]], torch.Tensor]
Draw = Callable[[torch.Generator], tuple[torch.Tensor, str, bool]]
"""A picture in [-1, 1], its prompt, and whether it is a whole scene."""


def alphas_cumprod() -> torch.Tensor:
    """SD's `scaled linear` schedule, float64 `(1000,)`."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


@dataclass(frozen=True)
class LatentSet:
    """Training latents of unit deviation `(count, 4, height, width)`, which of `prompts` each has, and which are whole."""

    latents: torch.Tensor
    prompts: list[str]
    labels: torch.Tensor
    whole: torch.Tensor


def encode_pictures(
    vae: VAE, seed: int, count: int, log: Log, device: torch.device, draw: Draw = draw_picture
) -> LatentSet:
    """Draws `count` training pictures and keeps their latents: the autoencoder costs more than the UNet.

    Each picture has a generator of its own, so that it does not matter how many are encoded at once.
    """

    @torch.no_grad()
    def encode(number: int) -> tuple[torch.Tensor, str, bool]:
        picture, prompt, whole = draw(torch.Generator().manual_seed(seed * 1_000_003 + number))
        mean, _ = vae.moments(picture[None].to(device))
        return mean[0].cpu() * SCALE_FACTOR, prompt, whole

    begun, latents, names, labels, wholes = perf_counter(), [], {"": 0}, [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several pictures at once are faster than several threads to a picture
    with ThreadPoolExecutor(threads) as pool:
        for latent, prompt, whole in pool.map(encode, range(count)):
            latents.append(latent)
            labels.append(names.setdefault(prompt, len(names)))
            wholes.append(whole)
            if len(latents) % 500 == 0:
                log(f"encoded {len(latents)}/{count} pictures, {perf_counter() - begun:.0f} s")
    torch.set_num_threads(threads)
    return LatentSet(torch.stack(latents), list(names), torch.tensor(labels), torch.tensor(wholes))


@dataclass(frozen=True)
class UNetStage:
    """How long to train on what: crops at timesteps below `crops_below`; `high` above 1 dwells on high noise."""

    steps: int
    batch: int
    rate: float
    crops_below: int = TIMESTEPS
    high: float = 1.0

    def choose(self, data: LatentSet, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch's timesteps, and the numbers of its latents."""
        t = (TIMESTEPS * torch.rand(self.batch, generator=generator) ** (1 / self.high)).long()
        wholes = data.whole.nonzero().flatten()
        anything = torch.randint(len(data.latents), (self.batch,), generator=generator)
        whole = wholes[torch.randint(len(wholes), (self.batch,), generator=generator)]
        return t, torch.where(t < self.crops_below, anything, whole)


class Ema:
    """The running mean of a module's weights, which is what ships."""

    def __init__(self, module: torch.nn.Module):
        self.module = module
        self.mean = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        keep = min(EMA, (step + 1) / (step + 10))
        for mean, weight in zip(self.mean.parameters(), self.module.parameters()):
            mean.lerp_(weight, 1 - keep)


def train_unet(
    unet: UNet,
    text: TextEncoder,
    data: LatentSet,
    tokenize: Tokenize,
    generator: torch.Generator,
    *,
    stage: UNetStage,
    log: Log,
    device: torch.device,
    report: Callable[[int, UNet, TextEncoder], None] = lambda step, unet, text: None,
) -> tuple[UNet, TextEncoder]:
    """The running means of both. `report` is called now and then with what they are so far."""
    tokens = tokenize(data.prompts).to(device)
    parameters = [*unet.parameters(), *text.parameters()]
    optimiser = torch.optim.AdamW(parameters, stage.rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, stage.rate, total_steps=stage.steps, pct_start=0.03)
    levels = alphas_cumprod().float()
    means = Ema(unet), Ema(text)
    begun, losses = perf_counter(), []
    for step in range(stage.steps):
        t, chosen = stage.choose(data, generator)
        noise = torch.randn(data.latents[chosen].shape, generator=generator)
        level = levels[t].view(-1, 1, 1, 1)
        noised = level.sqrt() * data.latents[chosen] + (1 - level).sqrt() * noise
        context = text(tokens)[data.labels[chosen].to(device)]
        loss = F.mse_loss(unet(noised.to(device), t.to(device), context), noise.to(device))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        for mean in means:
            mean.update(step)
        losses.append(float(loss))
        if step % 100 == 99:
            log(
                f"unet step {step + 1}/{stage.steps}: loss {sum(losses[-100:]) / 100:.4f}, {perf_counter() - begun:.0f} s"
            )
        if step % 1000 == 999:
            report(step + 1, means[0].mean, means[1].mean)
    return means[0].mean, means[1].mean
