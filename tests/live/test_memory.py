"""A picture of 8192 px in the webui, within 6 GB above the idle host (LIVE_FULL=1: it takes minutes and 17 GB of disk)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .client import WebUI
from .conftest import FULL

SOURCE = Path(__file__).with_name("memory.py")
RUN = """\
from modules.processing import Processed
names = {{"__name__": "memory"}}
exec(compile({source!r}, "memory.py", "exec"), names)
answer = names["measure"](p)
return Processed(p, [], infotexts=[__import__("json").dumps(answer)])
"""
GB = 10**9


@pytest.mark.once
@pytest.mark.parametrize("side", [2048, pytest.param(8192, marks=pytest.mark.skipif(not FULL, reason="minutes"))])
def test_a_large_picture_fits(webui: WebUI, side: int) -> None:
    if "custom code" not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        pytest.skip("the webui runs no code of ours; start it with --allow-code")
    code = RUN.format(source=SOURCE.read_text(encoding="utf-8"))
    fields = {
        "script_name": "custom code",
        "script_args": [code, 2],
        "width": side // 8,
        "height": side // 8,
        "steps": 1,
    }
    answer = webui.enlarge(fields, scale=8, plan="direct", overlap=0, window_batch=0, steps=2, vae="exact")
    told = json.loads(answer.infotexts[0])
    print(told)
    assert told["size"] == [side, side]
    assert told["grown"] < 6 * GB
