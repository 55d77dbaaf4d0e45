"""Every sampler and every scheduler that the webui lists carries the method, or says before sampling that it can't."""

from __future__ import annotations

import pytest
from PIL import Image

from .client import FAINT, REQUEST, SETTINGS, Answer, WebUI, assert_drawn, mean_apart

SIZE = (128, 128)
REPEATED = ("Euler", "Euler a", "DPM++ SDE", "DPM++ 2M SDE", "Restart", "DDIM", "UniPC", "LCM")


def assert_enlarged(large: Answer, base: Answer) -> None:
    """Drawn anew at twice the size, and still the base image's picture."""
    assert_drawn(large.picture, SIZE)
    enlarged = base.picture.resize(SIZE, Image.Resampling.BICUBIC)
    assert mean_apart(large.picture, enlarged) > 1, "nothing was drawn: this is the enlarged base image"


def test_every_sampler_draws(webui: WebUI, sampler: str) -> None:
    fields = {"sampler_name": sampler, "steps": 4}
    asked = webui.try_draw(SETTINGS, **fields)
    if asked.status == 422 and webui.is_forge:
        assert f"the sampler is '{sampler}', allowed: DPM++ 2M" in asked.detail
        pytest.skip("the webui adds it to those of the first, and it is refused by name")
    large = webui.enlarge(fields)
    assert f"Sampler: {sampler}" in large.infotexts[0], "the webui drew with another sampler"
    assert_enlarged(large, webui.draw(**fields))


@pytest.mark.parametrize("sampler", REPEATED)
def test_one_seed_draws_one_picture(webui: WebUI, sampler: str) -> None:
    first, second = (webui.enlarge({"sampler_name": sampler}) for _ in range(2))
    assert first.images == second.images


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_another_seed_draws_another_picture(webui: WebUI, sampler: str) -> None:
    one, other = (webui.enlarge({"sampler_name": sampler, "seed": seed}) for seed in (71, 72))
    assert mean_apart(one.picture, other.picture) > 5


def test_every_scheduler_draws(webui: WebUI, scheduler: str, scheduled_sampler: str) -> None:
    large = webui.enlarge({"sampler_name": scheduled_sampler, "scheduler": scheduler})
    assert_drawn(large.picture, SIZE)
    # an automatic one is named for what the sampler prefers
    assert scheduler == "Automatic" or f"Schedule type: {scheduler}" in large.infotexts[0]


def test_more_steps_in_the_phases(webui: WebUI) -> None:
    """The phases' own number of steps counts, more or fewer than the base image's."""
    pictures = [webui.enlarge(steps=steps).picture for steps in (1, 0, 8)]
    assert mean_apart(pictures[0], pictures[1]) > FAINT
    assert mean_apart(pictures[1], pictures[2]) > FAINT
    as_base = webui.enlarge(steps=REQUEST["steps"])
    assert as_base.picture.tobytes() == pictures[1].tobytes()
