"""Where other extensions would go wrong in the phases, or where they end: docs/others.md, a test a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .client import FAINT, ROUNDING, SETTINGS, Answer, WebUI, apart, mean_apart
from .test_guests import FIELDS, GUESTS, PX, SAG, arguments, from_picture, small  # noqa: F401

pytestmark = pytest.mark.once


def drawn(webui: WebUI, others: dict[str, Any], **settings: Any) -> Answer:
    """The result, then the base image of two steps."""
    ours = {"DemoFusion Hires": {"args": [{**SETTINGS, "preset": "fine", "keep_phases": True, **settings}]}}
    return webui.draw(None, alwayson_scripts={**others, **ours}, width=PX // 2, height=PX // 2, steps=2)


def test_freeu_counts_the_steps_of_each_phase(small: WebUI) -> None:  # noqa: F811
    """Of two steps half and seven tenths are one; of three they are one and two."""
    strong = {5: 3.0, 6: 0.0, 11: 3.0, 12: 0.0, 17: 3.0, 18: 0.0}
    half, more = (
        drawn(small, arguments(small, GUESTS["FreeU"]._replace(places={0: True, 2: until, **strong})), steps=3)
        for until in (0.5, 0.7)
    )
    plain = drawn(small, {}, steps=3)
    assert apart(half.pictures[1], more.pictures[1]) == 0 < mean_apart(half.pictures[1], plain.pictures[1])
    assert mean_apart(half.picture, more.picture) > FAINT


def test_self_attention_guidance_leaves_nothing_to_a_later_phase_of_that_size(small: WebUI) -> None:  # noqa: F811
    others = arguments(small, SAG)
    alone = from_picture(small, {})
    guided = small.draw(None, alwayson_scripts=others, **{**FIELDS, "width": 2 * PX, "height": 2 * PX})
    assert guided.sizes == alone.sizes
    both = from_picture(small, others)
    assert apart(both.picture, alone.picture) <= ROUNDING
    assert f"the extension {SAG.folder} failed in the phases" in both.infotexts[0]


@pytest.mark.parametrize("sampler", ["same", "Euler", "DPM++ 2M"])
def test_thresholding_and_a_sampler_of_the_phases_own(small: WebUI, sampler: str) -> None:  # noqa: F811
    """The extension makes one of its own of the base image's, which another sampler's name leaves behind."""
    guest = GUESTS["dynamic thresholding"]
    others = arguments(small, guest)
    both, alone = (from_picture(small, given, phase_sampler=sampler) for given in (others, {}))
    told = f"{guest.folder} draws in the base image only, as the phases have a sampler of their own"
    assert (told in both.infotexts[0]) == (sampler != "same")
    assert (apart(both.picture, alone.picture) == 0) == (sampler != "same")


@pytest.fixture
def relighting(webui: WebUI) -> Iterator[dict[str, Any]]:
    if not any(script["name"] == "ic light" for script in webui.ask("script-info")):
        pytest.skip("the webui has no script 'ic light'; install sd-forge-ic-light and sd-webui-model-patcher")
    yield {"ic light": {"args": [{"enabled": True}]}}


def test_ic_light_is_refused_by_name(webui: WebUI, relighting: dict[str, Any]) -> None:
    ours = {"DemoFusion Hires": {"args": [SETTINGS]}}
    answer = webui.try_draw(None, alwayson_scripts={**relighting, **ours}, **FIELDS)
    assert answer.status == 422 and "IC-Light is on, allowed: the one or the other" in answer.detail
    off = {"ic light": {"args": [{"enabled": False}]}}
    beside = webui.draw(None, alwayson_scripts={**off, **ours}, **FIELDS)
    assert beside.images == webui.draw(SETTINGS, **FIELDS).images
