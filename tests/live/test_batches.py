"""Batches: an image does not depend on its batch-mates."""

from __future__ import annotations

from typing import Any

import pytest

from .client import ROUNDING, WebUI, apart, assert_drawn, mean_apart


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ SDE", "DDIM", "UniPC"])
def test_a_batch_equals_single_runs(webui: WebUI, sampler: str) -> None:
    fields = {"sampler_name": sampler, "seed": 20}
    batch = webui.enlarge({**fields, "batch_size": 2})
    singles = [webui.enlarge({**fields, "seed": seed}) for seed in (20, 21)]
    assert batch.sizes == [(128, 128)] * 2
    for i, single in enumerate(singles):
        assert apart(batch.pictures[i], single.picture) <= ROUNDING
        assert batch.infotexts[i] == single.infotexts[0]
    assert mean_apart(*batch.pictures) > 5


def test_batch_count(webui: WebUI) -> None:
    """One after the other, each the same bytes as alone."""
    count = webui.enlarge({"n_iter": 2, "seed": 20})
    singles = [webui.enlarge({"seed": seed}) for seed in (20, 21)]
    assert count.images == [single.images[0] for single in singles]


@pytest.mark.once
def test_batch_size_and_count(webui: WebUI) -> None:
    both = webui.enlarge({"n_iter": 2, "batch_size": 2, "seed": 20})
    assert both.sizes == [(128, 128)] * 4
    assert apart(both.pictures[3], webui.enlarge({"seed": 23}).picture) <= ROUNDING


@pytest.mark.parametrize(
    "settings", [{"prompt": "a red disc AND blue house :0.5"}, {"cfg_scale": 1}, {"s_min_uncond": 4}]
)
def test_batches_of_conditions(webui: WebUI, settings: dict[str, Any]) -> None:
    """Rows per image vary; each has to find its own image."""
    batch = webui.enlarge({**settings, "batch_size": 2, "seed": 20})
    for i, picture in enumerate(batch.pictures):
        assert apart(picture, webui.enlarge({**settings, "seed": 20 + i}).picture) <= ROUNDING


@pytest.mark.once
def test_a_prompt_matrix_in_one_batch(webui: WebUI) -> None:
    """Images of one batch with unequal numbers of prompts joined by AND."""
    prompt = "a red disc|AND blue house :0.6"
    arguments = [False, False, "positive", "comma", 0]
    fields = {"script_name": "prompt matrix", "script_args": arguments, "batch_size": 2}
    alone = webui.draw(prompt="a red disc, AND blue house :0.6").picture
    if apart(webui.draw(**fields, prompt=prompt).pictures[-1], alone) > ROUNDING:
        pytest.skip("the webui itself draws such a picture otherwise in a batch than alone")
    matrix = webui.enlarge({**fields, "prompt": prompt})
    pictures = [picture for picture in matrix.pictures if picture.size == (128, 128)]
    for picture, text in zip(pictures, ("a red disc", "a red disc, AND blue house :0.6"), strict=True):
        assert_drawn(picture, (128, 128))
        assert apart(picture, webui.enlarge({"prompt": text}).picture) <= ROUNDING
