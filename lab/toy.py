"""`make toy`: trains the checkpoint that the repository carries, from fixed seeds, stage by stage.

Each stage leaves its result in the output folder and is skipped when that is there, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, strftime
from typing import Any

import torch

from demofusion_lib.standalone.memory import keep_freed_memory

from .checkpoint import save_checkpoint
from .data import CROPS_BELOW
from .scenes import draw_scene, render
from .text import TextEncoder
from .tokens import tokenize
from .unet import UNet
from .unet_training import LatentSet, UNetStage, encode_pictures, train_unet
from .vae import VAE
from .vae_training import freeze_attention, reconstruction_psnr, standardise, start_linear, train_vae

CONTEXT = 32
VAE_WIDTH, VAE_MULTIPLES = 64, (1, 1, 1, 1)
UNET_WIDTH, UNET_MULTIPLES, UNET_ATTENTION, UNET_HEADS = 64, (1, 1, 1), (1, 2), 4
VAE_STAGES = (
    {"steps": 1100, "batch": 8, "size_px": 64, "rate": 2e-3},
    {"steps": 150, "batch": 2, "size_px": 128, "rate": 5e-4},
)
PICTURES = 4400
UNET_STAGES = (
    UNetStage(steps=3200, batch=24, rate=1.5e-3),
    UNetStage(steps=2000, batch=24, rate=1e-3, crops_below=800, high=1.7),
    UNetStage(steps=1600, batch=24, rate=8e-4, crops_below=CROPS_BELOW, high=1.7),
)


Networks = dict[str, dict[str, torch.Tensor]]


def new_vae() -> VAE:
    return VAE(VAE_WIDTH, VAE_MULTIPLES)


def new_unet() -> UNet:
    return UNet(UNET_WIDTH, UNET_MULTIPLES, UNET_ATTENTION, CONTEXT, UNET_HEADS)


class Training:
    """One run: where it leaves its results, what it logs, and the device it runs on."""

    def __init__(self, folder: Path, device: torch.device):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device = folder, device
        self.begun = perf_counter()

    def log(self, text: str) -> None:
        line = f"{strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with (self.folder / "training.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        path = self.folder / f"{name}.pt"
        if not path.exists():
            begun = perf_counter()
            torch.save(make(), path)
            self.log(f"{name}: done in {perf_counter() - begun:.0f} s")
        return torch.load(path, map_location="cpu")

    def vae(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = new_vae().to(self.device)
        generator = torch.Generator().manual_seed(1)
        start_linear(model)
        freeze_attention(model)
        for stage in VAE_STAGES:
            train_vae(model, generator, log=self.log, **stage)  # type: ignore[arg-type]
        standardise(model, generator)
        for scale in (1, 2):
            pictures = torch.stack([render(draw_scene(generator), scale) * 2 - 1 for _ in range(8)])
            psnr = reconstruction_psnr(model, pictures.to(self.device))
            self.log(f"vae: whole scenes at {scale}x come back with {psnr:.1f} dB")
        return model.state_dict()

    def latents(self, vae: VAE) -> dict[str, object]:
        fast = copy.deepcopy(vae).to(self.device, memory_format=torch.channels_last)
        return vars(encode_pictures(fast, 2, PICTURES, self.log, self.device))

    def unet(self, data: LatentSet, stage: UNetStage, seed: int, start: Networks | None) -> Networks:
        """A stage of the UNet's training, from what the stage before made."""
        torch.manual_seed(seed)
        unet, text = new_unet().to(self.device), TextEncoder(CONTEXT).to(self.device)
        if start is not None:
            unet.load_state_dict(start["unet"])
            text.load_state_dict(start["text"])

        def report(step: int, unet: UNet, text: TextEncoder) -> None:
            torch.save({"unet": unet.state_dict(), "text": text.state_dict()}, self.folder / "unet-so-far.pt")

        generator = torch.Generator().manual_seed(seed)
        unet, text = train_unet(
            unet, text, data, tokenize, generator,
            stage=stage, log=self.log, device=self.device, report=report,
        )  # fmt: skip
        return {"unet": unet.state_dict(), "text": text.state_dict()}

    def run(self, checkpoint: Path) -> None:
        vae = new_vae()
        vae.load_state_dict(self.stage("vae", self.vae))
        data = LatentSet(**self.stage("latents", lambda: self.latents(vae)))
        networks: Networks | None = None
        for number, stage in enumerate(UNET_STAGES):
            networks = self.stage(f"unet-{number}", partial(self.unet, data, stage, 3 + number, networks))
        assert networks is not None
        size = save_checkpoint(checkpoint, networks["unet"], vae.state_dict(), networks["text"])
        self.log(f"{checkpoint.name}: {size / 1e6:.2f} MB, {perf_counter() - self.begun:.0f} s in all")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.toy", description="Trains the toy checkpoint.")
    parser.add_argument("--out", type=Path, default=Path("out/toy"), help="folder for its stages (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    args = parser.parse_args(argv)
    keep_freed_memory()
    Training(args.out, torch.device(args.device)).run(args.out / "toy.safetensors")


if __name__ == "__main__":
    main()
