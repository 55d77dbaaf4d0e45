"""A window that the UNet answers with NaN in half precision is drawn again alone in float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .client import WebUI

SOURCE = Path(__file__).with_name("rescuing.py")
RUN = """\
from modules.processing import Processed
names = {{"__name__": "rescuing"}}
exec(compile({source!r}, "rescuing.py", "exec"), names)
answer = names["rescued"](p, {at})
return Processed(p, [], infotexts=[__import__("json").dumps(answer)])
"""


@pytest.mark.parametrize("at", [4, 7])
def test_one_window_of_nan(webui: WebUI, at: int) -> None:
    """In the first step's windows, and in the last step's; the webui is as it was afterwards."""
    if "custom code" not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        pytest.skip("the webui runs no code of ours; start it with --allow-code")
    if webui.is_forge:
        pytest.skip("the webui keeps its models' precision to itself: the window is asked for once more as it was")
    plain = webui.enlarge()
    code = RUN.format(source=SOURCE.read_text(encoding="utf-8"), at=at)
    fields = {"script_name": "custom code", "script_args": [code, 2], "steps": 3}
    told = json.loads(webui.enlarge(fields, window_batch=32).infotexts[0])
    assert told["size"] == [128, 128] and "1 window was NaN and drawn again in 32-bit in phase 2" in told["comments"]
    calls = told["calls"]
    assert calls[at] == ["torch.float32", "torch.float32", 1]
    assert {tuple(call[:2]) for n, call in enumerate(calls) if n != at} == {("torch.bfloat16", "torch.bfloat16")}
    assert webui.enlarge().images == plain.images
