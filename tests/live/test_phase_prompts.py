"""CFG scale, prompt and negative prompt of the phases' own, and what comes out beside the result."""

from __future__ import annotations

from typing import Any

import pytest

from .client import REQUEST, WebUI, apart

ODD = 'a "b", c: d\n(e:1.2) [f:g:0.5] AND h :0.4 \\(x\\)'


def test_the_base_images_own_are_the_same_bytes(webui: WebUI) -> None:
    plain = webui.enlarge()
    own: dict[str, Any] = {"phase_prompt": REQUEST["prompt"], "phase_negative": REQUEST["negative_prompt"]}
    same = webui.enlarge(**own, phase_cfg=REQUEST["cfg_scale"])
    assert same.picture.tobytes() == plain.picture.tobytes()
    assert "DemoFusion phase prompt" not in same.infotexts[0]
    assert webui.enlarge().images == plain.images


@pytest.mark.parametrize("text", [ODD, '"red"', "64x64", "[a:b:1.5]"])
def test_pasting_brings_them_back(webui: WebUI, text: str) -> None:
    answer = webui.enlarge(phase_prompt=text, phase_negative=text, phase_cfg=1.5)
    again = webui.paste(answer.infotexts[0])
    assert again.infotexts == answer.infotexts and again.images == answer.images


@pytest.mark.parametrize("fields", [{"phase_cfg": 9}, {"phase_cfg": 1}, {"phase_prompt": "blue house"}], ids=str)
def test_the_base_stays_as_it_is(webui: WebUI, fields: dict[str, Any]) -> None:
    answer = webui.enlarge(**fields, keep_phases=True)
    assert apart(answer.pictures[1], webui.draw().picture) == 0
    assert answer.picture.tobytes() != webui.enlarge().picture.tobytes()


@pytest.mark.once
def test_refused_by_name(webui: WebUI) -> None:
    answer = webui.try_draw({"enabled": True, "phase_cfg": 31, "phase_prompt": 3})
    assert answer.status == 422
    assert "phase_cfg is 31, allowed: 0 to 30" in answer.detail and "phase_prompt is 3, allowed: text" in answer.detail


@pytest.mark.once
def test_a_phase_says_which_it_is(webui: WebUI) -> None:
    answer = webui.enlarge(scale=3, keep_phases=True)
    told = [[f"DemoFusion phase: {n} of 3" in text for n in (1, 2)] for text in answer.infotexts]
    assert told == [[False, False], [True, False], [False, True]]
    assert [picture.info["parameters"] for picture in answer.pictures] == answer.infotexts


@pytest.mark.once
def test_what_cant_be_pasted_leaves_the_rest(webui: WebUI) -> None:
    text = webui.enlarge(scale=3, steps=2).infotexts[0]
    spoilt = webui.paste(text.replace("DemoFusion steps: 2", "DemoFusion plan: tripling"))
    assert spoilt.picture.size == (192, 192)
    assert apart(spoilt.picture, webui.enlarge(scale=3).picture) == 0
    assert "DemoFusion note: \"not pasted: Plan is 'tripling'" in spoilt.infotexts[0]
