"""A fault in a phase: what was finished is delivered, and nothing stays behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .client import WebUI
from .test_reckoning import SCRIPT

RUN = """\
import sys, types
from modules.processing import Processed
module = types.ModuleType("reckoning")
exec(compile({reckoning!r}, "reckoning.py", "exec"), vars(module))
sys.modules["reckoning"] = module
names = {{"__name__": "failing"}}
try:
    exec(compile({failing!r}, "failing.py", "exec"), names)
finally:
    del sys.modules["reckoning"]
answer = names["fail"](p, {phase}, {call})
return Processed(p, [], infotexts=[__import__("json").dumps(answer)])
"""


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
@pytest.mark.parametrize(("phase", "call", "size"), [(2, 1, 64), (3, 1, 128), (3, 9, 128)])
def test_the_phase_before_is_delivered(webui: WebUI, phase: int, call: int, size: int, sampler: str) -> None:
    """And the next pictures are the same bytes, with us and without."""
    if SCRIPT not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        pytest.skip("the webui runs no code of ours; start it with --allow-code")
    fields = {"sampler_name": sampler}
    before = webui.draw(**fields).images, webui.enlarge(fields).images
    texts = {
        name: Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in ("reckoning", "failing")
    }
    code = {"script_name": SCRIPT, "script_args": [RUN.format(**texts, phase=phase, call=call), 2]}
    answer = json.loads(webui.enlarge({**fields, **code}, scale=3, window_batch=8).infotexts[0])
    assert answer["sizes"] == [[size, size]]
    assert "broken on purpose" in answer["told"] and not answer["left"]
    assert (webui.draw(**fields).images, webui.enlarge(fields).images) == before
