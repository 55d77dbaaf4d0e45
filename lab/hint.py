"""`make hint`: trains the toy's ControlNet, which places the object where its hint is white.

It sees whole scenes, and crops of larger renders with what of the hint lies in them: a window without white shows no object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel

from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.prompts import encode
from demofusion_lib.standalone.toy import TOY

from .data import Framed, draw_framed
from .unet_training import TIMESTEPS, Ema

SEED = 7
CONFIG: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D"), "mid_block_type": "UNetMidBlock2D",
    "block_out_channels": (64, 64, 64), "layers_per_block": 1, "norm_num_groups": 32, "cross_attention_dim": 32,
    "attention_head_dim": 4, "conditioning_embedding_out_channels": (8, 16, 32, 64),
}  # fmt: skip
"""It has the UNet's levels and no attention: what the prompt says the UNet knows itself."""
HIGH_NOISE = 1.7
"""Above 1 it dwells on high noise, where things find their places."""
LOUDEST = 10.0
"""The most that a sample counts: where there is much noise, little of the error is the picture's."""
ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class HintSet:
    """Latents of unit deviation `(count, 4, 32, 32)`, hints `(count, 1, 256, 256)` of 0 to 255, and the prompt of each."""

    latents: torch.Tensor
    hints: torch.Tensor
    prompts: list[str]
    labels: torch.Tensor


@torch.no_grad()
def make_set(model: Model, count: int) -> HintSet:
    def drawn(number: int) -> tuple[torch.Tensor, torch.Tensor, Framed]:
        framed = draw_framed(torch.Generator().manual_seed(SEED * 1_000_003 + number))
        return framed.picture(), framed.silhouette().mul(255).round().byte(), framed

    latents, hints, names, labels = [], [], {"": 0}, []
    with ThreadPoolExecutor() as pool:
        for first in range(0, count, ENCODED_AT_ONCE):
            numbers = range(first, min(first + ENCODED_AT_ONCE, count))
            pictures, silhouettes, framed = zip(*pool.map(drawn, numbers))
            mean = model.vae.encode(torch.stack(pictures).to(model.device)).latent_dist.mean
            latents.append(model.scaled(mean))
            hints.append(torch.stack(silhouettes).to(model.device))
            labels += [names.setdefault(one.prompt, len(names)) for one in framed]
    return HintSet(torch.cat(latents), torch.cat(hints), list(names), torch.tensor(labels))


def new_net(unet: Any) -> ControlNetModel:
    """It begins with the UNet's own weights where it has its layers, and says nothing."""
    torch.manual_seed(SEED)
    net = ControlNetModel(**CONFIG)
    own, theirs = net.state_dict(), unet.state_dict()
    net.load_state_dict({name: theirs.get(name, value) for name, value in own.items()})
    return net.to(unet.device)


def loss_of(model: Model, net: Any, x0: torch.Tensor, hint: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, context: Any) -> torch.Tensor:  # fmt: skip
    level = model.alphas_cumprod.to(x0)[t].view(-1, 1, 1, 1)
    x = level.sqrt() * x0 + (1 - level).sqrt() * noise
    down, mid = net(x, t, encoder_hidden_states=context, controlnet_cond=hint, return_dict=False)
    eps = model.unet(
        x, t, encoder_hidden_states=context, down_block_additional_residuals=down, mid_block_additional_residual=mid,
        return_dict=False,
    )[0]  # fmt: skip
    weight = (1 / level).clamp(max=LOUDEST).view(-1)
    return (F.mse_loss(eps, noise, reduction="none").mean((1, 2, 3)) * weight).mean()


def train(model: Model, data: HintSet, *, steps: int, batch: int, rate: float) -> tuple[Any, list[float]]:
    """The running mean of the network's weights, and the loss of each hundred steps."""
    net, device = new_net(model.unet), model.device
    model.unet.requires_grad_(False)
    with torch.no_grad():
        contexts = encode(model, data.prompts).context
    optimiser = torch.optim.AdamW(net.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.05)
    generator, mean = torch.Generator().manual_seed(SEED), Ema(net)
    losses, told, begun = list[torch.Tensor](), list[float](), perf_counter()
    for step in range(steps):
        chosen = torch.randint(len(data.latents), (batch,), generator=generator)
        t = (TIMESTEPS * torch.rand(batch, generator=generator) ** (1 / HIGH_NOISE)).long().to(device)
        noise = torch.randn(batch, *data.latents.shape[1:], generator=generator).to(device)
        labels, chosen = data.labels[chosen].to(device), chosen.to(device)
        hint = data.hints[chosen].float().div(255).expand(-1, 3, -1, -1)
        loss = loss_of(model, net, data.latents[chosen], hint, t, noise, contexts[labels])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean.update(step)
        losses.append(loss.detach())
        if step % 100 == 99 or step == steps - 1:
            told.append(float(torch.stack(losses).mean()))
            losses.clear()
            print(f"hint, step {step + 1}/{steps}: loss {told[-1]:.4f}, {perf_counter() - begun:.0f} s", flush=True)
    return mean.mean.eval(), told


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.hint", description="Trains the toy's ControlNet.")
    parser.add_argument("--out", type=Path, default=Path("out/hint"), help="folder of the network (%(default)s)")
    parser.add_argument("--pictures", type=int, default=6000, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=48, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="(%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    args = parser.parse_args(argv)
    keep_freed_memory()
    begun = perf_counter()
    model = load_model(TOY, torch.device(args.device), torch.float32)
    data = make_set(model, args.pictures)
    print(f"{args.pictures} pictures encoded, {perf_counter() - begun:.0f} s", flush=True)
    net, losses = train(model, data, steps=args.steps, batch=args.batch, rate=args.rate)
    net.half().save_pretrained(str(args.out), safe_serialization=True)
    log = {
        "seconds": round(perf_counter() - begun),
        "steps": args.steps,
        "batch": args.batch,
        "pictures": args.pictures,
    }
    (args.out / "training.json").write_text(json.dumps({**log, "losses": losses}), encoding="utf-8")


if __name__ == "__main__":
    main()
