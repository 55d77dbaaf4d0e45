"""`--controlnet` and `--hint`: what is given in files, as controls that the engine takes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..hints import covering, kind_of
from ..setting import quoted
from .asked_controlnets import asked_for, folder_of_net, refused
from .controls import Control
from .errors import UserError, first_line
from .given import read_picture
from .models import Model, quiet
from .names import AUTO
from .weights import choose_weights

SAME = (
    "cross_attention_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
"""What a ControlNet is told as the UNet is."""


@dataclass(frozen=True)
class Wanted:
    """A ControlNet as the command line names it, with its hint `(1, 3, height, width)` in [0, 1]. digest: of the hint's values."""

    name: str
    path: str
    hint: torch.Tensor
    digest: str
    kind: str
    scale: float
    start: float
    end: float

    def report(self) -> dict[str, Any]:
        return {
            "controlnet": self.name, "hint": self.path, "kind": self.kind, "scale": self.scale, "start": self.start,
            "end": self.end, "digest": self.digest,
        }  # fmt: skip


def read_wanted(args: Namespace) -> tuple[list[Wanted], list[str]]:
    """All but the networks' weights, and what is to be told of the hints. Raises UserError."""
    found, notes = [], list[str]()
    for one in asked_for(args):
        wanted, told = _read(one)
        found.append(wanted)
        notes += told
    return found, notes


def _read(one: Mapping[str, Any]) -> tuple[Wanted, tuple[str, ...]]:
    try:
        given = read_picture(one["hint"])
    except UserError as error:
        raise UserError(str(error).replace("image is", "hint is", 1)) from error
    pixels = given.pixels[None].add(1).div(2)
    kind = kind_of(pixels) if one["hint_kind"] == AUTO else one["hint_kind"]
    wanted = Wanted(
        one["controlnet"],
        str(one["hint"]),
        pixels,
        given.digest,
        kind,
        one["controlnet_scale"],
        one["controlnet_start"],
        one["controlnet_end"],
    )
    return wanted, given.notes


def load_controls(wanted: Sequence[Wanted], model: Model) -> list[Control]:
    """Each network once. Raises UserError for one that is damaged or was made for another UNet."""
    nets: dict[str, Any] = {}
    for one in wanted:
        if one.name not in nets:
            nets[one.name] = _load(one, model)
    return [
        Control(nets[one.name], one.hint, one.kind, one.scale, one.start, one.end, folder_of_net(one.name).name)
        for one in wanted
    ]  # fmt: skip


def _load(one: Wanted, model: Model) -> Any:
    from diffusers import ControlNetModel

    try:
        # the folder is the part here, the one around it the model
        folder = folder_of_net(one.name).absolute()
        variant, safe = choose_weights(folder.parent, [folder.name])
        with quiet():
            net = ControlNetModel.from_pretrained(
                str(folder), variant=variant, use_safetensors=True if safe else None, local_files_only=True,
                torch_dtype=model.dtype,
            )  # fmt: skip
        missing = [name for name, tensor in net.named_parameters() if tensor.is_meta]
        if missing:
            raise UserError(f"lacks {len(missing)} tensors ({missing[0]})")
        check_made_for(net, model)
        return net.to(model.device).eval()
    except UserError as error:
        raise UserError(f"controlnet is {quoted(one.name)}, which {error}") from error
    except Exception as error:  # strangers' files make the libraries raise whatever they please
        raise refused(one.name, f"can't be loaded ({first_line(error)})") from error


def check_made_for(net: Any, model: Model) -> None:
    """Raises UserError, in words that go on behind the network's name, where its answers don't fit the UNet's layers."""
    unet, own = model.unet.config, net.config
    theirs, mine = skips(unet), [layer.out_channels for layer in net.controlnet_down_blocks]
    if mine != theirs or net.conv_in.in_channels != unet.in_channels:
        raise UserError(f"was made for another UNet: it has layers of {mine} channels, and {model.name}'s of {theirs}")
    for name in SAME:
        if name == "cross_attention_dim" and not any("CrossAttn" in kind for kind in own.down_block_types):
            continue
        if getattr(own, name) != getattr(unet, name):
            values = f"{quoted(getattr(own, name))}, and {model.name}'s {quoted(getattr(unet, name))}"
            raise UserError(f"was made for another UNet: its {name} is {values}")


def skips(unet: Any) -> list[int]:
    """The channels of the layers that a UNet hands over to its other half."""
    channels, layers = list(unet.block_out_channels), unet.layers_per_block
    each = [layers] * len(channels) if isinstance(layers, int) else list(layers)
    found = [channels[0]]
    for level, (width, count) in enumerate(zip(channels, each)):
        found += [width] * (count + (level < len(channels) - 1))
    return found


def notes_of(wanted: Sequence[Wanted], shape: tuple[int, int]) -> list[str]:
    """What is done with hints of another shape than the picture's, `(height, width)`."""
    notes = []
    for one in wanted:
        size = one.hint.shape[-2], one.hint.shape[-1]
        part = covering(size, shape)
        if part != size:
            notes.append(
                f"of the hint's {size[1]}x{size[0]} px the middle {part[1]}x{part[0]} are used: the picture's shape"
            )
    return notes
