"""Interrupt and Skip during a phase deliver the last complete phase, soon and at its own size."""

from __future__ import annotations

import pytest

from .client import ROUNDING, Drawing, WebUI, apart, assert_drawn

STOPPED = "DemoFusion stopped"
SOON = 15
"""Seconds, where the interrupted phase alone would take far longer."""


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_interrupt_in_the_first_phase(webui: WebUI, sampler: str) -> None:
    """150 steps would take minutes; the base image comes at once, and nothing stays behind."""
    fields = {"sampler_name": sampler}
    base = webui.draw(**fields)
    drawing = Drawing(webui, {"steps": 150}, **fields)
    drawing.wait_for(job=1)
    answer, seconds = drawing.stop("interrupt")
    assert seconds < SOON
    assert apart(answer.picture, base.picture) == 0
    assert f"{STOPPED}: phase 1 of 2" in answer.infotexts[0]
    assert webui.draw(**fields).images == base.images


@pytest.mark.parametrize(("sampler", "how"), [("Euler", "interrupt"), ("DPM++ SDE", "interrupt"), ("DDIM", "skip")])
def test_stop_in_a_late_phase(webui: WebUI, sampler: str, how: str) -> None:
    """The phase before, whole: the picture of a run that ends with it."""
    fields = {"sampler_name": sampler, "width": 64, "height": 72}
    settings = {"steps": 5, "sdxl_size": "phase", "window_batch": 8}
    drawing = Drawing(webui, {"scale": 3, **settings}, **fields)
    drawing.wait_for(job=2)
    answer, seconds = drawing.stop(how)
    assert seconds < SOON
    assert_drawn(answer.picture, (128, 144))
    assert apart(answer.picture, webui.enlarge(fields, **settings).picture) <= ROUNDING
    assert f"{STOPPED}: phase 2 of 3" in answer.infotexts[0]


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["Euler a", "DDIM"])
def test_skip_goes_on_with_the_next_image(webui: WebUI, sampler: str) -> None:
    fields = {"sampler_name": sampler, "seed": 20}
    drawing = Drawing(webui, {"steps": 16}, n_iter=2, **fields)
    drawing.wait_for(job=1)
    answer, _ = drawing.stop("skip")
    assert answer.sizes == [(64, 64), (128, 128)]
    assert STOPPED in answer.infotexts[0] and STOPPED not in answer.infotexts[1]
    alone = webui.enlarge({**fields, "seed": 21}, steps=16)
    assert answer.images[1] == alone.images[0]


@pytest.mark.once
def test_interrupt_ends_the_batches(webui: WebUI) -> None:
    drawing = Drawing(webui, {"steps": 150}, n_iter=3)
    drawing.wait_for(job=1)
    answer, _ = drawing.stop("interrupt")
    assert answer.sizes == [(64, 64)]


@pytest.mark.once
def test_interrupt_in_a_later_batch(webui: WebUI) -> None:
    """What was finished stays finished."""
    drawing = Drawing(webui, {"steps": 16}, n_iter=2, seed=20)
    drawing.wait_for(job=3)
    answer, _ = drawing.stop("interrupt")
    assert answer.sizes == [(128, 128), (64, 64)]
    assert STOPPED not in answer.infotexts[0] and STOPPED in answer.infotexts[1]


@pytest.mark.once
@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_stop_in_the_base_image(webui: WebUI, how: str) -> None:
    """The host's own matter: what it has drawn so far, at the base's size."""
    drawing = Drawing(webui, {}, steps=150)
    drawing.wait_for(job=0)
    answer, seconds = drawing.stop(how)
    assert seconds < SOON
    assert answer.sizes == [(64, 64)]


@pytest.mark.once
def test_interrupt_with_kept_phases(webui: WebUI) -> None:
    drawing = Drawing(webui, {"scale": 3, "steps": 5, "window_batch": 8, "keep_phases": True})
    drawing.wait_for(job=2)
    answer, _ = drawing.stop("interrupt")
    assert (128, 128) in answer.sizes and (64, 64) in answer.sizes and (192, 192) not in answer.sizes
    assert len(answer.infotexts) == len(answer.images)


@pytest.mark.once
def test_progress_counts_the_phases(webui: WebUI) -> None:
    drawing = Drawing(webui, {"scale": 3, "steps": 8})
    drawing.wait_for(job=1)
    state = webui.state()
    assert state["job_count"] == 3
    assert state["sampling_steps"] == 8
    assert drawing.future.result(600).sizes == [(192, 192)]
