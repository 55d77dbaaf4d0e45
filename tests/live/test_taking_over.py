"""Latents that are held in memory, in the host: what is taken over of them is what would be drawn, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest

from .client import Answer, WebUI
from .conftest import OPTIONS

SIZES = {"scale": 2, "sdxl_size": "phase", "steps": 8}
"""SDXL is told the final picture's size otherwise, which makes all phases others."""


@pytest.fixture
def held(webui: WebUI) -> Iterator[WebUI]:
    """Nothing at first; nothing afterwards."""
    webui.enlarge()  # lets go of what there is
    webui.set_options(demofusion_held_mb=64)
    yield webui
    webui.set_options(demofusion_held_mb=OPTIONS["demofusion_held_mb"])
    webui.enlarge()


def timed(webui: WebUI, **settings: object) -> tuple[Answer, float]:
    began = monotonic()
    return webui.enlarge(fields_of(settings), **settings), monotonic() - began


def fields_of(settings: dict[str, object]) -> dict[str, object]:
    return dict(settings.pop("fields", {}))  # type: ignore[call-overload]


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE", "DDIM"])
def test_two_times_then_three_times(webui: WebUI, sampler: str, held: WebUI) -> None:
    fields = {"sampler_name": sampler, "override_settings": {"demofusion_held_mb": 0}}
    from_nothing = webui.enlarge(fields, **{**SIZES, "scale": 3})
    fields = {"sampler_name": sampler}
    webui.draw(**fields)  # without us
    webui.enlarge(fields, **SIZES)
    first, drawn = timed(webui, **{**SIZES, "scale": 3, "fields": fields})
    again, taken = timed(webui, **{**SIZES, "scale": 3, "fields": fields})
    assert first.images == again.images == from_nothing.images
    assert taken < drawn / 2  # the last phase is not drawn again


def test_a_batch_and_its_count(held: WebUI, webui: WebUI) -> None:
    fields = {"batch_size": 2, "n_iter": 2}
    from_nothing = webui.enlarge({**fields, "override_settings": {"demofusion_held_mb": 0}}, **SIZES)
    webui.draw(**fields)
    assert webui.enlarge(fields, **SIZES).images == from_nothing.images
    assert webui.enlarge(fields, **SIZES).images == from_nothing.images


@pytest.mark.parametrize(
    "change",
    [{"cfg_scale": 4}, {"override_settings": {"CLIP_stop_at_last_layers": 2}}, {"prompt": "a blue house"}, {"tiling": True},
     {"override_settings": {"eta_noise_seed_delta": 7}, "sampler_name": "Euler a"}],
    ids=str,
)  # fmt: skip
def test_another_picture_is_drawn_as_from_nothing(held: WebUI, webui: WebUI, change: dict[str, object]) -> None:
    nothing = {"override_settings": {"demofusion_held_mb": 0, **change.get("override_settings", {})}}  # type: ignore[dict-item]
    from_nothing = webui.enlarge({**change, **nothing}, **SIZES)
    webui.enlarge(**SIZES)
    assert webui.enlarge(change, **SIZES).images == from_nothing.images


def test_without_us_every_picture_is_drawn(held: WebUI, webui: WebUI) -> None:
    webui.enlarge(**SIZES)
    assert webui.draw().images == webui.draw(override_settings={"demofusion_held_mb": 0}).images
