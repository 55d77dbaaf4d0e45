"""`make toy2`: trains the second toy from the first, from fixed seeds, stage by stage, as `lab.toy` does.

The autoencoder stays the first one's. The UNet and the prompt's encoder are trained further.

No checkpoint of it is committed: after these stages it draws both grounds, in patches, and does not heed the word. Of a latent
of either ground a window shows which it is up to t = 800 and more, so that the word has next to nothing to tell below.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import load_file

from demofusion_lib.standalone.toy import TOY_FILE

from ..checkpoint import PREFIXES, save_checkpoint
from ..data import CROPS_BELOW, draw_grounded_picture, draw_grounded_scene
from ..toy import Networks, Training, new_vae, train
from ..unet_training import LatentSet, UNetStage, encode_pictures
from ..vae import VAE

PICTURES = 600
UNET_STAGES = (
    UNetStage(steps=300, batch=24, rate=1e-3, crops_below=CROPS_BELOW, high=1.3),
    UNetStage(steps=200, batch=24, rate=5e-4, crops_below=CROPS_BELOW, high=1.3),
    UNetStage(steps=300, batch=24, rate=1e-3, crops_below=CROPS_BELOW, high=1.7),
    UNetStage(steps=120, batch=24, rate=5e-4, crops_below=CROPS_BELOW, high=1.7),
)
TRUE_WORDS = 2
"""The stage whose prompts all tell the truth: a word that is right in two thirds tells a twelfth of what a right one does,
and after two stages of those the textures were there, but not in its command. The last stage takes a third of it back."""
SEED = 12


def first_toy(file: Path = TOY_FILE) -> Networks:
    """The first toy's parts, by name, in float32."""
    tensors = load_file(file)
    parts = {
        part: {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}
        for part, prefix in PREFIXES.items()
    }
    del parts["text"]["embeddings.position_ids"]
    return parts


def told_truly(data: LatentSet) -> LatentSet:
    """The same pictures, as `Training2.grounds` has drawn them, with the word of the ground that each shows."""
    prompts = {"": 0}
    labels = []
    for number, label in enumerate(data.labels.tolist()):
        shown = draw_grounded_scene(torch.Generator().manual_seed(SEED * 1_000_003 + number)).prompt
        labels.append(prompts.setdefault(shown if data.prompts[label] else "", len(prompts)))
    return replace(data, prompts=list(prompts), labels=torch.tensor(labels))


class Training2(Training):
    def grounds(self, vae: VAE) -> dict[str, object]:
        return vars(encode_pictures(vae, SEED, PICTURES, self.log, self.device, draw_grounded_picture))

    def run(self, checkpoint: Path) -> None:
        networks = first_toy()
        vae = new_vae().to(self.device, memory_format=torch.channels_last)
        vae.load_state_dict(networks["vae"])
        data = LatentSet(**self.stage("latents", partial(self.grounds, vae)))
        for number, stage in enumerate(UNET_STAGES):
            seed = SEED + 1 + number
            shown = told_truly(data) if number == TRUE_WORDS else data
            networks = self.stage(f"unet-{number}", partial(self.unet, shown, stage, seed, networks))
        size = save_checkpoint(checkpoint, networks["unet"], vae.state_dict(), networks["text"])
        self.log(f"{checkpoint.name}: {size / 1e6:.2f} MB, {perf_counter() - self.begun:.0f} s in all")


if __name__ == "__main__":
    train(Training2, "toy2")
