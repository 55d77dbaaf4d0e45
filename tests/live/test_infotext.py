"""The infotext says what was done, and brings the picture back; kept phases come along."""

from __future__ import annotations

from typing import Any

import pytest

from .client import ROUNDING, WebUI, apart, assert_drawn, mean_apart

EVERY_SETTING = {
    "scale": 2.5, "plan": "doubling", "steps": 4, "a1": 2.5, "a2": 1.5, "a3": 0.7, "step_normalised": False,
    "blur": 1.25, "overlap": 0.25, "jitter": False, "border": "paper", "window_batch": 5, "sdxl_size": "base",
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (EVERY_SETTING, {}),
        (EVERY_SETTING, {"sampler_name": "DPM++ 2M SDE", "scheduler": "Karras", "subseed": 9, "subseed_strength": 0.25}),
        ({"target_width": 96, "target_height": 160, "window_batch": 16}, {"sampler_name": "DDIM", "cfg_scale": 3.5, "width": 72}),
        ({"target_height": 136, "window_batch": 16}, {"sampler_name": "UniPC", "prompt": "a: \"disc\", red AND house :0.5, [a:b:0.5]"}),
        ({"keep_phases": True, "window_batch": 16}, {"sampler_name": "Euler a", "s_min_uncond": 2, "override_settings": {"CLIP_stop_at_last_layers": 2}}),
    ],
)  # fmt: skip
def test_an_infotext_brings_the_picture_back(webui: WebUI, settings: dict[str, Any], fields: dict[str, Any]) -> None:
    answer = webui.draw({"enabled": True, **settings}, **fields)
    again = webui.paste(answer.infotexts[0])
    assert again.infotexts == answer.infotexts
    assert again.images == answer.images


@pytest.mark.once
def test_an_infotext_without_demofusion_leaves_it_off(webui: WebUI) -> None:
    plain = webui.draw()
    assert webui.paste(plain.infotexts[0]).images == plain.images


@pytest.mark.once
def test_the_infotext_says_what_differs_from_the_defaults(webui: WebUI) -> None:
    answer = webui.draw({"enabled": True, "preset": "none", "scale": 1.5, "border": "paper", "a1": 3, "jitter": True})
    text = answer.infotexts[0]
    assert "DemoFusion enabled: True" in text and "DemoFusion scale: 1.5" in text and "DemoFusion border: paper" in text
    assert text.count("DemoFusion") == 3
    assert "Size: 64x64" in text
    assert answer.picture.info["parameters"] == text
    assert "DemoFusion" not in webui.draw().infotexts[0]
    assert "DemoFusion" not in webui.enlarge(scale=1).infotexts[0]


@pytest.mark.once
def test_the_infotext_is_read_by_the_host(webui: WebUI) -> None:
    """Its PNG info tab finds every key."""
    answer = webui.draw({"enabled": True, "preset": "none", **EVERY_SETTING})
    parameters = webui.ask("png-info", {"image": answer.images[0]})["parameters"]
    found = {key for key in parameters if key.startswith("DemoFusion ")}
    assert found == {f"DemoFusion {name.replace('_', ' ')}" for name in ("enabled", *EVERY_SETTING)}


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_kept_phases(webui: WebUI, sampler: str) -> None:
    """The result first, then phase by phase: the host's own base image, and what a run to that scale draws."""
    fields = {"sampler_name": sampler}
    kept = webui.enlarge(fields, scale=3, sdxl_size="phase", keep_phases=True)
    assert kept.sizes == [(192, 192), (64, 64), (128, 128)]
    assert len(kept.infotexts) == 3
    assert apart(kept.pictures[1], webui.draw(**fields).picture) == 0
    assert apart(kept.pictures[2], webui.enlarge(fields, scale=2, sdxl_size="phase").picture) == 0
    assert apart(kept.picture, webui.enlarge(fields, scale=3, sdxl_size="phase").picture) == 0
    for picture, text in zip(kept.pictures, kept.infotexts, strict=True):
        assert picture.info["parameters"] == text


@pytest.mark.once
def test_kept_phases_of_batches(webui: WebUI) -> None:
    kept = webui.enlarge({"batch_size": 2, "n_iter": 2, "seed": 20}, keep_phases=True)
    assert kept.sizes == [(128, 128)] * 4 + [(64, 64)] * 4
    for i, (picture, text) in enumerate(zip(kept.pictures, kept.infotexts, strict=True)):
        assert f"Seed: {20 + i % 4}," in text
        assert picture.info["parameters"] == text
    assert apart(kept.pictures[6], webui.draw(seed=22).picture) <= ROUNDING


@pytest.fixture(scope="module")
def rounding(webui: WebUI) -> float:
    """What this model's picture moves by if only its windows are grouped otherwise; a repeated run moves it by nothing."""
    picture = webui.enlarge().picture
    assert apart(webui.enlarge().picture, picture) == 0
    return max(mean_apart(webui.enlarge(window_batch=batch).picture, picture) for batch in (1, 3))


@pytest.mark.once
@pytest.mark.usefixtures("needs_response")
@pytest.mark.parametrize(
    ("setting", "weaker"),
    [
        ({"a1": 1}, {"a1": 2.9}),
        ({"a2": 5}, {"a2": 1.1}),
        ({"a3": 10}, {"a3": 1.1}),
        ({"blur": 0}, {"blur": 0.75}),
        ({"overlap": 0.25}, None),
        ({"jitter": False}, None),
        ({"border": "paper"}, None),
        ({"step_normalised": False}, None),
    ],
)
def test_every_setting_counts(
    webui: WebUI, rounding: float, setting: dict[str, Any], weaker: dict[str, Any] | None
) -> None:
    """A setting that does not reach the engine would draw the default's picture.

    How much it moves the picture is the model's affair, so it is measured on the loaded one: far more than rounding
    does, and more than the value beside the default does, which is more than rounding in its turn.
    """
    default = webui.enlarge().picture
    moved = mean_apart(webui.enlarge(**setting).picture, default)
    assert moved > 10 * rounding
    if weaker is not None:
        assert moved > mean_apart(webui.enlarge(**weaker).picture, default) > 10 * rounding


@pytest.mark.once
def test_kept_phases_of_a_cropped_target(webui: WebUI) -> None:
    kept = webui.enlarge(target_width=128, target_height=192, keep_phases=True)
    assert_drawn(kept.picture, (128, 192))
    assert kept.sizes[1][1] == 64 and kept.sizes[1][0] in (40, 48)
