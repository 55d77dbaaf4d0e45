"""ControlNets beside the UNet: a known linear map of the hint comes out as of the whole plane, in real classes and in analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel

from demofusion_lib.core import step_generator
from demofusion_lib.params import Params
from demofusion_lib.standalone.controls import Control, Shown, Steering, ask
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.guidance import EpsForm, Guided, SigmaForm
from demofusion_lib.standalone.models import Model
from demofusion_lib.targets import LATENT_PX

LOCAL, MIXED, GLOBAL = 0.0, 500.0, 999.0
FORMS = (SigmaForm(0.7, "epsilon"), EpsForm(0.8, 0.6, "epsilon"))
MATRIX = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [-2.0, 1.0, 1.0], [0.0, 3.0, -1.0]])


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def mapped(hint: torch.Tensor) -> torch.Tensor:
    """The linear map: of each cell's 8 x 8 px their mean, channels mixed; `(n, 4, height, width)`."""
    return torch.einsum("oc,nchw->nohw", MATRIX, F.avg_pool2d(hint, LATENT_PX))


class LinearNet(torch.nn.Module):
    """Answers nothing but `mapped` of its hint."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(global_pool_conditions=False)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.hints: list[torch.Tensor] = []

    def forward(self, x: Any, times: Any, *, controlnet_cond: Any, conditioning_scale: float, **_: Any) -> Any:
        self.hints.append(controlnet_cond)
        return (), mapped(controlnet_cond) * conditioning_scale


class Adding(torch.nn.Module):
    """A UNet whose noise is what a ControlNet adds to its middle."""

    config = SimpleNamespace(sample_size=8, time_cond_proj_dim=None)
    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, x: Any, times: Any, *, mid_block_additional_residual: Any = None, **_: Any) -> Any:
        return (torch.zeros_like(x) if mid_block_additional_residual is None else mid_block_additional_residual,)


def order_of(
    controls: Sequence[Control], size: tuple[int, int] = (64, 64), seeds: Sequence[int] = (1,), **more: Any
) -> Order:
    settings = {"enabled": True, "preset": "none", "window_batch": 16, "scale": 2, **more.pop("settings", {})}
    order = Order(
        ["a red disc"] * len(seeds),
        list(seeds),
        size[1],
        size[0],
        Params.from_names(settings),
        steps=4,
        controls=controls,
    )
    return replace(order, **more)


def captured(drawing: Drawing) -> list[tuple[Guided, torch.Tensor]]:
    """The guided network of each phase, the base image's first, and a latent of its size; nothing is sampled."""
    found: list[tuple[Guided, torch.Tensor]] = []

    def sample(guided: Guided, x: torch.Tensor, solver: Any, phase: int) -> torch.Tensor:
        found.append((guided, x))
        return x

    drawing._sample = sample  # type: ignore[method-assign]
    list(drawing.phases())
    return found


def noise_of(guided: Guided, x: torch.Tensor, t: float, form: SigmaForm | EpsForm) -> torch.Tensor:
    if guided.engine is not None:
        guided.engine.fusion.begin_step([step_generator(i, 2, 0) for i in range(len(x))])
    answer = guided(x, t, form, lambda form, gain: (t, form))
    return answer if isinstance(form, EpsForm) else (x - answer) / form.sigma


CASES = [
    ((64, 64), 2, {}),
    ((96, 64), 2, {}),  # portrait
    ((64, 80), 10, {"scale": 2.5}),  # sizes that no dilation divides
    ((64, 64), 6, {"target_width": 144, "target_height": 192}),  # cropped
    ((64, 64), 10, {"target_width": 160, "target_height": 80}),
    ((64, 64), 2, {"guidance": "low-pass"}),
    ((64, 64), 2, {"border": "paper", "overlap": 0.25, "window_weight": "sin2"}),
]
"""The base image's size, how many times as large the hint is, a whole number of times each phase's, and settings."""


def slope(height: int, width: int) -> torch.Tensor:
    """An even slope of each colour, `(1, 3, height, width)`: the mean of what lies around a place is what lies there."""
    rows, cols = torch.arange(height).add(0.5).div(height)[:, None], torch.arange(width).add(0.5).div(width)[None]
    return torch.stack([rows.expand(height, width), cols.expand(height, width), (rows + 1 - cols) / 2])[None]


@pytest.mark.parametrize("form", FORMS, ids=["k-diffusion", "DDIM"])
@pytest.mark.parametrize(("size", "finer", "settings"), CASES)
def test_a_linear_map_of_the_hint_comes_out_as_of_the_whole(
    size: tuple[int, int], finer: int, settings: dict[str, Any], form: SigmaForm | EpsForm, models: dict[str, Model]
) -> None:
    """In windows of any hint; in dilated sub-images, which are shown smaller pictures, of a slope."""
    model, net = replace(models["sd"], unet=Adding()), LinearNet()
    size_px, cell = (finer * size[0], finer * size[1]), LATENT_PX * finer
    for hint, times in ((draws(1, 1, 3, *size_px), (LOCAL,)), (slope(*size_px), (MIXED, GLOBAL))):
        drawing = Drawing(model, order_of([Control(net, hint)], size, settings=settings))
        base, *phases = captured(drawing)
        expected = mapped(F.interpolate(hint, size, mode="area"))
        assert float((noise_of(*base, MIXED, form) - expected).abs().max()) < 1e-5
        for phase, (guided, x) in zip(drawing.plan.phases, phases):
            (height, width), (part, whole) = x.shape[-2:], (drawing.plan.base_lat, drawing.plan.drawn_lat)
            top, left = (cell * ((w - p) // 2) for w, p in zip(whole, part))
            kept = hint[..., top : top + cell * part[0], left : left + cell * part[1]]
            expected = mapped(F.interpolate(kept, (8 * height, 8 * width), mode="area"))
            edge = 0 if times == (LOCAL,) else phase.dilation  # there is nothing beyond to take the mean of
            inner = (..., slice(edge, height - edge), slice(edge, width - edge))
            for t in times:
                assert float((noise_of(guided, x, t, form) - expected)[inner].abs().max()) < 1e-5


def test_each_image_of_a_batch_has_its_own_hint(models: dict[str, Model]) -> None:
    model, hints = replace(models["sd"], unet=Adding()), draws(2, 2, 3, 128, 128)
    (_, _), (guided, x) = captured(Drawing(model, order_of([Control(LinearNet(), hints)], seeds=(1, 2))))
    assert float((noise_of(guided, x, LOCAL, FORMS[0]) - mapped(hints)).abs().max()) < 1e-5


def test_a_given_pictures_hint_shows_what_the_picture_does(models: dict[str, Model]) -> None:
    """Cropped with it, to the target's shape."""
    model, hint = replace(models["sd"], unet=Adding()), draws(3, 1, 3, 72, 96)
    settings = {"target_width": 128, "target_height": 128, "scale": 1}
    drawing = Drawing(
        model, order_of([Control(LinearNet(), hint)], picture=draws(4, 3, 72, 96) * 2 - 1, settings=settings)
    )
    guided, x = captured(drawing)[-1]
    assert x.shape[-2:] == (16, 16)
    kept = hint[..., 12:84]
    plane = Control(LinearNet(), kept).plane((72, 72), (72, 72), (16, 16))
    assert float((noise_of(guided, x, LOCAL, FORMS[0]) - mapped(plane)).abs().max()) < 1e-5


def test_it_is_asked_on_its_part_of_the_way(models: dict[str, Model]) -> None:
    model, net = replace(models["sd"], unet=Adding()), LinearNet()
    control = Control(net, draws(5, 1, 3, 64, 64), start=0.2, end=0.6)
    (_, _), (guided, x) = captured(Drawing(model, order_of([control])))
    for t, asked in ((999, False), (850, False), (750, True), (450, True), (350, False), (0, False)):
        net.hints.clear()
        assert (float(noise_of(guided, x, t, FORMS[0]).abs().max()) > 0.1) == bool(net.hints) == asked
    assert not Control(net, control.hint, scale=0).asked(500)


def test_one_that_reads_no_place_is_given_all(models: dict[str, Model]) -> None:
    """Whatever it reads, the style say, is of the whole."""
    net, hint = LinearNet(), draws(6, 1, 3, 64, 64)
    net.config.global_pool_conditions = True
    (_, _), (guided, x) = captured(Drawing(replace(models["sd"], unet=Adding()), order_of([Control(net, hint)])))
    noise_of(guided, x, LOCAL, FORMS[0])
    whole = F.interpolate(Control(net, hint).plane((8, 8), (8, 8), (16, 16)), (64, 64), mode="area")
    assert net.hints and all(torch.allclose(one, whole[0], atol=1e-6) for call in net.hints for one in call)


def net_for(model: Model) -> Any:
    """A diffusers ControlNet of random weights, its zero convolutions none."""
    torch.manual_seed(11)
    net = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.1)
    for layer in net.controlnet_cond_embedding.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return net.eval()


def drawn(model: Model, *controls: Control, **more: Any) -> torch.Tensor:
    return list(Drawing(model, order_of(controls, guidance=3.0, **more)).phases())[-1].latent


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_diffusers_own_classes(name: str, models: dict[str, Model]) -> None:
    """Two of half the weight are one; one that is never asked is none."""
    net, hint = net_for(models[name]), slope(64, 64)
    plain, one = drawn(models[name]), drawn(models[name], Control(net, hint))
    assert float((one - plain).norm() / plain.norm()) > 0.05
    half = Control(net, hint, scale=0.5)
    assert float((drawn(models[name], half, half) - one).norm() / one.norm()) < 1e-4
    assert torch.equal(drawn(models[name], Control(net, hint, scale=0)), plain)
    assert float((drawn(models[name], Control(net, hint.flip(-1))) - one).norm() / one.norm()) > 1e-3


def test_it_answers_as_diffusers_own_pipeline_gives_it_to_the_unet(models: dict[str, Model]) -> None:
    """Outside of phases the whole hint, with the UNet's own conditions."""
    model = models["sdxl"]
    net, hint = net_for(model), draws(8, 1, 3, 64, 64)
    x, times, context = torch.randn(2, 4, 8, 8), torch.tensor([400.0, 400.0]), torch.randn(2, 77, 40)
    added = {"text_embeds": torch.randn(2, 24), "time_ids": torch.randn(2, 6)}
    down, mid = net(x, times, context, hint.repeat(2, 1, 1, 1), 0.7, added_cond_kwargs=added, return_dict=False)
    steering = Steering([Shown(Control(net, hint, scale=0.7), hint)])
    given = steering(x, 400.0, times, context, None, added_cond_kwargs=added)
    assert torch.equal(given["mid_block_additional_residual"], mid)
    assert all(torch.equal(a, b) for a, b in zip(given["down_block_additional_residuals"], down, strict=True))


def test_prompts_of_several_lengths_are_each_read_alone(models: dict[str, Model]) -> None:
    """A ControlNet takes no mask for what a shorter prompt is filled up with."""
    control = Control(net_for(models["sd"]), draws(9, 1, 3, 64, 64))
    x, context = torch.randn(3, 4, 8, 8), torch.randn(3, 154, 16)
    readable = torch.ones(3, 154, dtype=torch.bool)
    readable[1, 77:] = False
    hint, times = control.hint.repeat(3, 1, 1, 1), torch.full((3,), 300.0)
    with torch.no_grad():
        down, mid = ask(control, x, times, context, readable, hint, {})
        for row, length in enumerate((154, 77, 154)):
            one = [row]
            own = ask(control, x[one], times[one], context[one, :length], None, hint[one], {})
            assert torch.allclose(mid[one], own[1], atol=1e-5)
            assert all(torch.allclose(a[one], b, atol=1e-5) for a, b in zip(down, own[0], strict=True))


def test_a_rescued_windows_controlnet_is_in_float32_too(models: dict[str, Model]) -> None:
    net = net_for(models["sd"]).half()
    try:
        with Steering([Shown(Control(net, draws(1, 1, 3, 8, 8)), draws(1, 1, 3, 8, 8))] * 2).in_float32():
            assert net.dtype == torch.float32
        assert net.dtype == torch.float16
    finally:
        net.float()


def saved_net(model: Model, folder: Path) -> Path:
    net_for(model).save_pretrained(str(folder))
    return folder


def test_a_shrunk_latents_part_of_the_way_is_the_pictures(models: dict[str, Model]) -> None:
    """It has less noise, and is asked at a lower timestep."""
    net = LinearNet()
    drawing = Drawing(
        replace(models["sd"], unet=Adding()),
        order_of([Control(net, draws(5, 1, 3, 64, 64), end=0.5)], guidance=3.0, settings={"guidance": "low-pass"}),
    )
    (_, _), (guided, x) = captured(drawing)
    assert guided.engine is not None
    guided.engine.fusion.begin_step([step_generator(1, 2, 0)])
    guided(x, MIXED, FORMS[0], lambda form, gain: (MIXED - 200, form))
    assert [one.shape[-1] for one in net.hints].count(64) == len(net.hints) and sum(map(len, net.hints)) == 9 + 4 + 2


class Overflowing(torch.nn.Module):
    """Answers NaN in half precision."""

    config = SimpleNamespace(global_pool_conditions=False)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def forward(self, x: Any, times: Any, *, controlnet_cond: Any, conditioning_scale: float, **_: Any) -> Any:
        answer = mapped(controlnet_cond.float())
        return (), answer if self.dtype == torch.float32 else answer * torch.nan


def test_a_window_that_a_controlnet_spoils_is_rescued(models: dict[str, Model]) -> None:
    control = Control(Overflowing(), torch.ones(1, 3, 64, 64))
    (_, _), (guided, x) = captured(Drawing(replace(models["sd"], unet=Adding()), order_of([control])))
    expected = mapped(torch.ones(1, 3, 128, 128))
    assert float((noise_of(guided, x, LOCAL, FORMS[0]) - expected).abs().max()) < 1e-5
