"""Prompts for parts of the picture in the second host: cell by cell what a whole run with each of them draws there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from demofusion_lib.core import phases as core_phases
from demofusion_lib.core.regions import shares_of
from demofusion_lib.regions import regions_of
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.models import Model

from .test_drawing import draw, order
from .test_prompts import FOG

Run = Callable[..., int]
REGIONS = json.dumps([
    {"prompt": "blue", "box": [0, 0, 0.4, 1]},
    {"prompt": FOG, "box": [0.3, 0.5, 1, 1], "weight": 0.7, "feather": 0.3},
])  # fmt: skip
"""One of them is longer than the main prompt."""


@pytest.fixture
def pointwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Model], Model]:
    """A network that answers each cell for itself and each prompt linearly; no statistics between phases."""
    monkeypatch.setattr(core_phases, "with_statistics", lambda latent, *_: latent)

    def forward(
        x: torch.Tensor, t: torch.Tensor, *, encoder_hidden_states: torch.Tensor, encoder_attention_mask: Any,
        added_cond_kwargs: Any = None, **_: Any,
    ) -> tuple[torch.Tensor]:  # fmt: skip
        read = torch.ones(encoder_hidden_states.shape[:2]) if encoder_attention_mask is None else encoder_attention_mask
        means = (encoder_hidden_states[..., :4] * read[..., None]).sum(1) / read.sum(1, keepdim=True)
        if added_cond_kwargs:
            means = means + added_cond_kwargs["text_embeds"][:, :4]
        return (0.2 * x + means[:, :, None, None],)

    def patched(model: Model) -> Model:
        monkeypatch.setitem(
            vars(model.unet), "forward", forward
        )  # of the instance: taken away again, not put back on it
        return model

    return patched


def last(model: Model, wanted: Order, **settings: Any) -> torch.Tensor:
    return draw(model, replace(wanted, params=replace(wanted.params, **settings)))[-1].latent


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_each_cell_is_what_its_prompts_draw(
    name: str, sampler: str, models: dict[str, Model], pointwise: Callable[[Model], Model]
) -> None:
    model = pointwise(models[name])
    wanted = replace(order(blur=0.0, plan="direct"), guidance=3.0, negative="red", sampler=sampler)
    drawn = last(model, wanted, regions=REGIONS)
    finals = [last(model, wanted, phase_prompt=text) for text in ("a red disc", "blue", FOG)]
    shares = shares_of(regions_of(REGIONS), *drawn.shape[-2:])
    expected = (torch.stack(finals) * shares[:, None, None]).sum(0)
    assert float((drawn - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert float((drawn - finals[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_low_pass_guidance_adds_up(name: str, models: dict[str, Model], pointwise: Callable[[Model], Model]) -> None:
    """What two parts add to the plain picture is what both together do."""
    model = pointwise(models[name])
    wanted = replace(order(preset="draft", enlarge="latent"), guidance=3.0, negative="red")

    def drawn(*boxes: list[float], **more: Any) -> torch.Tensor:
        return last(
            model, wanted, regions=json.dumps([{"prompt": FOG, "box": box} for box in boxes]) if boxes else "", **more
        )

    left, right = [0.0, 0, 0.4, 1], [0.4, 0, 1, 1]
    plain, whole = drawn(), drawn(phase_prompt=FOG)
    scale = 1e-5 * max(1.0, float(whole.abs().max()))
    assert float((drawn(left) + drawn(right) - plain - whole).abs().max()) < 2 * scale
    assert float((drawn(left, right) - whole).abs().max()) < scale and float((whole - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("preset", ["none", "draft"])
def test_one_region_over_everything_is_the_plain_run_to_the_bit(preset: str, models: dict[str, Model]) -> None:
    wanted = replace(order(preset=preset, enlarge="latent"), guidance=3.0, negative="red")
    whole = json.dumps([{"prompt": "a red disc", "box": [0, 0, 1, 1]}])
    assert torch.equal(last(models["sd"], wanted), last(models["sd"], wanted, regions=whole))


@pytest.mark.parametrize("more", [{}, {"guidance": "low-pass"}, {"guidance_until": 500}, {"preset": "fast"}])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_rows_foretold_are_those_run(guidance: float, more: dict[str, Any], models: dict[str, Model]) -> None:
    wanted = replace(
        order(regions=REGIONS, enlarge="latent", **more), guidance=guidance, prompts=["a", "b"], seeds=[1, 2]
    )
    drawing = Drawing(models["sd"], wanted)
    run = [phase.evaluations for phase in drawing.phases()]
    assert run[1:] == [drawing.plan.evaluations(phase) for phase in drawing.plan.phases]
    plain = Drawing(models["sd"], replace(wanted, params=replace(wanted.params, regions="")))
    assert run[-1] > plain.plan.evaluations(plain.plan.phases[-1])


def test_flag_infotext_and_plan(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "2,1\na red disc ADDCOL a blue square"
    assert run("--json", f"--regions={text}") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["regions"] == text
    told = Image.open(tmp_path / "out" / "final.png").info["parameters"]
    assert f"DemoFusion regions: {json.dumps(text)}" in told
    counts = [phase["evaluations"] for phase in report["phases"]]
    assert run("--json", "--plan-only", f"--regions={text}") == 0
    assert [phase["evaluations"] for phase in json.loads(capsys.readouterr().out)["phases"]] == counts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a cat", "no JSON, and no ADDCOL or ADDROW in it"),
        ('[{"prompt": "a"}]', "region 1: neither"),
        ("[[]]", "region 1: []"),
    ],
)
def test_bad_flags(text: str, told: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--model=nowhere", f"--regions={text}")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "--regions" in said and told in said
