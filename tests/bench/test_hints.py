"""The toy's ControlNet places the object where its hint is white, twice as large too, and the laboratory sees where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel

from bench.quality.drawn import Studio
from bench.quality.hints import BY_NAME, OVERLAP, SALT, Laboratory, covered, figures, hints_of, overlap, table
from bench.quality.rows import Subject
from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.toy import TOY, TOY_CONTROLNET
from lab.hint import HintSet, loss_of, make_set, new_net, train
from lab.scenes import NATIVE_PX, Scene, render, silhouette

SIZE = NATIVE_PX, NATIVE_PX


@pytest.fixture(scope="module")
def toy() -> Iterator[Model]:
    yield load_model(TOY, torch.device("cpu"), torch.float32)


def scene(number: int, salt: int = SALT) -> Scene:
    return Subject(number).scene(SIZE, salt)


@pytest.mark.parametrize("number", [0, 5, 10])
def test_a_silhouette_is_where_the_object_is(number: int) -> None:
    one = scene(number)
    for scale in (1, 2):
        assert overlap(render(one, scale), silhouette(one, scale)) > 0.98
    assert torch.equal(silhouette(one, 3)[:, 40:168, 100:196], silhouette(one, 3, (40, 100), (128, 96)))


def test_an_object_beside_its_place_is_not_placed() -> None:
    subject = Subject(0)
    right, wrong = render(scene(0), 2), render(scene(0, 5), 2)
    assert figures(right, subject, 2)["placed"] and figures(right, subject, 2)["overlap"] > OVERLAP
    assert not figures(wrong, subject, 2)["placed"] and figures(wrong, subject, 2)["one"]
    two = torch.where(torch.from_numpy(covered(wrong)), wrong, right)
    assert figures(two, subject, 2)["objects"] == 2 and not figures(two, subject, 2)["placed"]


def test_one_object_at_its_place_where_each_window_gets_its_part_of_the_hint(toy: Model, tmp_path: Path) -> None:
    """And more than one where each gets all of it: the same base image, seed and network."""
    net = ControlNetModel.from_pretrained(str(TOY_CONTROLNET)).eval()
    laboratory, subject = Laboratory(Studio(toy), net, tmp_path), Subject(0)
    for name in ("fast, hint follows", "fast, whole hint in each window"):
        laboratory.draw(BY_NAME[name], [subject], [2])
    found = {name: ones["0"] for name, ones in laboratory.results.items()}
    right, wrong = found["fast, hint follows, 2x"], found["fast, whole hint in each window, 2x"]
    assert right["placed"] and right["colour"] and right["overlap"] > 0.9
    assert not wrong["placed"] and wrong["objects"] > 1
    assert found["fast, hint follows, 1x"] == found["fast, whole hint in each window, 1x"]
    assert "| fast, hint follows | 1 of 1 (1.0) | 1 of 1 (1.0) |" in table(laboratory.results)


def test_training_begins_as_the_toy_and_learns(toy: Model) -> None:
    data = make_set(toy, 2)
    assert (
        data.latents.shape == (2, 4, 32, 32)
        and data.hints.shape == (2, 1, 256, 256)
        and data.hints.dtype == torch.uint8
    )
    net = new_net(toy.unet)
    assert torch.equal(net.conv_in.weight, toy.unet.conv_in.weight)
    x, t, context = data.latents[:1], torch.tensor([500]), torch.zeros(1, 77, 32)
    down, mid = net(x, t, context, hints_of([Subject(0)]), return_dict=False)
    assert not any(tensor.any() for tensor in (*down, mid))
    before = [parameter.clone() for parameter in toy.unet.parameters()]
    trained, losses = train(
        toy, HintSet(data.latents, data.hints, data.prompts, data.labels), steps=3, batch=2, rate=1e-3
    )
    assert len(losses) == 1 and losses[0] > 0 and trained.controlnet_mid_block.weight.any()
    assert all(torch.equal(a, b) for a, b in zip(before, toy.unet.parameters(), strict=True))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert float(loss_of(toy, net, x, hints_of([Subject(0)]), t, noise, context)) > 0
