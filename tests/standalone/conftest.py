"""Real diffusers classes at a tiny size, with random weights."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

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

from demofusion_lib.standalone import cli
from demofusion_lib.standalone.drawing import Drawing
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
    """Of several channels to a group: one to each would take the time and SDXL's sizes, which shift channels, out again."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=context, attention_head_dim=2,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **extra,
    )  # fmt: skip


def xl_unet() -> UNet2DConditionModel:
    return unet(
        40, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8
    )


def vae(**extra: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **extra,
    )  # fmt: skip


def ddim(**extra: object) -> DDIMScheduler:
    return DDIMScheduler(**LEVELS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **extra)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(str(folder))


def sd_pipeline(tokenizer: CLIPTokenizer, **parts: Any) -> StableDiffusionPipeline:
    given = {
        "vae": vae(), "text_encoder": CLIPTextModel(text_config(16)), "unet": unet(16), "scheduler": ddim(), **parts,
    }  # fmt: skip
    return StableDiffusionPipeline(
        **given, tokenizer=tokenizer, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def sdxl_pipeline(tokenizer: CLIPTokenizer, **parts: Any) -> StableDiffusionXLPipeline:
    given = {
        "vae": vae(), "text_encoder": CLIPTextModel(text_config(16)), "unet": xl_unet(), "scheduler": ddim(),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(24)), **parts,
    }  # fmt: skip
    return StableDiffusionXLPipeline(**given, tokenizer=tokenizer, tokenizer_2=tokenizer)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: CLIPTokenizer) -> dict[str, Path]:
    """Saved pipelines, one for each kind of model. `sdxl` encodes an empty negative, `sdxl-zeros` takes zeros for it."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    pipelines = {
        "sd": sd_pipeline(tokenizer),
        "sd-v": sd_pipeline(tokenizer, scheduler=ddim(prediction_type="v_prediction")),
        "sdxl": sdxl_pipeline(tokenizer, force_zeros_for_empty_prompt=False),
        "sdxl-zeros": sdxl_pipeline(
            tokenizer, vae=vae(latents_mean=[1.0, -2.0, 3.0, 0.5], latents_std=[4.0, 3.0, 5.0, 2.0])
        ),
        "sd-sample": sd_pipeline(tokenizer, scheduler=ddim(prediction_type="sample")),
        "lcm": sd_pipeline(tokenizer, unet=unet(16, time_cond_proj_dim=33)),
    }
    torch.nn.init.normal_(pipelines["lcm"].unet.time_embedding.cond_proj.weight)  # zeros would not listen
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(root / name)
    return {name: root / name for name in pipelines}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: load_model(str(folders[name]), CPU, torch.float32) for name in ("sd", "sd-v", "sdxl")}


Changed = Callable[..., Path]


@pytest.fixture
def changed(tmp_path: Path, folders: dict[str, Path]) -> Changed:
    """A copy of the folder `sd` with another index, or with another scheduler's config."""

    def change(scheduler: dict[str, Any] | None = None, **index: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(folders["sd"], folder)
        file = folder / "model_index.json"
        if scheduler is not None:
            index["scheduler"] = ["diffusers", scheduler["_class_name"]]
            (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        file.write_text(json.dumps({**json.loads(file.read_text()), **index}))
        return folder

    return change


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another machine fails the test, even where it is caught."""
    tried: list[object] = []

    def refuse(self: socket.socket, address: object) -> NoReturn:
        tried.append(address)
        raise OSError("no network")

    def look_up(host: object, *args: object, **kwargs: object) -> NoReturn:
        tried.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield  # type: ignore[misc]
    assert not tried


@pytest.fixture
def run(tmp_path: Path, folders: dict[str, Path]) -> Callable[..., int]:
    """Runs the command in this process, on the tiny model: the whole method, unless a preset is named."""

    def command(*flags: str, prompt: str = "a red disc") -> int:
        model, out = str(folders["sd"]), str(tmp_path / "out")
        given = ["--model", model, "--sampling-steps", "3", "--out", out, "--device", "cpu", "--preset", "none"]
        return cli.main([prompt, *given, *flags])

    return command


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What phases begin with: enlarged, and as it was; they end with the first."""
    seen = []

    def phase(self: Drawing, wanted: object, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        seen.append((previous, before))
        self.evaluations = 0
        return previous

    monkeypatch.setattr(Drawing, "_phase", phase)
    return seen
