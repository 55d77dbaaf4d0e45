"""The engine in the second host: every sampler carries it, and an image does not depend on its batch-mates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from demofusion_lib.core import statistics, upsample, with_statistics
from demofusion_lib.params import Params
from demofusion_lib.setting import SettingsError
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.guidance import EpsForm, SigmaForm
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS, find_sampler
from demofusion_lib.standalone.samplers import Schedule

EVALUATIONS = {
    "DPM++ 2M": 8, "DPM++ SDE": 15, "DPM++ 2M SDE": 8, "DPM++ 3M SDE": 8, "DPM++ 2S a": 15, "Euler a": 8, "Euler": 8,
    "LMS": 8, "Heun": 15, "DPM2": 15, "DPM2 a": 15, "DPM fast": 8, "DDIM": 8, "UniPC": 8,
}  # fmt: skip
"""Of the guided denoiser in 8 steps; DPM adaptive takes as many as it likes."""


def order(sampler: str = "Euler", **settings: object) -> Order:
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 2, "window_batch": 16, **settings})
    return Order(["a red disc"], [7], 64, 64, params, steps=8, sampler=sampler, guidance=1.0)


def draw(model: Model, wanted: Order) -> list[Finished]:
    return list(Drawing(model, wanted).phases())


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_carries_the_residual(sampler: str, models: dict[str, Model]) -> None:
    """At full strength in every step a phase ends at the enlarged base latent, but for what the last step draws."""
    base, phase = draw(models["sd"], order(sampler, a1=0.0, a2=10.0))
    enlarged = with_statistics(upsample(base.latent, 16, 16), *statistics(base.latent))
    assert error(phase.latent, enlarged) < 0.1
    _, free = draw(models["sd"], order(sampler, skip_residual=False, a2=10.0))
    assert error(free.latent, enlarged) > 0.5


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name in EVALUATIONS])
def test_nothing_is_evaluated_twice_or_for_nothing(sampler: str, models: dict[str, Model]) -> None:
    base, phase = draw(models["sd"], order(sampler, dilated=False))
    assert base.evaluations == EVALUATIONS[sampler]
    assert phase.evaluations == 9 * EVALUATIONS[sampler]
    _, windows_left_out = draw(models["sd"], order(sampler, a2=0.0))
    assert windows_left_out.evaluations == 4 * EVALUATIONS[sampler]


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("sd", "Euler a"), ("sd-v", "Euler a"), ("sdxl", "Euler a"), ("sd-v", "DPM++ SDE"), ("sdxl", "UniPC")],
)
def test_a_batch_draws_what_single_runs_draw(name: str, sampler: str, models: dict[str, Model]) -> None:
    two = replace(order(sampler), prompts=["a red disc", "blue fog"], seeds=[7, 8], guidance=3.0)
    together = draw(models[name], two)[-1].latent
    for i in range(2):
        alone = draw(models[name], replace(two, prompts=[two.prompts[i]], seeds=[two.seeds[i]]))[-1].latent
        assert error(together[i : i + 1], alone) < 1e-4
    assert error(together[:1], together[1:]) > 0.1


def test_the_same_seed_draws_the_same_bits(models: dict[str, Model]) -> None:
    first, second = (draw(models["sdxl"], order("DPM++ 2M SDE"))[-1].latent for _ in range(2))
    assert torch.equal(first, second)


def test_sizes_phases_and_plans(models: dict[str, Model]) -> None:
    sizes = [p.size_px for p in draw(models["sd"], replace(order(scale=2.5), width_px=96))]
    assert sizes == [(96, 64), (192, 128), (240, 160)]
    assert [p.size_px for p in draw(models["sd"], order(scale=3, plan="direct"))] == [(64, 64), (192, 192)]
    assert [p.size_px for p in draw(models["sd"], order(target_width=128, target_height=64))] == [(64, 64), (128, 64)]
    with pytest.raises(SettingsError, match="target_width is 32"):
        Drawing(models["sd"], order(target_width=32))


def test_a_target_of_another_shape_climbs_from_the_middle(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []

    def phase(self: Drawing, wanted: object, previous: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        given.append(previous)
        self.evaluations = 0
        return previous

    monkeypatch.setattr(Drawing, "_phase", phase)
    base = draw(models["sd"], order(target_width=128, target_height=64))[0].latent
    assert torch.equal(given[0], upsample(base[..., 2:6, :], 8, 16))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_a_model_and_its_epsilon_twin_draw_the_same(sampler: str, prediction: str, models: dict[str, Model]) -> None:
    """One network, its answer given as epsilon and otherwise. Without blur: under it the network's output is what is kept."""
    model = models["sd"]
    levels = model.alphas_cumprod

    class Told(torch.nn.Module):
        """Epsilon of the same network as `v = (eps - sigma * x) / alpha` or the picture `(x - sigma * eps) / alpha`."""

        config, dtype, device = model.unet.config, model.dtype, model.device

        def forward(self, x: torch.Tensor, t: torch.Tensor, **extra: object) -> tuple[torch.Tensor]:
            eps = model.unet(x, t, **extra)[0]
            level = float(Schedule(levels).sigma(t[:1].double()))
            alpha = 1 / (level**2 + 1) ** 0.5
            sigma = level * alpha
            return ((eps - sigma * x if prediction == "v_prediction" else x - sigma * eps) / alpha,)

    assert isinstance(model.unet, UNet2DConditionModel)
    wanted = replace(order(sampler, blur=0.0), guidance=3.0)
    twin = replace(model, unet=Told(), prediction=prediction)
    assert error(draw(twin, wanted)[-1].latent, draw(model, wanted)[-1].latent) < 1e-3


def test_blur_keeps_what_the_network_answers() -> None:
    """Of the blurred latent the network's own answer is kept: a picture as it is, whatever it was blurred from."""
    for form in (SigmaForm(3.0, "sample"), EpsForm(0.6, 0.8, "sample")):
        x, blurred, answer = torch.randn(3, 1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
        kept = form.answer(blurred, answer) + form.skip * (x - blurred)
        assert torch.allclose(kept, form.answer(x, answer), atol=1e-6)


def test_windows_tell_sdxl_where_they_lie(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    real = models["sdxl"].unet.forward

    def forward(*args: object, **kwargs: dict[str, torch.Tensor]) -> object:
        seen.extend(kwargs["added_cond_kwargs"]["time_ids"].tolist())
        return real(*args, **kwargs)

    monkeypatch.setitem(vars(models["sdxl"].unet), "forward", forward)  # and nothing is left on it
    draw(models["sdxl"], replace(order(jitter=False), steps=2))
    assert seen[:2] == [[64, 64, 0, 0, 64, 64]] * 2
    corners = [[128, 128, top, left, 128, 128] for top in (0, 32, 64) for left in (0, 32, 64)]
    assert seen[2:11] == corners
    assert seen[11:15] == [[128, 128, 0, 0, 128, 128]] * 4  # dilated
    for told, size in (("phase", 128), ("base", 64)):
        seen.clear()
        draw(models["sdxl"], replace(order(scale=3, sdxl_size=told), steps=2))
        assert {tuple(ids[:2]) for ids in seen[2:15]} == {(size, size)}


def test_samplers_by_name() -> None:
    assert find_sampler("DPM++ 2M Karras")[1] == find_sampler("DPM++ 2M")[1] == "Karras"
    assert find_sampler("Euler Karras")[1] == find_sampler("Euler", "Karras")[1] == "Karras"
    assert find_sampler("Euler")[1] == "Uniform"
    for bad in (("Euler b",), ("Euler", "Fast"), ("DDIM", "Karras"), ("Euler Karras", "Exponential")):
        with pytest.raises(UserError, match="allowed"):
            find_sampler(*bad)


@pytest.mark.parametrize("steps", [1, 2])
def test_unipc_of_few_steps_is_of_a_lower_order(steps: int, models: dict[str, Model]) -> None:
    """Of one it is a step of DDIM; neither is refused, as the default preset has two in a phase."""
    settings = {"preset": "draft", "steps": steps}
    phases = [draw(models["sd"], order("Euler", phase_sampler=name, **settings))[-1] for name in ("UniPC", "Euler")]
    assert phases[0].evaluations == phases[1].evaluations
    assert error(phases[0].latent, phases[1].latent) < (0.02 if steps == 1 else 0.2)
    assert draw(models["sd"], replace(order("UniPC", scale=1), steps=steps))[0].evaluations == steps


PLANNED = (
    {"dilated": False, "overlap": 0.0}, {"a2": 0.0, "steps": 3}, {"a2": 10.0, "scale": 2.5, "plan": "doubling"},
    {"preset": "fast"}, {"preset": "draft", "scale": 3, "steps": 3},
)  # fmt: skip
"""No global path; no windows; a global path that soon has no weight, in two phases; guidance in some steps, and by a pass of
the base's size."""


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name in EVALUATIONS])
def test_the_plan_counts_what_is_evaluated(sampler: str, models: dict[str, Model]) -> None:
    """Row for row, phase by phase."""
    for settings in PLANNED:
        drawing = Drawing(models["sd"], replace(order(sampler, **settings), guidance=2.0, steps=5))
        done = [phase.evaluations for phase in drawing.phases()]
        plan = drawing.plan
        assert done == [plan.base_evaluations, *map(plan.evaluations, plan.phases)]
        assert plan.total_evaluations == sum(done)


def test_dpm_adaptive_is_planned_about_right(models: dict[str, Model]) -> None:
    drawing = Drawing(models["sd"], replace(order("DPM adaptive"), guidance=2.0))
    done = sum(phase.evaluations for phase in drawing.phases())
    assert done / 2 <= drawing.plan.total_evaluations <= 2 * done


def test_a_window_of_nan_is_drawn_again_in_float32(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are of half the precision before and after, and of the whole while one window is asked for again."""
    model = models["sdxl"]
    undisturbed = draw(model, replace(order(), guidance=2.0))[-1].latent
    precisions: list[tuple[torch.dtype, int]] = []
    real = UNet2DConditionModel.forward

    def forward(self: UNet2DConditionModel, x: torch.Tensor, *args: object, **kwargs: object) -> object:
        precisions.append((self.dtype, len(x)))
        answer = real(self, x, *args, **kwargs)[0]
        return (answer.index_fill(0, torch.tensor([3]), torch.nan) if len(precisions) == 12 else answer,)

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    weights = [tensor.clone() for tensor in model.unet.parameters()]
    try:
        model.unet.to(torch.bfloat16)
        short = [tensor.clone() for tensor in model.unet.parameters()]
        drawing = Drawing(model, replace(order(), guidance=2.0))
        latent = list(drawing.phases())[-1].latent
        assert all(torch.equal(one, other) for one, other in zip(model.unet.parameters(), short))
    finally:
        model.unet.to(torch.float32)
        for tensor, weight in zip(model.unet.parameters(), weights):
            tensor.data.copy_(weight)
    assert precisions[12] == (torch.float32, 1)
    assert {dtype for n, (dtype, _) in enumerate(precisions) if n != 12} == {torch.bfloat16}
    assert torch.isfinite(latent).all() and error(latent, undisturbed) < 0.1


def test_the_window_batch_is_found_once_and_kept(models: dict[str, Model]) -> None:
    drawing = Drawing(models["sd"], replace(order(scale=3, window_batch=0), guidance=2.0, steps=2))
    automatic = list(drawing.phases())[-1].latent
    assert drawing.batch.size == 16
    fixed = draw(models["sd"], replace(order(scale=3, window_batch=5), guidance=2.0, steps=2))[-1].latent
    assert error(automatic, fixed) < 1e-4
