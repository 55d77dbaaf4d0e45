"""What is drawn at the native size is what diffusers' own pipelines draw: prompts, guidance, size conditioning, schedule."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, LMSDiscreteScheduler

from demofusion_lib.core import step_generator
from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import PHASE_NOISE, Drawing, Order
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.models import Model, choose_device, choose_dtype, load_model
from demofusion_lib.standalone.prompts import encode
from demofusion_lib.standalone.toy import TOY_FILE, toy_configs

from .conftest import CPU

NONE = Params.from_names({"enabled": True, "scale": 1})


def order(sampler: str = "DDIM", **fields: object) -> Order:
    return Order(**{
        "prompts": ["a red disc"], "seeds": [7], "width_px": 64, "height_px": 64, "params": NONE, "negative": "blue",
        "steps": 8, "sampler": sampler, "guidance": 4.0, **fields,
    })  # fmt: skip


def base(model: Model, wanted: Order) -> torch.Tensor:
    return next(iter(Drawing(model, wanted).phases())).latent


def theirs(folder: Path, wanted: Order, scheduler: object = None) -> torch.Tensor:
    pipeline = DiffusionPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")  # type: ignore[attr-defined]
    noise = torch.randn(4, 8, 8, generator=step_generator(wanted.seeds[0], 1, PHASE_NOISE))[None]
    return pipeline(
        wanted.prompts[0], negative_prompt=wanted.negative, height=wanted.height_px, width=wanted.width_px,
        num_inference_steps=wanted.steps, guidance_scale=wanted.guidance, latents=noise, output_type="latent",
    ).images  # fmt: skip


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", ["sd", "sd-v", "sdxl"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_ddim_draws_what_diffusers_draws(
    name: str, guidance: float, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    wanted = order(guidance=guidance)
    assert error(base(models[name], wanted), theirs(folders[name], wanted)) < 1e-4


@pytest.mark.parametrize(("sampler", "scheduler"), [("Euler", EulerDiscreteScheduler), ("LMS", LMSDiscreteScheduler)])
@pytest.mark.parametrize("name", ["sd", "sd-v", "sdxl"])
def test_k_diffusion_draws_what_diffusers_draws(
    name: str, sampler: str, scheduler: type, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    wanted = order(sampler)
    assert error(base(models[name], wanted), theirs(folders[name], wanted, scheduler)) < 5e-3


def test_sizes_and_prompts_reach_the_model(models: dict[str, Model]) -> None:
    """The comparisons above could not fail if the models did not listen."""
    for name, model in models.items():
        first = base(model, order())
        assert error(base(model, order(prompts=["a green square"])), first) > 1e-3, name
        assert error(base(model, order(negative="fog")), first) > 1e-4, name


def test_long_prompts_go_on_in_further_chunks(models: dict[str, Model]) -> None:
    words = " ".join(["fog"] * 75)
    for model in models.values():
        short, long = encode(model, [words]), encode(model, [f"{words} a red disc", "fog"])
        assert short.context.shape[1] == 77 and long.context.shape[1] == 2 * 77
        assert torch.allclose(long.context[0, :77], short.context[0], atol=1e-5)
        assert error(encode(model, [f"{words} a blue disc"]).context[0, 77:], long.context[0, 77:]) > 1e-3


def test_one_file_is_read_with_the_configs_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's file is in SD 1's layout; with its own configs in the place of SD 1.5's, it is the toy."""
    folder = tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    with toy_configs() as configs:
        shutil.copytree(configs, folder / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copy(TOY_FILE, tmp_path / "one file.safetensors")
    model = load_model(str(tmp_path / "one file.safetensors"), CPU, torch.float32)
    assert model.name == "one file" and not model.is_sdxl
    wanted = order(steps=3)
    assert error(base(model, wanted), base(load_model("toy", CPU, torch.float32), wanted)) < 1e-4


def test_unusable_models_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.safetensors"
    for name, words in (
        (str(tmp_path / "none"), "which can't be loaded"),
        (str(empty), "which is no file"),
    ):
        with pytest.raises(UserError, match=words):
            load_model(name, CPU, torch.float32)
    empty.write_bytes(b"nothing")
    with pytest.raises(UserError, match="which can't be loaded"):
        load_model(str(empty), CPU, torch.float32)


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == CPU
    with pytest.raises(UserError, match="device is 'nowhere'"):
        choose_device("nowhere")
