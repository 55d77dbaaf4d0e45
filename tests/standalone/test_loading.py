"""Folders and names on the hub: what loads, from which weight files, and what is refused in one line."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file

from demofusion_lib.standalone import cli, loading, weights
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.models import Model, load_model

from .conftest import CPU, LEVELS, Changed


def load(name: object, **flags: str) -> Model:
    return load_model(str(name), CPU, torch.float32, **flags)


def refusal(name: object, **flags: str) -> str:
    with pytest.raises(UserError) as refused:
        load(name, **flags)
    message = str(refused.value)
    assert "\n" not in message
    return message


def same(one: Model, other: Model) -> bool:
    pairs = zip(one.unet.parameters(), other.unet.parameters())
    return all(torch.equal(a, b) for a, b in pairs)


def config_of(scheduler: Any) -> dict[str, Any]:
    return json.loads(scheduler.to_json_string())


SCHEDULERS = {
    "EDM": (config_of(EDMEulerScheduler()), "the scheduler EDMEulerScheduler, supported: schedulers of DDPM's 1000"),
    "flow": (config_of(FlowMatchEulerDiscreteScheduler()), "the scheduler FlowMatchEulerDiscreteScheduler, supported"),
    "continuous": (
        config_of(EulerDiscreteScheduler(**LEVELS, timestep_type="continuous", sigma_min=0.002, sigma_max=700.0)),
        "the scheduler EulerDiscreteScheduler, supported",
    ),
    "flow beside DDPM's": (
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        "supported",
    ),
    "500 steps": (
        config_of(EulerDiscreteScheduler(**LEVELS, num_train_timesteps=500)),
        "500 noise levels, supported: 1000",
    ),
    "unknown": ({"_class_name": "NewestScheduler"}, "the scheduler 'NewestScheduler', supported: schedulers of"),
    "its prediction": (
        {"_class_name": "DDIMScheduler", "prediction_type": "velocity"},
        "the prediction 'velocity', supported: epsilon, v_prediction, sample",
    ),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_schedulers_of_other_noise_levels_are_refused(case: str, changed: Changed) -> None:
    scheduler, words = SCHEDULERS[case]
    assert words in refusal(changed(scheduler=scheduler))


@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler", "LCMScheduler"]
)
def test_schedulers_of_the_same_noise_levels_are_the_same_to_us(
    name: str, changed: Changed, models: dict[str, Model]
) -> None:
    model = load(changed(scheduler={"_class_name": name, **LEVELS, "num_train_timesteps": 1000, "steps_offset": 1}))
    assert torch.allclose(model.alphas_cumprod, models["sd"].alphas_cumprod) and model.prediction == "epsilon"


INDEXES: dict[str, tuple[dict[str, Any], str]] = {
    "a known class": (
        {"_class_name": "StableDiffusionControlNetPipeline"},
        "'StableDiffusionControlNetPipeline', supported: St",
    ),
    "an unknown class": ({"_class_name": "NewestPipeline"}, "is for the pipeline 'NewestPipeline', supported: St"),
    "no class": ({"_class_name": None}, "is for the pipeline None, supported"),
    "a class of its own": (
        {"_class_name": ["brought", "Pipeline"]},
        "is for the pipeline ['brought', 'Pipeline'], supported",
    ),
    "an absent library": (
        {"unet": ["newest_library", "UNet"]},
        "['newest_library', 'UNet'] as its unet, supported: diffusers's UN",
    ),
    "a part of its own": ({"unet": ["brought", "UNet2DConditionModel"]}, "as its unet, supported"),
    "another encoder": (
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        "as its text_encoder, supported: transformers's CLIP",
    ),
    "no VAE": ({"vae": [None, None]}, "has no vae, supported: whole models"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_pipelines_of_other_parts_are_refused(case: str, changed: Changed, tmp_path: Path) -> None:
    """And none of the code that a folder brings is run."""
    index, words = INDEXES[case]
    folder = changed(**index)
    for file in (folder / "brought.py", folder / "unet" / "brought.py"):
        file.write_text(
            f"open({str(tmp_path / 'was run')!r}, 'w')\nclass Pipeline: ...\nclass UNet2DConditionModel: ...\n"
        )
    assert words in refusal(folder)
    assert not (tmp_path / "was run").exists()


def test_a_latent_consistency_pipeline_has_the_same_parts(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["lcm"], tmp_path / "lcm")
    file = tmp_path / "lcm" / "model_index.json"
    file.write_text(file.read_text().replace("StableDiffusionPipeline", "LatentConsistencyModelPipeline"))
    assert load(tmp_path / "lcm").guidance_width == 33


def test_what_a_file_holds_may_break_the_libraries_in_any_way(changed: Changed) -> None:
    folder = changed()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    assert refusal(folder).startswith("model is '") and "which can't be loaded (" in refusal(folder)
    (folder / "model_index.json").write_text("{")
    assert "can't be loaded" in refusal(folder)
    (folder / "model_index.json").unlink()
    assert "is a folder without model_index.json, supported" in refusal(folder)


def test_a_vae_of_another_kind(changed: Changed, folders: dict[str, Path]) -> None:
    from diffusers import AutoencoderKL

    folder = changed()
    shutil.rmtree(folder / "vae")
    AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), latent_channels=16, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    assert "has a VAE of 8 px to a cell and 16 channels, supported: 8 px and 4" in refusal(folder)


@pytest.fixture
def saved_as(folders: dict[str, Path], tmp_path: Path) -> Any:
    """The folder `sd` saved anew; of its weight files only those of `parts` are replaced, all by default."""

    def save(**how: Any) -> Path:
        pipeline = StableDiffusionPipeline.from_pretrained(folders["sd"], safety_checker=None)
        pipeline.save_pretrained(tmp_path / "saved", **how)
        return tmp_path / "saved"

    return save


@pytest.mark.parametrize("flag", ["", "fp16"])
def test_a_folder_of_one_variant_alone(flag: str, saved_as: Any, models: dict[str, Model]) -> None:
    """It need not be asked for, but may."""
    folder = saved_as(variant="fp16")
    assert not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert same(load(folder, variant=flag), models["sd"])


def test_a_variant_beside_the_plain_weights_is_asked_for(saved_as: Any, models: dict[str, Model]) -> None:
    folder = saved_as()
    unet = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).unet
    unet.conv_in.bias.data.add_(1)
    unet.save_pretrained(folder / "unet", variant="other")
    assert same(load(folder), models["sd"])
    other = load(folder, variant="other")
    assert torch.allclose(other.unet.conv_in.bias, models["sd"].unet.conv_in.bias + 1)
    assert "no weights of the variant 'fp16', allowed: none, other" in refusal(folder, variant="fp16")


def test_several_variants_without_plain_weights(saved_as: Any) -> None:
    saved_as(variant="fp16")
    folder = saved_as(variant="ema")
    message = refusal(folder)
    assert "has no plain weights of its unet, vae, text_encoder, allowed with --variant: ema, fp16" in message
    load(folder, variant="ema")


def test_a_folder_without_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["sd"], tmp_path / "sd", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "sd" / "unet" / "openvino_model.bin").write_bytes(b"")
    assert "has no weights of its unet, vae, text_encoder, supported: .safetensors, .bin" in refusal(tmp_path / "sd")


def test_shards_and_stray_files(tmp_path: Path) -> None:
    for name in (
        "diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00001-of-00002.ema.bin", "openvino_model.bin", "model.onnx", "config.json",
        "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.non_ema.bin",
    ):  # fmt: skip
        (tmp_path / name).touch()
    found = weights.formats_by_variant(tmp_path)
    assert found == {"": {"safetensors"}, "fp16": {"safetensors"}, "ema": {"bin"}, "non_ema": {"bin"}}


def as_bin(folder: Path) -> Path:
    """The same weights as they were saved once; transformers 5 doesn't any more."""
    for file in folder.rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    return folder


def test_bin_weights_are_read_where_that_runs_no_code(
    saved_as: Any, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_bin(saved_as())
    monkeypatch.setattr(weights, "reads_bin_safely", lambda: False)
    message = refusal(folder)
    assert "has weights as .bin only, which are read from torch 2.6 on" in message and ".safetensors" in message
    monkeypatch.setattr(weights, "reads_bin_safely", lambda: True)
    assert same(load(folder), models["sd"])


@pytest.mark.parametrize(
    ("version", "safe"), [("2.1.2+cu121", False), ("2.5.1", False), ("2.6.0", True), ("2.10.0a0+git", True)]
)
def test_from_which_torch_on(version: str, safe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert weights.reads_bin_safely() is safe


class Code:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_bin_is_not_run(saved_as: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "reads_bin_safely", lambda: True)
    folder = as_bin(saved_as())
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save({"conv_in.weight": Code(tmp_path / "was run")}, file)
    assert "can't be loaded" in refusal(folder)
    file.write_bytes(pickle.dumps(Code(tmp_path / "was run")))
    assert "can't be loaded" in refusal(folder)
    assert not (tmp_path / "was run").exists()


FLAGS = {
    "a variant of a file": (
        {"variant": "fp16"},
        "one.safetensors",
        "variant is 'fp16', allowed for a diffusers folder",
    ),
    "a variant of the toy": ({"variant": "fp16"}, "toy", "variant is 'fp16', allowed for a diffusers folder"),
    "a config of a folder": ({"config": "sdxl"}, ".", "config is 'sdxl', allowed for a single .safetensors file"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_that_say_nothing_there(case: str) -> None:
    flags, name, words = FLAGS[case]
    assert words in refusal(name, **flags)


@pytest.mark.parametrize(
    "name", ["nowhere", "/nowhere/at/all", "./none", "../x/y", "model.ckpt", "C:\\models\\one", "a/b/c", ""]
)
def test_what_is_no_name_on_the_hub_is_not_looked_up_there(name: str, no_network: None) -> None:
    assert "which is no file or folder, allowed: toy, a diffusers folder, OWNER/NAME on the hub" in refusal(name)


def test_long_names_are_cut(no_network: None) -> None:
    for name in ("x" * 5000, f"x/{'y' * 5000}", f"{'x' * 5000}.safetensors", "zero\0"):
        assert "which is no file" in refusal(name) and len(refusal(name)) < 250


def hub_cache(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`folder` in the hub's cache as `owner/name`; its snapshot."""
    cached = root / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
    return cached / "snapshots" / ("0" * 40)


def test_a_name_on_the_hub_that_is_in_its_cache(
    folders: dict[str, Path],
    models: dict[str, Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: None,
) -> None:
    hub_cache(folders["sd"], tmp_path, monkeypatch)
    model = load("owner/name")
    assert model.name == "name" and same(model, models["sd"])


def test_the_hub_is_asked_for_what_its_cache_lacks(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the index, then, of a model that can be drawn with, the rest."""
    asked: list[str] = []
    snapshot = hub_cache(folders["sd"], tmp_path, monkeypatch)
    file = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    kept = file.read_bytes()
    file.unlink()

    def download(name: str, **kwargs: object) -> str:
        asked.append(name)
        file.write_bytes(kept)
        return str(snapshot)

    monkeypatch.setattr(StableDiffusionPipeline, "download", download)
    load("owner/name")
    assert asked == ["owner/name"]
    index = snapshot / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "OtherPipeline"))
    assert "is for the pipeline 'OtherPipeline'" in refusal("owner/name")
    assert asked == ["owner/name"]


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "model is 'owner/name', which can't be loaded (" in refusal("owner/name")
    monkeypatch.setattr(loading, "_hub_configs", lambda name, local: Path(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline",
        **{part: [library, (*classes, "DDIMScheduler")[0]] for part, (library, classes) in loading.CLASSES.items()},
    }))  # fmt: skip
    assert "can't be fetched from the hub (" in refusal("owner/name")
    assert "--variant fp16" in refusal("owner/name") and "--variant fp16" not in refusal("owner/name", variant="fp16")


def test_the_flags_reach_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def spy(name: str, device: torch.device, dtype: torch.dtype, **flags: object) -> None:
        seen.update(flags, name=name)
        raise UserError("seen")

    monkeypatch.setattr(cli, "load_model", spy)
    (tmp_path / "one.safetensors").touch()
    for model, own in (("owner/one", {"variant": "fp16"}), (str(tmp_path / "one.safetensors"), {"config": "sd2-v"})):
        named = [f"--{name}={value}" for name, value in own.items()]
        with contextlib.suppress(SystemExit):
            flags = ["--out", str(tmp_path / "out"), "--device", "cpu", "--prediction-type", "sample", *named]
            cli.main(["a red disc", "--model", model, *flags])
        assert seen == {"variant": "", "config": "", **own, "name": model, "prediction": "sample"}
