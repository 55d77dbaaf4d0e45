"""What is drawn at the native size is what diffusers' own pipelines draw: prompts, guidance, size conditioning, schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, LMSDiscreteScheduler
from PIL import Image

from demofusion_lib.core import step_generator
from demofusion_lib.params import Params
from demofusion_lib.standalone.decoding import decode
from demofusion_lib.standalone.drawing import PHASE_NOISE, Drawing, Order
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.models import Model, choose_device, choose_dtype, load_model
from demofusion_lib.standalone.prompts import encode

from .conftest import CPU

NONE = Params.from_names({"enabled": True, "scale": 1})


def order(sampler: str = "DDIM", **fields: object) -> Order:
    return Order(**{
        "prompts": ["a red disc"], "seeds": [7], "width_px": 64, "height_px": 64, "params": NONE, "negative": "blue",
        "steps": 8, "sampler": sampler, "guidance": 4.0, **fields,
    })  # fmt: skip


def base(model: Model, wanted: Order) -> torch.Tensor:
    return next(iter(Drawing(model, wanted).phases())).latent


def theirs(folder: Path, wanted: Order, scheduler: object = None, output: str = "latent") -> torch.Tensor:
    """What diffusers' own pipeline draws; an empty negative is none."""
    pipeline = DiffusionPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")  # type: ignore[attr-defined]
    noise = torch.randn(4, 8, 8, generator=step_generator(wanted.seeds[0], 1, PHASE_NOISE))[None]
    return pipeline(
        wanted.prompts[0], negative_prompt=wanted.negative or None, height=wanted.height_px, width=wanted.width_px,
        num_inference_steps=wanted.steps, guidance_scale=wanted.guidance, latents=noise, output_type=output,
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


def test_an_empty_negative_of_sdxl_is_what_diffusers_takes_for_it(folders: dict[str, Path]) -> None:
    """Zeros, where the model was trained so; 0.1 away is what its encoding would draw."""
    model = load_model(str(folders["sdxl-zeros"]), CPU, torch.float32)
    wanted = order(negative="")
    drawn, right = base(model, wanted), theirs(folders["sdxl-zeros"], wanted)
    assert error(drawn, right) < 1e-5
    assert error(base(replace(model, zero_empty=False), wanted), right) > 1e-2
    assert error(base(model, order()), theirs(folders["sdxl-zeros"], order())) < 1e-5


@pytest.mark.parametrize(("sampler", "scheduler"), [("DDIM", None), ("Euler", EulerDiscreteScheduler)])
def test_a_network_that_answers_the_picture_itself(
    sampler: str, scheduler: type | None, folders: dict[str, Path]
) -> None:
    """`prediction_type: sample`; and the flag, on a folder that says otherwise."""
    wanted = order(sampler)
    right = theirs(folders["sd-sample"], wanted, scheduler)
    assert error(base(load_model(str(folders["sd-sample"]), CPU, torch.float32), wanted), right) < 5e-3
    told = load_model(str(folders["sd-sample"]), CPU, torch.float32, prediction="epsilon")
    assert told.prediction == "epsilon" and error(base(told, wanted), right) > 0.1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_distilled_network_is_told_the_guidance(guidance: float, folders: dict[str, Path]) -> None:
    """`time_cond_proj_dim`, LCM's: one row an image, the negative left aside, the scale in an embedding."""
    model = load_model(str(folders["lcm"]), CPU, torch.float32)
    wanted = order(guidance=guidance)
    assert error(base(model, wanted), theirs(folders["lcm"], wanted)) < 1e-4
    drawing = Drawing(model, wanted)
    assert next(iter(drawing.phases())).evaluations == drawing.plan.total_evaluations == wanted.steps
    assert error(base(model, order(guidance=2.0)), base(model, order(guidance=7.0))) > 1e-3


def test_a_vae_with_a_mean_and_deviation_of_its_latents(folders: dict[str, Path]) -> None:
    wanted = order()
    model = load_model(str(folders["sdxl-zeros"]), CPU, torch.float32)
    drawn, right = decode(model, base(model, wanted))[0], theirs(folders["sdxl-zeros"], wanted, output="pil")[0]
    assert difference(drawn, right) <= 1
    plain = dict(model.vae.config, latents_mean=None)
    model.vae.register_to_config(**plain)
    assert difference(decode(model, base(model, wanted))[0], right) > 5


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


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


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == CPU
    with pytest.raises(UserError, match="device is 'nowhere'"):
        choose_device("nowhere")
