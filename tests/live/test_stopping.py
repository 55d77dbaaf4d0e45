"""Interrupt and Skip during a phase deliver the last complete phase, soon and at its own size."""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path
from time import sleep

import pytest
from PIL import Image

from .client import ROUNDING, Drawing, WebUI, apart, assert_drawn

STOPPED = "DemoFusion stopped"
NOTE = "DemoFusion note"
SOON = 15
"""Seconds, where the interrupted phase alone would take far longer."""


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_interrupt_in_the_first_phase(webui: WebUI, sampler: str) -> None:
    """150 steps would take minutes; the base image comes at once, and nothing stays behind."""
    fields = {"sampler_name": sampler}
    base = webui.draw(**fields)
    drawing = Drawing(webui, {"steps": 150}, **fields)
    drawing.wait_for(phase=2)
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
    drawing.wait_for(phase=3)
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
    drawing.wait_for(phase=2)
    answer, _ = drawing.stop("skip")
    assert answer.sizes == [(64, 64), (128, 128)]
    assert STOPPED in answer.infotexts[0] and STOPPED not in answer.infotexts[1]
    alone = webui.enlarge({**fields, "seed": 21}, steps=16)
    assert answer.images[1] == alone.images[0]


@pytest.mark.once
def test_interrupt_ends_the_batches(webui: WebUI) -> None:
    drawing = Drawing(webui, {"steps": 150}, n_iter=3)
    drawing.wait_for(phase=2)
    answer, _ = drawing.stop("interrupt")
    assert answer.sizes == [(64, 64)]


@pytest.mark.once
def test_interrupt_in_a_later_batch(webui: WebUI) -> None:
    """What was finished stays finished."""
    drawing = Drawing(webui, {"steps": 16}, n_iter=2, seed=20)
    drawing.wait_for(phase=2, picture=1)
    answer, _ = drawing.stop("interrupt")
    assert answer.sizes == [(128, 128), (64, 64)]
    assert STOPPED not in answer.infotexts[0] and STOPPED in answer.infotexts[1]


@pytest.mark.once
@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_stop_in_the_base_image(webui: WebUI, how: str) -> None:
    """The picture is the host's own matter, what it has drawn so far; the stop is told."""
    drawing = Drawing(webui, {}, steps=150)
    drawing.wait_for(phase=1)
    answer, seconds = drawing.stop(how)
    assert seconds < SOON
    assert answer.sizes == [(64, 64)]
    word = {"interrupt": "interrupted", "skip": "skipped"}[how]
    assert f"{STOPPED}: phase 0 of 2 - {word}" in answer.infotexts[0]
    assert f"{NOTE}: {word} in phase 1 of 2; the unfinished base image" in answer.infotexts[0]


@pytest.mark.once
def test_interrupt_with_kept_phases(webui: WebUI) -> None:
    """Each finished phase is shown once."""
    drawing = Drawing(webui, {"scale": 3, "steps": 5, "window_batch": 8, "keep_phases": True})
    drawing.wait_for(phase=3)
    answer, _ = drawing.stop("interrupt")
    assert answer.sizes == [(128, 128), (64, 64)]
    assert len(answer.infotexts) == len(answer.images)


@pytest.mark.once
def test_progress(webui: WebUI) -> None:
    """`job_count` stays the number of pictures; the bar grows over all phases, and is nowhere far ahead."""
    drawing = Drawing(webui, {"scale": 3, "steps": 8}, n_iter=2)
    seen = []
    while not drawing.future.done():
        progress = webui.progress()
        if progress["textinfo"]:
            seen.append((progress["progress"], progress["state"]["job_count"], progress["textinfo"]))
        sleep(0.05)
    assert drawing.future.result().sizes == [(192, 192)] * 2
    assert {count for _, count, _ in seen} == {2}
    shares = [share for share, *_ in seen]
    assert all(later > earlier - 1e-9 for earlier, later in pairwise(shares))
    assert {text.split(",")[0] for *_, text in seen} >= {f"DemoFusion phase {n} of 3" for n in (2, 3)}
    total = 3 + 8 * 13 + 8 * 34
    first = next(share for share, _, text in seen if "phase 3" in text)
    assert abs(first - (3 + 8 * 13) / total / 2) < 0.08
    progress = webui.progress()
    assert (progress["textinfo"], progress["state"]["job_count"]) == (None, 0)


needs_files = pytest.mark.skipif(
    "WEBUI_DIR" not in os.environ, reason="WEBUI_DIR= the webui's folder, to look for files"
)


def files() -> dict[Path, bytes]:
    """Every picture among the webui's outputs."""
    return {path: path.read_bytes() for path in Path(os.environ["WEBUI_DIR"], "outputs").rglob("*.png")}


@pytest.mark.once
@needs_files
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("how", "n_iter"), [("interrupt", 1), ("skip", 2)])
def test_what_is_shown_is_on_disk_once(webui: WebUI, how: str, n_iter: int, keep: bool) -> None:
    before = files()
    settings = {"scale": 3, "steps": 5, "window_batch": 8, "keep_phases": keep}
    drawing = Drawing(webui, settings, n_iter=n_iter, batch_size=2, save_images=True)
    drawing.wait_for(phase=3)
    answer, _ = drawing.stop(how)
    new = {path: data for path, data in files().items() if path not in before and "grid" not in path.name}
    shown = [image for image in answer.pictures if image.size in {(64, 64), (128, 128), (192, 192)}]  # no grids
    assert len(new) == len(shown) == 2 * (n_iter + keep * (1 if n_iter == 1 else 3))
    written = [Image.open(io.BytesIO(data)) for data in new.values()]
    for image in shown:
        assert sum(image.size == one.size and apart(image, one) == 0 for one in written) == 1
    assert sum("demofusion-phase-2" in path.name for path in new) >= 2


@pytest.mark.once
def test_a_picture_larger_than_webp_holds(webui: WebUI) -> None:
    """16448 px: the host's own encoder of answers would fail, and the picture be lost."""
    format_before = webui.options()["samples_format"]
    webui.set_options(samples_format="webp")
    try:
        settings = {"scale": 8, "plan": "direct", "steps": 1, "dilated": False, "overlap": 0, "window_batch": 64}
        answer = webui.enlarge({"width": 2056, "height": 8, "steps": 1, "cfg_scale": 1}, **settings)
    finally:
        webui.set_options(samples_format=format_before)
    assert answer.sizes == [(16448, 64)]
    assert answer.picture.format == "PNG"
    assert "webp holds 16383 px a side at most" in answer.infotexts[0]
