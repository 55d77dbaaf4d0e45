"""Bad settings stop the run before its first step, with a message to act upon, and leave the webui as it was."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from .client import WebUI, assert_drawn

pytestmark = pytest.mark.once
LENGTHY = {"steps": 150, "width": 512, "height": 512}
"""A run of many seconds, so that an answer at once shows that nothing was drawn."""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scale": 9}, ["scale", "9", "1 to 8"]),
        ({"scale": 0.5}, ["scale", "0.5", "1 to 8"]),
        ({"scale": "big"}, ["scale", "'big'", "1 to 8"]),
        ({"scale": None}, ["scale", "None", "1 to 8"]),
        ({"scale": True}, ["scale", "True", "1 to 8"]),
        ({"scale": [2]}, ["scale", "[2]", "1 to 8"]),
        ({"plan": "fast"}, ["plan", "'fast'", "every, doubling, direct"]),
        ({"plan": ["every"]}, ["plan", "every, doubling, direct"]),
        ({"steps": 2.5}, ["steps", "2.5", "whole numbers 0 to 150"]),
        ({"steps": -1}, ["steps", "-1", "0 to 150"]),
        ({"a1": -1}, ["a1", "-1", "0 to 10"]),
        ({"overlap": 1}, ["overlap", "1", "0 to 0.9"]),
        ({"jitter": "yes"}, ["jitter", "'yes'", "true or false"]),
        ({"border": ""}, ["border", "''", "inside, paper"]),
        ({"window_batch": -1}, ["window_batch", "-1", "0 to 64"]),
        ({"target_width": 1001}, ["target_width", "1001", "multiples of 8", "nearest is 1000"]),
        ({"target_width": 256}, ["target_width", "256", "512 to 4096"]),
        ({"target_width": 64, "target_height": 64}, ["target_", "64", "512 to 4096"]),
        ({"target_height": 8192}, ["target_height", "8192", "512 to 4096"]),
        ({"enabled": "on"}, ["enabled", "'on'", "true or false"]),
        ({"scael": 4}, ["unknown", "scael", "enabled", "scale", "keep_phases"]),
        ({"scale": 9, "plan": "fast", "scael": 4}, ["unknown setting 'scael'", "scale is 9", "plan is 'fast'"]),
        ({"target_width": 64, "target_height": 8192}, ["target_width is 64", "target_height is 8192"]),
        ({"\ud800": 4}, ["unknown setting '\\ud800'"]),
        ({"scale": "9" * 200_000}, ["scale is '999", "..."]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_settings(webui: WebUI, settings: dict[str, Any], told: list[str]) -> None:
    began = monotonic()
    answer = webui.try_draw({"enabled": True, **settings}, **LENGTHY)
    assert answer.status == 422, answer.body
    assert monotonic() - began < 5
    assert answer.detail.startswith("DemoFusion: ") and len(answer.detail) < 700
    missing = [word for word in told if word not in answer.detail]
    assert not missing, f"{answer.detail!r} does not say {missing}"


@pytest.mark.parametrize(
    ("fields", "settings", "told"),
    [
        ({"sampler_name": "UniPC", "steps": 1}, {}, ["steps", "1", "UniPC"]),
    ],
)
def test_samplers_that_these_steps_do_not_suit(
    webui: WebUI, fields: dict[str, Any], settings: dict[str, Any], told: list[str]
) -> None:
    answer = webui.try_draw({"enabled": True, **settings}, **fields)
    assert answer.status == 422, answer.body
    assert all(word in answer.detail for word in told), answer.detail


def test_unipc_takes_the_steps_of_a_preset(webui: WebUI) -> None:
    """Fewer than its order, which the webui's own base image can't have."""
    assert_drawn(webui.draw({"enabled": True, "preset": "fast"}, sampler_name="UniPC").picture, (128, 128))


@pytest.mark.parametrize("size", [(-64, 64), (64, -64), (0, 64)])
def test_a_base_image_of_no_size(webui: WebUI, size: tuple[int, int]) -> None:
    """The host would log what goes wrong in the hook and draw on without us."""
    answer = webui.try_draw({"enabled": True}, width=size[0], height=size[1])
    assert answer.status == 422, answer.body
    assert "below 8 px" in answer.detail


def test_settings_that_are_off_say_nothing(webui: WebUI) -> None:
    plain = webui.draw().images
    assert webui.draw({"enabled": False, "scael": 4, "scale": 99}).images == plain
    assert webui.draw([False, 99]).images == plain


def test_the_webui_is_fine_afterwards(webui: WebUI) -> None:
    plain, large = webui.draw(), webui.enlarge()
    assert webui.try_draw({"enabled": True, "scale": 9}).status == 422
    assert webui.draw().images == plain.images
    assert webui.try_draw({"enabled": True, "scael": 9}, n_iter=2, batch_size=2).status == 422
    assert webui.enlarge().images == large.images
    assert_drawn(large.picture, (128, 128))


def test_values_by_position(webui: WebUI) -> None:
    """The table's order; those left out are what the page begins with."""
    named = {"enabled": True, "scale": 1.5, "plan": "direct", "steps": 2, "a1": 2.0}
    positions = [True, 1.5, 0, 0, "direct", 2, 2.0]
    assert webui.draw(positions).images == webui.draw(named).images
    everything = [
        True, 1.5, 0, 0, "direct", 2, 2.0, 1.0, 1.0, True, 0.8, 0.5, True, "inside", 0, "final", False, True, True, "auto",
        False, "", 1000, "blend", 0.0, "flat", "windows", 0, "none",
    ]  # fmt: skip
    drawn = webui.draw({**named, "preset": "none"}).images
    assert webui.draw([*everything, "same", "same", "latent"]).images == drawn


def test_bad_values_by_position(webui: WebUI) -> None:
    answer = webui.try_draw([True, 9])
    assert answer.status == 422
    assert "scale" in answer.detail and "1 to 8" in answer.detail
