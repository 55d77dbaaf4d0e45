"""What the published model families are made of, for single files: nothing need be looked up for them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .toy import write_tokenizer

FOLDER = Path(__file__).with_name("configs")
"""The diffusers configs of each family's parts, as published with its first model: one file a family, by part."""
FAMILIES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sd2-v": "SD 2.x at 768 px (v-prediction)", "sdxl": "SDXL"}
SUPPORTED = "SD 1.x, SD 2.x and SDXL"

Parts = dict[str, dict[str, Any]]
Shapes = Mapping[str, tuple[int, ...]]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
UNET_INPUT = f"{UNET}input_blocks.0.0.weight"
TEXT = {
    "sdxl": "conditioner.embedders.1.model.",
    "sd2": "cond_stage_model.model.",
    "sd1": "cond_stage_model.transformer.",
}
"""Where a file of each family keeps the text encoder that the others lack."""
EDM_KEYS = ("edm_mean", "edm_vpred.sigma_max")


def read_parts(file: Path) -> Parts:
    """A file of configs; it may say only in what it differs from the one it is `like`."""
    parts = json.loads(file.read_text(encoding="utf-8"))
    if "like" not in parts:
        return parts
    merged = read_parts(file.with_name(f"{parts.pop('like')}.json"))
    for part, config in parts.items():
        merged[part] = {**merged.get(part, {}), **config}
    return merged


def published(family: str) -> Parts:
    return read_parts(FOLDER / f"{family}.json")


@contextlib.contextmanager
def config_folder(parts: Parts) -> Iterator[Path]:
    """A diffusers folder without weights, for as long as loading takes."""
    files = {"pipeline": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, config in parts.items():
            if part.startswith("tokenizer"):
                continue
            file = folder / files.get(part, f"{part}/config.json")
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(config), encoding="utf-8")
        for part in parts["pipeline"]:
            if part.startswith("tokenizer"):
                write_tokenizer(folder / part)
                _pad_with(folder / part, parts.get(part, {}).get("pad_token"))
        yield folder


def _pad_with(tokenizer: Path, pad: str | None) -> None:
    """OpenCLIP's encoders were trained with `!`, token 0, behind the end of a text; OpenAI's with the end again."""
    for file in (tokenizer / "special_tokens_map.json", tokenizer / "tokenizer_config.json"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**settings, "pad_token": pad or settings["pad_token"]}), encoding="utf-8")


def family_of(shapes: Shapes) -> str:
    """`sd1`, `sd2` (either prediction) or `sdxl`, by the names of a file's tensors.

    Raises UserError for files of other models, of parts only, and of models that want more than a noisy latent.
    """

    def holds(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in shapes)

    if UNET_INPUT not in shapes:
        raise UserError(f"holds no UNet of {SUPPORTED} in the layout of their first code, supported: whole models")
    channels = shapes[UNET_INPUT][1]
    if channels != 4:
        raise UserError(f"takes {channels} channels, supported: 4 (no inpainting, no pictures or depth as input)")
    if any(key in shapes for key in EDM_KEYS):
        raise UserError("was trained on EDM's noise levels, supported: DDPM's 1000 steps")
    for family, prefix in TEXT.items():
        if holds(prefix):
            if not holds(VAE):
                raise UserError("holds no VAE, supported: whole models")
            return family
    if holds("conditioner.embedders.0."):
        raise UserError(f"has the text encoder of an SDXL refiner or of SD Turbo, supported: {SUPPORTED}")
    raise UserError(f"holds no text encoder of {SUPPORTED}, supported: whole models")


def check_size(shapes: Shapes, unet: Collection[str]) -> None:
    """The layout keeps a UNet's tensors one to one: more of them than were loaded would be left out without a word."""
    held = sum(name.startswith(UNET) for name in shapes)
    if held != len(unet):
        raise UserError(
            f"holds a UNet of {held} tensors where its family's has {len(unet)}, "
            "allowed with --config, a diffusers folder of its own configs"
        )


def shapes_in(path: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a `.safetensors` file, by name; none is read."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping
