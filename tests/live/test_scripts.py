"""Scripts that run the whole webui many times over."""

from __future__ import annotations

import pytest

from .client import WebUI, apart, choice_index

pytestmark = pytest.mark.once
XYZ = "x/y/z plot"
CHOSEN = {
    "Draw legend": False, "Include Sub Images": True, "Include Sub Grids": False, "Keep -1 for seeds": False,
    "Use text inputs instead of dropdowns": True,
}  # fmt: skip
"""Of its arguments, of which reForge's has more than the first webui's."""


def plot(webui: WebUI, x: tuple[str, str], y: tuple[str, str] = ("Nothing", "")) -> dict[str, object]:
    """The request fields of a plot that returns its single pictures too."""
    axes: list[object] = []
    for number, (kind, values) in enumerate((x, y, ("Nothing", ""))):
        axes += [choice_index(webui, XYZ, 3 * number, kind), values, None]
    (script,) = (info for info in webui.ask("script-info") if info["name"] == XYZ and not info["is_img2img"])
    others = {arg["label"]: arg["value"] for arg in script["args"][len(axes) :]}
    others |= {name: value for name, value in CHOSEN.items() if name in others}
    return {"script_name": XYZ, "script_args": [*axes, *others.values()]}


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
