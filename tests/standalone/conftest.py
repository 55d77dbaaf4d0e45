"""Real diffusers classes at a tiny size, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.toy import write_tokenizer

CPU = torch.device("cpu")
LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2, projection_dim=width,
        bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, hidden_act="quick_gelu",
    )  # fmt: skip


def unet(context: int, **extra: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=context, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **extra,
    )  # fmt: skip


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved pipelines: `sd`, `sd-v` (v-prediction) and `sdxl`."""
    root = tmp_path_factory.mktemp("models")
    write_tokenizer(root / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(str(root / "tokenizer"))
    torch.manual_seed(5)
    for name, prediction in (("sd", "epsilon"), ("sd-v", "v_prediction")):
        scheduler = DDIMScheduler(
            **LEVELS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction
        )
        StableDiffusionPipeline(
            vae(),
            CLIPTextModel(text_config(16)),
            tokenizer,
            unet(16),
            scheduler,
            None,
            None,
            requires_safety_checker=False,
        ).save_pretrained(root / name)
    scheduler = DDIMScheduler(**LEVELS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    wide = unet(
        40, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8
    )
    StableDiffusionXLPipeline(
        vae(), CLIPTextModel(text_config(16)), CLIPTextModelWithProjection(text_config(24)), tokenizer, tokenizer, wide,
        scheduler, force_zeros_for_empty_prompt=False,
    ).save_pretrained(root / "sdxl")  # fmt: skip
    return {name: root / name for name in ("sd", "sd-v", "sdxl")}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: load_model(str(folder), CPU, torch.float32) for name, folder in folders.items()}
