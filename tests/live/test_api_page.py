"""The examples of docs/api.md, run as they stand; and the routes in the real webui."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from statistics import median
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.busy import Watch
from tests.reads_api import ADDRESS, blocks

from .client import REQUEST, SCRIPT, SETTINGS, Drawing, WebUI

pytestmark = pytest.mark.once


def test_python(webui: WebUI) -> None:
    """One after the other, as somebody reads them."""
    names: dict[str, Any] = {}
    for block in blocks("python"):
        assert ADDRESS not in block or "webui = " in block
        exec(block.replace(ADDRESS, webui.url), names)
    assert names["worth_it"] in (True, False)


@pytest.mark.parametrize("number", range(4))
def test_curl(webui: WebUI, number: int) -> None:
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    commands = blocks("sh")
    assert len(commands) == 4
    command = commands[number].replace(ADDRESS, webui.url)
    said = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, timeout=300).stdout
    answer = json.loads(said)
    assert "detail" not in answer
    if "/plan" in command:
        (example,) = map(json.loads, blocks("json"))
        assert list(answer) == list(example)
        for key in ("phases", "evaluations", "times_base", "enabled", "images", "exact"):
            assert answer[key] == example[key]


def plan(webui: WebUI, settings: dict[str, Any] | None, **fields: Any) -> requests.Response:
    body = {**REQUEST, **fields}
    if settings is not None:
        body["alwayson_scripts"] = {SCRIPT: {"args": [settings]}}
    return requests.post(f"{webui.url}/demofusion/v1/plan", json=body, timeout=60)


REFUSED = (
    {"scale": 9, "blur": -1}, {"scael": 2}, {"target_width": 8}, {"target_width": 8, "overlap": 1}, {"phase_sampler": "x"},
    {"phase_sampler": "DDIM", "phase_scheduler": "Karras"}, {"enabled": "on"},
)  # fmt: skip


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_it_refuses_what_txt2img_refuses_in_its_words(webui: WebUI, settings: dict[str, Any]) -> None:
    told, drawn = plan(webui, {**SETTINGS, **settings}), webui.try_draw({**SETTINGS, **settings})
    assert told.status_code == drawn.status == 422
    assert told.json()["detail"] == drawn.detail


def test_an_infotext(webui: WebUI) -> None:
    drawn = webui.enlarge(scale=3, plan="direct")
    told = requests.post(f"{webui.url}/demofusion/v1/plan", json={"infotext": drawn.infotexts[0]}, timeout=60).json()
    assert [(p["width"], p["height"]) for p in told["phases"]] == [(64, 64), drawn.sizes[0]]
    assert told == plan(webui, {**SETTINGS, "scale": 3, "plan": "direct"}).json()


def test_a_checkpoint_that_is_not_loaded_stays_so(webui: WebUI) -> None:
    names = {model["model_name"]: model["title"] for model in webui.ask("sd-models")}
    if "tiny-sdxl" not in names:
        pytest.skip("there is no tiny-sdxl")
    before = webui.options()["sd_model_checkpoint"]
    began = monotonic()
    told = plan(webui, SETTINGS, override_settings={"sd_model_checkpoint": names["tiny-sdxl"]}).json()
    assert monotonic() - began < 5 and told["checkpoint"] == "tiny-sdxl" and told["family"] == "SDXL"
    assert webui.options()["sd_model_checkpoint"] == before


def test_while_a_picture_is_drawn(webui: WebUI) -> None:
    """The host's queue doesn't keep it waiting."""
    drawing = Drawing(webui, {"scale": 2}, width=256, height=256, steps=20)
    drawing.wait_for(2)
    began = monotonic()
    assert plan(webui, SETTINGS).status_code == 200
    took = monotonic() - began
    assert webui.progress()["state"]["job_count"] > 0 and took < 3
    drawing.stop("interrupt")


def test_within_150_ms(webui: WebUI) -> None:
    """What the page's line waits for while somebody types: the same room answers both."""
    plan(webui, SETTINGS)
    watch, took = Watch(urlsplit(webui.url).port), []
    for scale in (2, 3, 4, 8) * 3:
        began = monotonic()
        assert plan(webui, {"enabled": True, "scale": scale}, width=512, height=512, steps=20).status_code == 200
        took.append(monotonic() - began)
    print(f"median {median(took) * 1000:.0f} ms, at most {max(took) * 1000:.0f}, others {watch.share()}")
    watch.hold(median(took) < 0.15, f"the median of {len(took)} answers took {median(took) * 1000:.0f} ms")


@pytest.mark.parametrize("args", [[], [{}], [None], [[]], [True] * 300, "x", ""], ids=str)
def test_arguments_of_any_form(webui: WebUI, args: Any) -> None:
    """Defaults or 422, never 500."""
    body = {**REQUEST, "steps": 1, "send_images": False, "alwayson_scripts": {SCRIPT: {"args": args}}}
    assert webui.request("txt2img", body).status in (200, 422)


@pytest.mark.parametrize("entry", [{}, {"args": []}, {"arguments": 5}], ids=str)
def test_an_entry_of_any_form(webui: WebUI, entry: Any) -> None:
    body = {**REQUEST, "steps": 1, "send_images": False, "alwayson_scripts": {SCRIPT: entry}}
    assert webui.request("txt2img", body).status == 200


def test_its_name_on_img2img(webui: WebUI) -> None:
    """The plan of a picture, and what is drawn of it; what is refused is refused in the same words."""
    image = webui.draw().images[0]
    for settings, status in (({"scale": 2}, 200), ({"scale": 1}, 200), ({"scale": 9}, 422), ({"scael": 2}, 422)):
        args = [{"enabled": True, "preset": "fast", **settings}]
        body = {
            **REQUEST,
            "init_images": [image],
            "denoising_strength": 0.5,
            "alwayson_scripts": {SCRIPT: {"args": args}},
        }
        told = requests.post(f"{webui.url}/demofusion/v1/plan", json=body, timeout=60)
        drawn = webui.request("img2img", body)
        assert told.status_code == drawn.status == status
        if status != 200:
            assert told.json()["detail"] == drawn.detail


def test_a_strength_that_is_none(webui: WebUI) -> None:
    body = {**REQUEST, "init_images": [webui.draw().images[0]], "denoising_strength": 2}
    body["alwayson_scripts"] = {SCRIPT: {"args": [{"enabled": True}]}}
    drawn = webui.request("img2img", body)
    assert drawn.status == 422 and "denoising_strength is 2.0, allowed: 0 to 1" in drawn.detail


def test_a_side_above_the_cap(webui: WebUI) -> None:
    """It can't be set through the API, nor lifted by a request; so it is told of by the webui that it has it."""
    if not keeps_its_own(webui):
        pytest.skip("the webui has options of its own set through the API that it says it keeps from it")
    assert "demofusion_max_side" not in webui.options() or webui.options()["demofusion_max_side"] == 0
    webui.request("options", {"demofusion_max_side": 64})
    assert webui.enlarge({"steps": 1}).sizes == [(128, 128)]


def keeps_its_own(webui: WebUI) -> bool:
    """Whether what the webui keeps from requests is kept from them; Forge's API sets it all."""
    before = webui.options()["api_useragent"] or ""
    webui.request("options", {"api_useragent": "x"})
    kept = (webui.options()["api_useragent"] or "") == before
    webui.request("options", {"api_useragent": before})
    return kept


def test_no_route_twice(webui: WebUI) -> None:
    with urllib.request.urlopen(f"{webui.url}/openapi.json", timeout=60) as reply:
        paths = [path for path in json.load(reply)["paths"] if path.startswith("/demofusion/")]
    assert sorted(paths) == ["/demofusion/v1/plan", "/demofusion/v1/settings"]
