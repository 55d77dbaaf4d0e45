"""What a run is made of, against the paper's counts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from demofusion_lib.core import evaluated_sigmas
from demofusion_lib.params import Params
from demofusion_lib.plan import Plan
from demofusion_lib.setting import SettingsError

from .support import SCHEDULE, draws

README = Path(__file__).parents[2] / "README.md"


def levels(steps: int, start: float | None = None) -> list[float]:
    """Of Euler at uniform timesteps, the last of which is 0; from a start, without that one."""
    if start is not None:
        return [start * (1 - i / steps) for i in range(steps)]
    sigmas = SCHEDULE.sigmas(steps).tolist()
    return [SCHEDULE.t(sigma) for sigma in evaluated_sigmas("sample_euler", sigmas, SCHEDULE.ends)]


def plan(drawn_lat: tuple[int, int] = (64, 64), steps: int = 50, **settings: Any) -> Plan:
    fields = {name: settings.pop(name) for name in ("images", "passes", "wrap") if name in settings}
    return Plan(
        Params.from_names({"enabled": True, "preset": "none", **settings}), drawn_lat, steps, "sample_euler", levels, **fields
    )  # fmt: skip


@pytest.mark.parametrize(("scale", "units"), [(2, 14), (3, 48), (4, 113)])
def test_units_are_the_papers(scale: float, units: int) -> None:
    """`(2s - 1)^2 + s^2` for each phase, but for the last step, at t = 0, where the global path has no weight."""
    made = plan(scale=scale)
    last_steps = sum(s * s for s in range(2, scale + 1)) / 50
    assert made.units == pytest.approx(units - last_steps)
    assert [made.views(phase) for phase in made.phases] == [((2 * s - 1) ** 2, s * s) for s in range(2, scale + 1)]


def test_rows_are_counted_for_every_image_prompt_and_step() -> None:
    made = plan(scale=2, images=3, passes=2, steps=20)
    assert made.base_evaluations == 3 * 2 * 20
    assert made.evaluations(made.phases[0]) == 3 * 2 * (20 * 9 + 19 * 4)
    fewer = plan(scale=2, steps=10)
    assert fewer.total_evaluations == 2 * (10 + 10 * 9 + 9 * 4)
    own = plan(scale=2, **{"steps": 7})
    assert own.phase_steps == 7


def test_a_phase_can_have_steps_of_its_own() -> None:
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 2, "steps": 5})
    made = Plan(params, (64, 64), 50, "sample_euler", levels)
    assert (made.base_evaluations, made.evaluations(made.phases[0])) == (100, 2 * (5 * 9 + 4 * 4))


@pytest.mark.parametrize(
    ("preset", "rows"),
    [
        ("none", [512, 1854, 4422, 34874]), ("paper", [512, 1854, 4422, 34874]),
        ("fine", [9 * 10, 25 * 10, 34 * 10, 155 * 10]),  # 9, 16, 25 and 121 windows, 5 guided steps
        ("fast", [9 * 4, 25 * 4, 34 * 4, 155 * 4]),  # 2
        ("draft", [9 * 2 + 4, 25 * 2 + 8, 34 * 2 + 8, 155 * 2 + 12]),  # two rows of the base's size beside each step
    ],
)  # fmt: skip
def test_rows_of_the_presets(preset: str, rows: list[int]) -> None:
    """At 2, 3, 4 and 8 times the base of 20 steps, its own 40 left out."""
    counted = []
    for scale in (2, 3, 4, 8):
        made = plan(steps=20, scale=scale, preset=preset)
        counted.append(made.total_evaluations - made.base_evaluations)
    assert counted == rows
    costs = re.search(rf"\| [^|]*`{preset}`[^|]* \|((?: [\d.]+ \|){{4}})", README.read_text(encoding="utf-8"))
    told = costs and [float(cost) for cost in costs[1].strip("| ").split("|")]
    assert told == [round(1 + n / 40 + 1e-9, 1) for n in rows]


@pytest.mark.parametrize(
    ("settings", "patches"),
    [({"dilated": False}, 50 * 9), ({"a2": 0}, 50 * 4), ({"overlap": 0, "dilated": False}, 50 * 4), ({"wrap": True}, 50 * 16 + 49 * 4)],
    ids=str,
)  # fmt: skip
def test_paths_of_no_weight_cost_nothing(settings: dict[str, Any], patches: int) -> None:
    made = plan(scale=2, passes=1, **settings)
    assert made.evaluations(made.phases[0]) == patches


def test_a_path_of_next_to_no_weight_is_not_run() -> None:
    """The weight `cf ** 10` falls below a float32's reach at a third of the way."""
    made = plan(scale=2, passes=1, a2=10)
    global_steps = (made.evaluations(made.phases[0]) - 50 * 9) // 4
    assert 30 < global_steps < 40


@pytest.mark.parametrize(
    ("told", "sizes"), [("final", [(1024, 512)] * 2), ("phase", [(512, 256), (1024, 512)]), ("base", [(256, 128)] * 2)]
)
def test_sizes_told(told: str, sizes: list[tuple[int, int]]) -> None:
    """Height first. A target of another shape crops the base image, and a cropped one is told of."""
    made = plan((32, 32), target_width=512, target_height=1024, plan="doubling", sdxl_size=told)
    assert made.base_lat == (32, 16)
    assert [made.told_px(phase) for phase in made.phases] == sizes


def test_nothing_to_climb_to() -> None:
    made = plan(scale=1)
    assert made.phases == [] and made.units == 1
    with pytest.raises(SettingsError, match="target_width is 128"):
        plan(target_width=128)


def test_the_engine_is_the_settings() -> None:
    made = plan((16, 16), scale=2, a1=2, blur=0.5, overlap=0.25, jitter=False, window_batch=5, skip_residual=True)
    phase = made.phases[0]
    previous, noise = draws(1, 1, 4, 32, 32), draws(2, 1, 4, 32, 32)
    engine = made.engine(phase, previous, draws(3, 1, 4, 16, 16), noise, [7], stochastic=True)
    assert engine.residual.previous is previous and engine.residual.noise is noise
    assert engine.residual.stochastic and engine.residual.normalise
    assert engine.fusion.weights.a1 == 2 and engine.fusion.blur == 0.5
    assert engine.fusion.grid == made.grid(phase) and engine.fusion.grid.overlap == 0.25
    assert next(engine.starts) is True
    assert [g.initial_seed() for g in engine.generators(3)] != [g.initial_seed() for g in engine.generators(4)]


def test_a_report_for_readers() -> None:
    report = plan(scale=2, steps=20).report()
    base, phase = report["phases"]
    assert (base["width"], base["height"], base["evaluations"], base["windows"]) == (512, 512, 40, 1)
    assert (phase["width"], phase["height"], phase["windows"], phase["sub_images"]) == (1024, 1024, 9, 4)
    assert report["evaluations"] == 40 + phase["evaluations"]
    assert report["units"] == pytest.approx(report["evaluations"] / 40)
    for settings, views in (
        ({"preset": "fast"}, (9, 0)),
        ({"a2": 0}, (0, 4)),
        ({"dilated": False, "overlap": 0}, (4, 0)),
    ):
        (_, phase) = plan(scale=2, steps=20, **settings).report()["phases"]
        assert (phase["windows"], phase["sub_images"]) == views
