"""CFG scale, prompt and negative prompt of the phases' own on the command line and in the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from demofusion_lib.core import centre_crop
from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.models import Model

from .test_drawing import draw, error, order
from .test_prompts import FOG

Run = Callable[..., int]
OWN = {"phase_prompt": "blue fog", "phase_negative": FOG, "phase_cfg": 6.0}


def begun_from(model: Model, wanted: Order, base: Finished, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the phases of one order make of another's base image."""
    drawing = Drawing(model, wanted)
    monkeypatch.setattr(drawing, "_base", lambda: base)
    return list(drawing.phases())[-1].latent


@pytest.mark.parametrize("preset", ["none", "draft"])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_the_base_is_the_ones_and_the_phases_the_others(
    name: str, preset: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: the base that the one draws alone, and the phases that an order with those prompts draws of it."""
    plain = replace(order(preset=preset), guidance=3.0, negative="red")
    drawn = draw(models[name], replace(plain, params=replace(plain.params, **OWN)))
    alone = draw(models[name], plain)
    assert torch.equal(drawn[0].latent, alone[0].latent)
    other = replace(plain, prompts=["blue fog"], negative=FOG, guidance=6.0)
    assert torch.equal(drawn[-1].latent, begun_from(models[name], other, alone[0], monkeypatch))
    assert error(drawn[-1].latent, alone[-1].latent) > 1e-4


@torch.no_grad()
def test_one_step_by_hand(models: dict[str, Model]) -> None:
    """A phase of one step of Euler in one window is the denoised of its first level: prompt and negative alone through the
    network, and the scale between them."""
    from .test_prompts import chunk_by_hand

    model = models["sd"]
    settings = {"scale": 1.25, "overlap": 0.0, "jitter": False, "dilated": False, "skip_residual": False, "steps": 1}
    wanted = replace(order(**settings, **OWN), steps=2, guidance=3.0)
    drawing = Drawing(model, wanted)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = model.unet.forward

    def forward(x: torch.Tensor, t: torch.Tensor, **more: torch.Tensor) -> object:
        output = plain(x, t, **more)
        seen.extend(zip(x, output[0]))
        return output

    base = next(phases := drawing.phases())
    model.unet.forward = forward  # type: ignore[method-assign]
    try:
        last = next(phases)
    finally:
        del model.unet.forward
    assert last.evaluations == len(seen) == 2 * len(drawing.plan.grid(drawing.plan.phases[0]))
    texts = [chunk_by_hand(model, text)[0] for text in ("blue fog", FOG)]
    half = len(seen) // 2
    for i, text in enumerate(texts):
        for x, output in seen[i * half : (i + 1) * half]:
            expected = plain(x[None], 999.0, encoder_hidden_states=text)[0][0]
            assert error(output, expected) < 1e-5
    assert centre_crop(base.latent, 8, 8).shape == base.latent.shape


def test_the_base_images_own_change_nothing(models: dict[str, Model]) -> None:
    plain = replace(order(), guidance=3.0, negative="red")
    same = {"phase_prompt": "a red disc", "phase_negative": "red", "phase_cfg": 3.0}
    told = draw(models["sd"], replace(plain, params=replace(plain.params, **same)))
    assert torch.equal(draw(models["sd"], plain)[-1].latent, told[-1].latent)


@pytest.mark.parametrize(("base", "phase", "passes"), [(3.0, 1.0, (2, 1)), (1.0, 7.0, (1, 2)), (1.0, 0.0, (1, 1))])
def test_rows_foretold_are_those_run(
    base: float, phase: float, passes: tuple[int, int], models: dict[str, Model]
) -> None:
    wanted = replace(order(dilated=False, phase_cfg=phase), guidance=base)
    drawing = Drawing(models["sd"], wanted)
    plan = drawing.plan
    assert (plan.passes, plan.phase_passes) == passes
    first, second = drawing.phases()
    assert first.evaluations == plan.base_evaluations == 8 * passes[0]
    assert second.evaluations == plan.evaluations(plan.phases[0]) == 9 * 8 * passes[1]
    assert plan.units == 1 + second.evaluations / first.evaluations


def test_a_negative_prompt_of_the_phases_has_no_say_without_guidance(models: dict[str, Model]) -> None:
    plain, other = (replace(order(phase_negative=text), guidance=1.0) for text in ("", "fog"))
    assert torch.equal(draw(models["sd"], plain)[-1].latent, draw(models["sd"], other)[-1].latent)


# The command line


def test_flags_infotext_and_report(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = 'a "disc", red\nor [blue:green:0.5]'
    assert run("--json", f"--phase-prompt={prompt}", "--phase-negative=64x64", "--phase-cfg=2.5") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["phase_prompt"] == prompt and report["settings"]["phase_cfg"] == 2.5
    text = Image.open(tmp_path / "out" / "final.png").info["parameters"]
    assert f"DemoFusion phase prompt: {json.dumps(prompt)}, " in text and "\nSteps: " in text
    assert 'DemoFusion phase negative: "\\n64x64"' in text and "DemoFusion phase cfg: 2.5" in text


def test_a_plan_counts_the_rows_of_the_phases(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluations(*flags: str) -> list[int]:
        assert run("--json", "--plan-only", "--cfg-scale=5", *flags) == 0
        return [phase["evaluations"] for phase in json.loads(capsys.readouterr().out)["phases"]]

    guided, unguided = evaluations(), evaluations("--phase-cfg=1")
    assert unguided[0] == guided[0] and [2 * n for n in unguided[1:]] == guided[1:]


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--phase-cfg=31", "'31', allowed: 0 to 30"),
        ("--phase-prompt=" + "x" * 100_001, "allowed: text of up to 100000 characters, or nothing"),
        ("--phase-negative=a\udcff", "allowed: text of up to 100000 characters, or nothing"),
    ],
    ids=["cfg", "prompt", "negative"],
)
def test_bad_flags(flag: str, allowed: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--model=nowhere", flag)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert flag.partition("=")[0] in said and allowed in said and len(said) < 300


def test_a_run_that_goes_on_has_the_same_prompts(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = tmp_path / "out" / "resume.safetensors", Drawing._phase
    own = ('--phase-prompt="red"', "--phase-negative=a,\nb", "--phase-cfg=2")

    def phase(self: Drawing, wanted: object, previous: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if wanted.number == 3:  # type: ignore[attr-defined]
            raise MemoryError
        return real(self, wanted, previous, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Drawing, "_phase", phase)
        assert run("--save-phases", "--scale=3", "--plan=every", *own) == 1
    for flag in ("--phase-prompt=blue", "--phase-negative=", "--phase-cfg=0"):
        with pytest.raises(SystemExit):
            run(f"--resume={file}", flag)
        assert f"was made with another {flag[2:].partition('=')[0].replace('-', '_')}" in capsys.readouterr().err
    assert run(f"--resume={file}", *own) == 0


def test_params_of_earlier_versions_leave_the_phases_as_they_were() -> None:
    old = Params.from_infotext({"DemoFusion enabled": "True", "DemoFusion scale": "3"})
    assert (old.phase_cfg, old.phase_prompt, old.phase_negative) == (0.0, "", "")
