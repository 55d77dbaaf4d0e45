"""Settings -> Reload UI, twice: all that the extension registers is there once, and draws the same."""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any

import pytest
import requests

from .client import WebUI
from .test_reckoning import SCRIPT

pytestmark = pytest.mark.once
RELOAD = """\
from modules import shared
from modules.processing import process_images
drawn = process_images(p)
shared.state.request_restart()
return drawn
"""
"""What the button does, once the picture is answered."""
REGISTERED = """\
import json
from modules.processing import Processed
from modules.script_callbacks import callback_map
found = {}
for event, callbacks in callback_map.items():
    for callback in callbacks:
        if callback.callback.__module__.startswith("demofusion_lib"):
            found[event] = found.get(event, 0) + 1
return Processed(p, [], infotexts=[json.dumps(found, sort_keys=True)])
"""


def seen(webui: WebUI) -> tuple[list[str], list[str], str, int]:
    """A picture without us, one with us, what is registered, and a plan."""
    code = {"script_name": SCRIPT, "script_args": [REGISTERED, 1]}
    plan = requests.post(f"{webui.url}/demofusion/v1/plan", json={"width": 64, "height": 64}, timeout=60)
    return (
        webui.draw().images,
        webui.enlarge(keep_phases=True).images,
        webui.draw(**code).infotexts[0],
        plan.status_code,
    )


def test_reloading_twice_changes_nothing(webui: WebUI) -> None:
    if SCRIPT not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        pytest.skip("the webui runs no code of ours; start it with --allow-code")
    started = startup(webui)
    if "create ui" not in started["records"]:
        pytest.skip("the webui was started without a page")
    before = seen(webui)
    assert '"callbacks_cfg_denoised": 1' in before[2] and before[3] == 200
    for _ in range(2):
        webui.draw(script_name=SCRIPT, script_args=[RELOAD, 1])
        end, reloaded = monotonic() + 240, started
        while reloaded in ({}, started):
            assert monotonic() < end
            sleep(1)
            reloaded = startup(webui)
        started = reloaded
        assert seen(webui) == before


def startup(webui: WebUI) -> dict[str, Any]:
    """What the last start took, of which the webui tells after the last of its callbacks; empty while none answers."""
    try:
        answer = requests.get(f"{webui.url}/internal/profile-startup", timeout=5)
        answer.raise_for_status()
        return answer.json()
    except (OSError, ValueError):
        return {}
