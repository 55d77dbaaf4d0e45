"""Runs that were stopped go on to the same bytes, in the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .client import Drawing, WebUI

needs_files = pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR does not name the webui's folder")
SETTINGS = {"scale": 3, "steps": 5, "window_batch": 8, "save_phases": True}


def saved() -> list[Path]:
    return sorted(Path(os.environ["WEBUI_DIR"], "outputs").rglob("demofusion/*"))


@pytest.fixture(autouse=True)
def none_before() -> None:
    if "WEBUI_DIR" in os.environ:
        for path in saved():
            path.unlink()


def stop_in_phase_3(webui: WebUI, **fields: object) -> str:
    """The name of the file that the run leaves, which its infotext tells."""
    drawing = Drawing(webui, SETTINGS, **fields)
    drawing.wait_for(phase=3)
    answer, _ = drawing.stop("interrupt")
    assert answer.sizes[0] == (128, 128)
    return answer.infotexts[0].partition("resume ")[2].split()[0]


@needs_files
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE", "UniPC"])
def test_a_run_goes_on_to_the_same_bytes(webui: WebUI, sampler: str) -> None:
    fields = {"sampler_name": sampler, "batch_size": 2, "n_iter": 1}
    undisturbed = webui.enlarge(fields, **SETTINGS)
    assert saved() == []
    name = stop_in_phase_3(webui, **fields)
    assert [path.name for path in saved()] == [name]
    resumed = webui.enlarge(fields, **SETTINGS, resume=name)
    assert resumed.images == undisturbed.images
    assert saved() == []


@needs_files
@pytest.mark.once
def test_what_is_not_its_run_is_refused(webui: WebUI) -> None:
    name = stop_in_phase_3(webui)
    for fields, settings, told in (
        ({"seed": 6}, {}, "Seed"), ({"prompt": "fog"}, {}, "Prompt"), ({}, {"a1": 2.5}, "DemoFusion a1"),
        ({"cfg_scale": 6}, {"scale": 2}, "DemoFusion scale, CFG scale"),
    ):  # fmt: skip
        answer = webui.try_draw({"enabled": True, "preset": "none", **SETTINGS, "resume": name, **settings}, **fields)
        assert answer.status == 422 and f"which was made with another {told}" in answer.detail
    (path,) = saved()
    path.write_bytes(path.read_bytes()[:-1])
    answer = webui.try_draw({"enabled": True, "preset": "none", **SETTINGS, "resume": name})
    assert answer.status == 422 and "is damaged" in answer.detail and "/" not in answer.detail
    path.unlink()
    assert webui.try_draw({"enabled": True, "preset": "none", **SETTINGS, "resume": "last"}).status == 422
