"""Sizes: portraits, strips, fractional scales, targets in pixels with the base image cropped to their shape."""

from __future__ import annotations

import pytest

from .client import WebUI, assert_drawn, scaled


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(104, 152, 2), (104, 152, 1.5), (72, 200, 2), (136, 64, 2.5), (200, 72, 3), (64, 64, 3.7), (72, 72, 1.05)],
)
def test_scale(webui: WebUI, width: int, height: int, scale: float) -> None:
    answer = webui.enlarge({"width": width, "height": height}, scale=scale)
    assert_drawn(answer.picture, scaled(width, height, scale))
    assert f"Size: {width}x{height}" in answer.infotexts[0], "the infotext's size is the base image's"


@pytest.mark.once
@pytest.mark.parametrize("plan", ["every", "doubling", "direct"])
def test_plans_reach_the_same_size(webui: WebUI, plan: str) -> None:
    assert_drawn(webui.enlarge(scale=4, plan=plan, steps=2).picture, (256, 256))


@pytest.mark.parametrize(
    ("base", "target", "size"),
    [
        ((64, 64), (128, 192), (128, 192)),  # the sides of the base image are cropped away
        ((128, 64), (160, 160), (160, 160)),
        ((64, 96), (144, 0), (144, 216)),  # a side of its own accord
        ((64, 96), (0, 144), (96, 144)),
        ((72, 104), (104, 128), (104, 128)),
    ],
)
def test_target(webui: WebUI, base: tuple[int, int], target: tuple[int, int], size: tuple[int, int]) -> None:
    fields = {"width": base[0], "height": base[1]}
    answer = webui.enlarge(fields, target_width=target[0], target_height=target[1])
    assert_drawn(answer.picture, size)


def test_scale_1_is_the_hosts_picture(webui: WebUI) -> None:
    assert webui.enlarge(scale=1).images == webui.draw().images
    assert webui.draw({"enabled": False, "scale": 4}).images == webui.draw().images


@pytest.mark.once
@pytest.mark.parametrize("border", ["inside", "paper"])
@pytest.mark.parametrize("overlap", [0, 0.9])
def test_windows_cover_a_portrait(webui: WebUI, border: str, overlap: float) -> None:
    fields = {"width": 72, "height": 136, "steps": 2}
    answer = webui.enlarge(fields, border=border, overlap=overlap, window_batch=64)
    assert_drawn(answer.picture, (144, 272))
