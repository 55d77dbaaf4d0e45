"""Single files: tiny pipelines in the layout of the models' first code, and files of the real sizes that hold nothing.

`tests/data/layouts.json.gz` has every tensor's name and shape of SD 1.5, SD 2 and SDXL as the first code makes them.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LAYOUTS = Path(__file__).parents[1] / "data" / "layouts.json.gz"
Tensors = dict[str, torch.Tensor]

UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_CLIP_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight", "text_model.final_layer_norm.bias": "ln_final.bias",
}  # fmt: skip


def layout_of(family: str) -> dict[str, list[int]]:
    return json.loads(gzip.decompress(LAYOUTS.read_bytes()))[family]


def hollow_file(path: Path, shapes: Mapping[str, list[int]]) -> Path:
    """A file of these tensors in half precision, all zeros, which takes no room on the disk nor, mapped, in memory."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def save_single_file(pipeline: Any, path: Path, family: str, **extra: torch.Tensor) -> Path:
    """A pipeline as one file. family: `sd1`, `sd2` or `sdxl`."""
    prefixes = {
        "sd1": {"text_encoder": "cond_stage_model.transformer."},
        "sd2": {"text_encoder": "cond_stage_model.model."},
        "sdxl": {
            "text_encoder": "conditioner.embedders.0.transformer.",
            "text_encoder_2": "conditioner.embedders.1.model.",
        },
    }[family]
    tensors = {"model.diffusion_model.": unet_tensors(pipeline.unet), "first_stage_model.": vae_tensors(pipeline.vae)}
    for part, prefix in prefixes.items():
        encoder = getattr(pipeline, part)
        tensors[prefix] = open_clip_tensors(encoder) if prefix.endswith("model.") else text_state(encoder)
    joined = {prefix + name: tensor.contiguous() for prefix, part in tensors.items() for name, tensor in part.items()}
    save_file({**joined, **extra}, str(path))
    return path


def unet_tensors(unet: Any) -> Tensors:
    layers = unet.config.layers_per_block
    return {_unet_name(name, layers, unet): tensor for name, tensor in unet.state_dict().items()}


def _unet_name(name: str, layers: int, unet: Any) -> str:
    words = name.split(".")
    if words[0] == "mid_block":
        place = 2 * int(words[2]) + (words[1] == "attentions")
        return f"middle_block.{place}.{_inside(words[3:], words[1])}"
    if words[0] not in ("down_blocks", "up_blocks"):
        return _renamed(name, UNET_TOP)
    down, level, kind, number = words[0] == "down_blocks", int(words[1]), words[2], int(words[3])
    index = level * (layers + 1) + number + down
    side = "input_blocks" if down else "output_blocks"
    if kind == "downsamplers":
        return f"{side}.{index + layers}.0.op.{words[-1]}"
    if kind == "upsamplers":
        behind = 2 if hasattr(unet.up_blocks[level], "attentions") else 1
        return f"{side}.{index + layers}.{behind}.conv.{words[-1]}"
    return f"{side}.{index}.{int(kind == 'attentions')}.{_inside(words[4:], kind)}"


def _inside(words: list[str], kind: str) -> str:
    name = ".".join(words)
    return _renamed(name, UNET_RESNET) if kind == "resnets" else name


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for new, old in table.items():
        if name.startswith(f"{new}."):
            return old + name[len(new) :]
    return name


def vae_tensors(vae: Any) -> Tensors:
    levels = len(vae.config.block_out_channels)
    tensors = {}
    for name, tensor in vae.state_dict().items():
        words = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut").split(".")
        if words[1] == "mid_block" and words[2] == "attentions":
            if words[-1] == "weight" and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # linear here, a convolution there
            words[1:] = ["mid", "attn_1", _renamed(".".join(words[4:]), VAE_ATTENTION)]
        elif words[1] == "mid_block":
            words[1:4] = ["mid", f"block_{int(words[3]) + 1}"]
        elif words[1] in ("down_blocks", "up_blocks"):
            level = int(words[2]) if words[1] == "down_blocks" else levels - 1 - int(words[2])
            part = (
                ["block", words[4]] if words[3] == "resnets" else [words[3].removesuffix("rs").removesuffix("e") + "e"]
            )
            words[1:5] = [words[1].removesuffix("_blocks"), str(level), *part]
        tensors[".".join(words)] = tensor
    return tensors


def text_state(encoder: Any) -> Tensors:
    """By the names of before transformers 5, which dropped the first word of a model without projection."""
    names = {name: name if name.startswith("text_") else f"text_model.{name}" for name in encoder.state_dict()}
    return {names[name]: tensor for name, tensor in encoder.state_dict().items()}


def open_clip_tensors(encoder: Any) -> Tensors:
    state = text_state(encoder)
    tensors = {old: state.pop(new) for new, old in OPEN_CLIP_TOP.items()}
    if "text_projection.weight" in state:
        tensors["text_projection"] = state.pop("text_projection.weight").T
    for kind in ("weight", "bias"):
        for layer in range(encoder.config.num_hidden_layers):
            head = f"text_model.encoder.layers.{layer}.self_attn"
            three = [state.pop(f"{head}.{part}_proj.{kind}") for part in "qkv"]
            tensors[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(three)
    for name, tensor in state.items():
        layer, rest = name.removeprefix("text_model.encoder.layers.").split(".", 1)
        tensors[f"transformer.resblocks.{layer}.{_renamed(rest, OPEN_CLIP)}"] = tensor
    return tensors
