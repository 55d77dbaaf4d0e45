"""Scripts that run the whole webui many times over."""

from __future__ import annotations

import pytest

from .client import WebUI, apart, choice_index

pytestmark = pytest.mark.once
XYZ = "x/y/z plot"


def plot(webui: WebUI, x: tuple[str, str], y: tuple[str, str] = ("Nothing", "")) -> dict[str, object]:
    """The request fields of a plot that returns its single pictures too: 18 arguments, in the script's order."""
    axes: list[object] = []
    for number, (kind, values) in enumerate((x, y, ("Nothing", ""))):
        axes += [choice_index(webui, XYZ, 3 * number, kind), values, None]
    legend, lone_images, grids, keep_random, vary = False, True, False, False, [False] * 3
    return {"script_name": XYZ, "script_args": [*axes, legend, lone_images, grids, keep_random, *vary, 0, True]}


def test_a_plot_over_seeds_and_steps(webui: WebUI) -> None:
    answer = webui.enlarge(plot(webui, ("Seed", "5, 6"), ("Steps", "2, 3")))
    grid, *cells = answer.pictures
    assert grid.size == (256, 256)
    wanted = [{"seed": seed, "steps": steps} for steps in (2, 3) for seed in (5, 6)]
    assert len(cells) == len(wanted)
    for cell, fields in zip(cells, wanted, strict=True):
        assert apart(cell, webui.enlarge(fields).picture) == 0


def test_a_plot_over_samplers(webui: WebUI) -> None:
    names = ["Euler", "DDIM", "DPM++ SDE"]
    cells = webui.enlarge(plot(webui, ("Sampler", ", ".join(names)))).pictures[1:]
    assert len(cells) == len(names)
    for cell, name in zip(cells, names, strict=True):
        assert apart(cell, webui.enlarge({"sampler_name": name}).picture) == 0


def test_a_plot_with_demofusion_off(webui: WebUI) -> None:
    cells = webui.draw(**plot(webui, ("Seed", "5, 6"))).pictures[1:]
    assert [apart(cell, webui.draw(seed=seed).picture) for cell, seed in zip(cells, (5, 6), strict=True)] == [0, 0]


@pytest.mark.parametrize("values", ["64x64, 72x104"])
def test_a_plot_over_sizes(webui: WebUI, values: str) -> None:
    cells = webui.enlarge(plot(webui, ("Size", values))).pictures[1:]
    assert [cell.size for cell in cells] == [(128, 128), (144, 208)]
