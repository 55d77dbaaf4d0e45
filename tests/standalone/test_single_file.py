"""Single files: the published families offline, what their keys say, other configs, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import (
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from demofusion_lib.standalone import configs
from demofusion_lib.standalone.configs import FAMILIES, config_folder, family_of, published
from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.toy import CONFIG_FILE, TOY_FILE

from .conftest import CPU, LEVELS, sd_pipeline, text_config
from .layouts import hollow_file, layout_of, save_single_file
from .test_loading import load, refusal, same
from .test_models import base, error, order, theirs

PARAMETERS = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}
"""Of the UNets, as published."""
ENCODERS = {"sd1": [(12, "quick_gelu")], "sd2": [(16, "gelu")], "sdxl": [(12, "quick_gelu"), (20, "gelu")]}
"""Heads and activation of the text encoders, which no shape tells: CLIP ViT-L/14, OpenCLIP ViT-H/14, ViT-bigG/14."""
PADS = {"sd1": [49407], "sd2": [0], "sdxl": [49407, 0]}
ORIGINAL: dict[str, dict[str, Any]] = {
    "sd1": {"channel_mult": [1, 2, 4, 4], "attention_resolutions": [4, 2, 1], "transformer_depth": 1, "num_heads": 8, "context_dim": 768},
    "sd2": {
        "channel_mult": [1, 2, 4, 4], "attention_resolutions": [4, 2, 1], "transformer_depth": 1, "num_head_channels": 64,
        "context_dim": 1024, "use_linear_in_transformer": True,
    },
    "sdxl": {
        "channel_mult": [1, 2, 4], "attention_resolutions": [4, 2], "transformer_depth": [1, 2, 10], "num_head_channels": 64,
        "context_dim": 2048, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816,
    },
}  # fmt: skip
"""The UNets in the words of the first code's yaml files: v1-inference, v2-inference, sd_xl_base."""
SCALES = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


@pytest.mark.skipif(sys.platform == "win32", reason="no files with holes")
@pytest.mark.parametrize("family", PARAMETERS)
def test_files_of_the_published_sizes_load_offline(family: str, tmp_path: Path, no_network: None) -> None:
    """Every tensor of the first code's model finds its place, and none is left out. SD 2's prediction is told: it costs a run."""
    shapes = {**layout_of(family), "model_ema.decay": [1], "alphas_cumprod": [1000]}
    file = hollow_file(tmp_path / f"{family}.safetensors", shapes)
    model = load_model(str(file), CPU, torch.float16, prediction="epsilon")
    assert sum(tensor.numel() for tensor in model.unet.parameters()) == PARAMETERS[family]
    config = model.unet.config
    assert model.native_px == {"sd1": 512, "sd2": 512, "sdxl": 1024}[family]
    assert [(encoder.config.num_attention_heads, encoder.config.hidden_act) for _, encoder in model.text] == ENCODERS[
        family
    ]
    assert [tokenizer.pad_token_id for tokenizer, _ in model.text] == PADS[family]
    assert model.zero_empty is model.is_sdxl is (family == "sdxl") and config.in_channels == 4
    assert torch.equal(model.alphas_cumprod, DDIMScheduler(**LEVELS).alphas_cumprod.double())


@pytest.mark.parametrize("family", ORIGINAL)
def test_the_configs_say_what_diffusers_reads_out_of_the_first_codes(family: str) -> None:
    """Its own conversion of the original yaml, for what no shape tells too: the heads."""
    unet = {"in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2, **ORIGINAL[family]}
    vae = {"z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    params = {
        "unet_config": {"params": unet}, "first_stage_config": {"params": {"ddconfig": vae}}, "scale_factor": SCALES[family],
    }  # fmt: skip
    tensors = {name: torch.empty(shape, device="meta") for name, shape in layout_of(family).items()}
    original = {"model": {"params": params}}
    ours = published(family)
    for part, theirs_of in (
        ("unet", create_unet_diffusers_config_from_ldm),
        ("vae", create_vae_diffusers_config_from_ldm),
    ):
        right = theirs_of(original, tensors)
        if family == "sd2":  # 768 px, diffusers' only guess for it
            right.pop("sample_size")
        given = json.loads(json.dumps(right), object_hook=lambda d: {k: v for k, v in d.items() if v is not None})
        for name, value in given.items():
            assert ours[part].get(name, DEFAULTS.get(name)) == value, (part, name)


DEFAULTS = {"transformer_layers_per_block": 1, "use_linear_projection": False}
"""Of diffusers' classes."""


def test_the_second_sd2_differs_in_what_it_was_trained_for() -> None:
    first, second = published("sd2"), published("sd2-v")
    assert (first["unet"]["sample_size"], second["unet"]["sample_size"]) == (64, 96)
    assert second["scheduler"].pop("prediction_type") == "v_prediction"
    assert first["scheduler"].pop("prediction_type") == "epsilon" and first["scheduler"] == second["scheduler"]


# from here on: tiny models in the families' layouts, with tiny configs in the place of the published ones


@pytest.fixture
def tiny(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Pipelines by family, and their configs as those that the package ships."""
    sdxl = StableDiffusionXLPipeline.from_pretrained(folders["sdxl-zeros"])
    sd = StableDiffusionPipeline.from_pretrained(folders["sd"], safety_checker=None)
    torch.manual_seed(6)
    encoder = CLIPTextModel(CLIPTextConfig(**{**text_config(16).to_dict(), "hidden_act": "gelu", "pad_token_id": 0}))
    sd2 = sd_pipeline(sd.tokenizer, text_encoder=encoder, unet=sd.unet, vae=sd.vae)
    shipped = tmp_path / "configs"
    shipped.mkdir()
    for family, pipeline in {"sd1": sd, "sd2": sd2, "sdxl": sdxl}.items():
        parts = {name: part for name, part in pipeline.components.items() if hasattr(part, "state_dict")}
        written = {
            name: json.loads((part.config if name.startswith("text") else part).to_json_string())
            for name, part in parts.items()
        }
        written |= {name: config for name, config in published(family).items() if name not in parts}
        (shipped / f"{family}.json").write_text(json.dumps(written))
    second = {"like": "sd2", "unet": {"sample_size": 12}, "scheduler": {"prediction_type": "v_prediction"}}
    (shipped / "sd2-v.json").write_text(json.dumps(second))
    monkeypatch.setattr(configs, "FOLDER", shipped)
    return {"sd1": sd, "sd2": sd2, "sdxl": sdxl}


def saved(tiny: dict[str, Any], family: str, tmp_path: Path, **extra: torch.Tensor) -> Path:
    return save_single_file(tiny[family], tmp_path / f"{family}.safetensors", family, **extra)


def test_a_file_draws_what_its_folder_draws(
    tiny: dict[str, Any], folders: dict[str, Path], tmp_path: Path, no_network: None
) -> None:
    model = load(saved(tiny, "sd1", tmp_path))
    assert model.name == "sd1" and model.prediction == "epsilon"
    for negative in ("", "blue"):
        wanted = order(negative=negative)
        assert error(base(model, wanted), theirs(folders["sd"], wanted)) < 1e-5


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_tensor_finds_its_place(family: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    model = load(saved(tiny, family, tmp_path), prediction="epsilon")
    loaded = [model.unet, model.vae, *(encoder for _, encoder in model.text)]
    parts = ["unet", "vae", "text_encoder", "text_encoder_2"]
    for part, module in zip(parts, loaded):
        right = getattr(tiny[family], part).state_dict()
        state = module.state_dict()
        assert {name: tuple(t.shape) for name, t in state.items()} == {
            name: tuple(t.shape) for name, t in right.items()
        }
        assert all(torch.equal(state[name], right[name]) for name in right), part


V_KEYS = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
ZERO_SNR = {**LEVELS, "rescale_betas_zero_snr": True}


def test_sdxl_with_the_keys_of_v_prediction_and_zero_terminal_snr(tiny: dict[str, Any], tmp_path: Path) -> None:
    file = saved(tiny, "sdxl", tmp_path, **V_KEYS)
    model = load(file)
    levels = DDIMScheduler(**ZERO_SNR).alphas_cumprod.double()
    assert model.prediction == "v_prediction"
    assert torch.equal(model.alphas_cumprod, levels) and levels[-1] < 1e-7
    folder = tmp_path / "folder"
    pipeline = tiny["sdxl"]
    pipeline.scheduler = DDIMScheduler(
        **ZERO_SNR, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    pipeline.tokenizer_2 = model.text[1][0]
    pipeline.save_pretrained(folder)
    for wanted in (order(), order(negative="")):
        right = theirs(folder, wanted)
        assert error(base(model, wanted), right) < 1e-4
        assert error(base(load(file, config="sdxl"), wanted), right) > 0.1  # what the keys overrule


def test_one_of_the_keys_and_the_flag(tiny: dict[str, Any], tmp_path: Path) -> None:
    plain, spread = (DDIMScheduler(**kind).alphas_cumprod.double() for kind in (LEVELS, ZERO_SNR))
    v = saved(tiny, "sdxl", tmp_path, v_pred=torch.empty(0))
    assert load(v).prediction == "v_prediction" and torch.equal(load(v).alphas_cumprod, plain)
    assert load(v, prediction="epsilon").prediction == "epsilon"
    snr = saved(tiny, "sdxl", tmp_path, ztsnr=torch.empty(0))  # nothing can be told from noise alone as epsilon
    assert load(snr).prediction == "epsilon" and torch.equal(load(snr).alphas_cumprod, plain)
    told = load(snr, prediction="v_prediction")
    assert told.prediction == "v_prediction" and torch.equal(told.alphas_cumprod, spread)


def test_the_two_sd2_are_told_apart_by_what_they_answer(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Noise, about the input itself, or the negative of a picture, far below it."""
    out = tiny["sd2"].unet.conv_out
    out.weight.data.zero_()
    for answer, prediction, side in ((0.5, "epsilon", 64), (0.0, "epsilon", 64), (-2.0, "v_prediction", 96)):
        out.bias.data.fill_(answer)
        model = load(saved(tiny, "sd2", tmp_path))
        assert (model.prediction, model.native_px) == (prediction, side), answer
    assert load(tmp_path / "sd2.safetensors", prediction="epsilon").native_px == 64
    assert load(tmp_path / "sd2.safetensors", config="sd2").prediction == "epsilon"
    out.bias.data.fill_(0.5)
    for flag in ({"config": "sd2-v"}, {"prediction": "v_prediction"}):
        model = load(saved(tiny, "sd2", tmp_path), **flag)
        assert (model.prediction, model.native_px) == ("v_prediction", 96)


def test_a_config_of_its_own(tiny: dict[str, Any], folders: dict[str, Path], tmp_path: Path, no_network: None) -> None:
    """A folder's; here one that says v-prediction."""
    file = saved(tiny, "sd1", tmp_path)
    model = load(file, config=str(folders["sd-v"]))
    assert model.prediction == "v_prediction" and same(model, load(folders["sd"]))


def test_a_file_of_another_architecture_wants_its_configs(tmp_path: Path, no_network: None) -> None:
    """The toy is in SD 1's layout, of other sizes."""
    file = tmp_path / "one file.safetensors"
    file.write_bytes(TOY_FILE.read_bytes())
    message = refusal(file)
    assert "which can't be read as SD 1.x (" in message and "allowed: --config with a diffusers folder" in message
    with config_folder(configs.read_parts(CONFIG_FILE)) as folder:
        model = load(file, config=str(folder))
    assert model.name == "one file" and not model.is_sdxl
    wanted = order(steps=3)
    assert error(base(model, wanted), base(load("toy"), wanted)) < 1e-5
    message = refusal(file, config="nowhere")
    assert "'nowhere' as its config, allowed: sd1, sd2, sd2-v, sdxl, a diffusers folder" in message
    assert "is a folder without model_index.json" in refusal(file, config=str(tmp_path))


def changed_file(file: Path, drop: str = "", **extra: torch.Tensor) -> Path:
    tensors = {name: tensor for name, tensor in load_file(file).items() if not drop or drop not in name}
    save_file({**tensors, **extra}, file)
    return file


BROKEN: dict[str, tuple[str, dict[str, torch.Tensor], str]] = {
    "no VAE": ("first_stage_model.", {}, "holds no VAE, supported: whole models"),
    "no text encoder": ("cond_stage_model.", {}, "holds no text encoder of SD 1.x"),
    "no UNet": ("model.diffusion_model.", {}, "holds no UNet of SD 1.x"),
    "a tensor of the UNet lost": (
        "model.diffusion_model.out.2.bias",
        {},
        "tensors where its family's has|it lacks some of the tensors",
    ),
    "a tensor of the VAE lost": (
        "first_stage_model.decoder.conv_in.bias",
        {},
        "lacks 1 tensors of its vae (decoder.conv_in.bias)|it lacks some of the tensors",
    ),
    "a tensor of the encoder lost": (
        "text_model.final_layer_norm.bias",
        {},
        "lacks 1 tensors of its text_encoder|it lacks some of the tensors",
    ),
    "a UNet told its guidance": (
        "",
        {"model.diffusion_model.time_embed.cond_proj.weight": torch.zeros(8, 8)},
        "tensors where its family's has",
    ),
    "EDM": ("", {"edm_mean": torch.zeros(4)}, "was trained on EDM's noise levels, supported: DDPM's"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_lack_or_hold_something_else(case: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    drop, extra, words = BROKEN[case]
    message = refusal(changed_file(saved(tiny, "sd1", tmp_path), drop, **extra))
    assert any(one in message for one in words.split("|")), message


UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"
OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "inpainting": (
        {UNET_IN: (320, 9, 3, 3), "cond_stage_model.transformer.x": ()},
        "takes 9 channels, supported: 4 (no inp",
    ),
    "SDXL inpainting": ({UNET_IN: (320, 9, 3, 3), "conditioner.embedders.1.model.x": ()}, "takes 9 channels"),
    "pix2pix": ({UNET_IN: (320, 8, 3, 3), "cond_stage_model.transformer.x": ()}, "takes 8 channels"),
    "SDXL refiner": (
        {UNET_IN: (384, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (1280,)},
        "an SDXL refiner or of SD Turbo",
    ),
    "AltDiffusion": (
        {UNET_IN: (320, 4, 3, 3), "cond_stage_model.roberta.x": (), "first_stage_model.x": ()},
        "no text encoder of",
    ),
    "a LoRA": (
        {"lora_unet_down_blocks_0.lora_down.weight": (4, 320)},
        "holds no UNet of SD 1.x, SD 2.x and SDXL in the layout",
    ),
    "SD 3": ({"model.diffusion_model.joint_blocks.1.context_block.adaLN_modulation.1.bias": (9216,)}, "holds no UNet"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_other_models_are_told_by_their_tensors(case: str) -> None:
    shapes, words = OTHERS[case]
    with pytest.raises(ValueError) as refused:
        family_of(shapes)
    assert words in str(refused.value)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_families_are_told_by_their_tensors(family: str) -> None:
    assert family_of({name: tuple(shape) for name, shape in layout_of(family).items()}) == family


def test_a_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"nothing")
    assert "which can't be loaded (" in refusal(file)
    assert "which is no file" in refusal(tmp_path / "none.safetensors")
    assert isinstance(load("toy"), Model)


def test_the_configs_ship_with_the_package() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert '"configs/*"' in project.read_text(encoding="utf-8").split("[tool.setuptools.package-data]")[1].split("[")[1]
    assert {file.stem for file in configs.FOLDER.iterdir()} == set(FAMILIES)
