"""Trains the autoencoder on pictures of the scenes, and brings its latents to the scale that SD1 expects."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter

import torch
import torch.nn.functional as F

from .data import draw_batch, draw_window
from .vae import LATENT_CHANNELS, VAE, Resample, ResBlock

SCALE_FACTOR = 0.18215
"""What every program that reads SD1 checkpoints multiplies latents by: with it they must have unit deviation."""
KL_WEIGHT = 2e-3

Log = Callable[[str], None]


def loss_of(model: VAE, pictures: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Reconstruction and the pull towards unit latents; and the reconstruction's PSNR in dB."""
    mean, logvar = model.moments(pictures)
    error = model.decode(mean + (logvar / 2).exp() * noise) - pictures
    kl = (mean.square() + logvar.exp() - logvar - 1).mean() / 2
    squared = error.square().mean()
    psnr = -10 * math.log10(float(squared.detach()) / 4)
    return squared + 0.3 * error.abs().mean() + KL_WEIGHT * kl, psnr


@torch.no_grad()
def start_linear(model: VAE) -> None:
    """Begins as a plain pyramid: residual blocks add nothing, resampling keeps its channels."""
    for part in model.modules():
        if isinstance(part, ResBlock):
            part.conv2.weight.zero_()
        if isinstance(part, Resample):
            torch.nn.init.dirac_(part.conv.weight)
            part.conv.weight += 0.01 * torch.randn_like(part.conv.weight)
    model.quant_conv.bias[LATENT_CHANNELS:] = -6  # little noise at first, or nothing gets through


def freeze_attention(model: VAE) -> None:
    """The middle's attention stays the identity: it would see more cells in a large picture than it was trained on."""
    for half in (model.encoder, model.decoder):
        for parameter in half.mid["attn_1"].proj_out.parameters():
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_(False)


def train_vae(
    model: VAE, generator: torch.Generator, *, steps: int, batch: int, size_px: int, rate: float, log: Log
) -> None:
    """In place, on pictures of `size_px`; `rate` is the highest learning rate of a rise and a cosine fall."""
    device = next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.05)
    begun = perf_counter()
    for step in range(steps):
        pictures = torch.stack([draw_window(generator, size_px) for _ in range(batch)]).to(device)
        noise = torch.randn(batch, LATENT_CHANNELS, size_px // 8, size_px // 8, generator=generator).to(device)
        loss, psnr = loss_of(model, pictures, noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            log(
                f"vae, {size_px} px, step {step + 1}/{steps}: loss {float(loss):.4f}, {psnr:.1f} dB, {perf_counter() - begun:.0f} s"
            )


@torch.no_grad()
def standardise(model: VAE, generator: torch.Generator, pictures: int = 32) -> None:
    """Folds mean and deviation of each latent channel into the 1x1 convolutions, so that `SCALE_FACTOR` makes them 0 and 1."""
    device = next(model.parameters()).device
    means = torch.cat([model.moments(draw_batch(generator, 1)[0].to(device))[0] for _ in range(pictures)])
    shift, gain = means.mean((0, 2, 3)), 1 / (SCALE_FACTOR * means.std((0, 2, 3)))
    post = model.post_quant_conv
    post.bias += (post.weight[:, :, 0, 0] * shift).sum(1)
    post.weight /= gain[None, :, None, None]
    quant = model.quant_conv
    quant.weight[:LATENT_CHANNELS] *= gain[:, None, None, None]
    quant.bias[:LATENT_CHANNELS] = (quant.bias[:LATENT_CHANNELS] - shift) * gain
    quant.bias[LATENT_CHANNELS:] += 2 * gain.log()


@torch.no_grad()
def reconstruction_psnr(model: VAE, pictures: torch.Tensor) -> float:
    """In dB, of pictures `(batch, 3, height, width)` in [-1, 1]."""
    error = F.mse_loss(model.decode(model.moments(pictures)[0]).clamp(-1, 1), pictures)
    return -10 * math.log10(float(error) / 4)
