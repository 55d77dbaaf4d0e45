"""Models whose parts lie on the device by turns, by accelerate's hooks, as diffusers' `enable_model_cpu_offload` sets them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import accelerate
import pytest
import torch

from demofusion_lib.standalone.decoding import Way, decode
from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.models import Model

from .conftest import CPU
from .test_drawing import order


@pytest.fixture
def offloaded(models: dict[str, Model]) -> tuple[Model, list[str]]:
    """A model of hooked parts, and the names of the parts as they are brought to the device."""
    model, brought = copy.deepcopy(models["sd"]), []
    hook = None
    for name, part in (("text", model.text[0][1]), ("unet", model.unet), ("vae", model.vae)):
        _, hook = accelerate.cpu_offload_with_hook(part, CPU, hook)
        note(part, name, brought)
    return model, brought


def note(part: Any, name: str, brought: list[str]) -> None:
    before = part._hf_hook.pre_forward

    def pre_forward(module: Any, *given: Any, **named: Any) -> Any:
        brought.append(name)
        return before(module, *given, **named)

    part._hf_hook.pre_forward = pre_forward


def test_phases_and_pictures_of_an_offloaded_model(
    offloaded: tuple[Model, list[str]], models: dict[str, Model]
) -> None:
    model, brought = offloaded
    wanted = replace(order(window_batch=0), guidance=2.0, steps=3)
    latents = [list(Drawing(each, wanted).phases())[-1].latent for each in (model, models["sd"])]
    assert torch.equal(*latents)
    assert brought[0] == "text" and set(brought[2:]) == {"unet"} and len(brought) > 6
    brought.clear()
    notes: list[str] = []
    images = [decode(each, latents[0], Way("exact", notes.append))[0] for each in (model, models["sd"])]
    assert images[0].tobytes() == images[1].tobytes()
    assert brought == ["vae"] and not notes


def test_the_device_is_where_it_computes(offloaded: tuple[Model, list[str]]) -> None:
    model, _ = offloaded
    model.unet._hf_hook.execution_device = torch.device("meta")
    assert model.device.type == "meta" and model.unet.device.type == "cpu"
