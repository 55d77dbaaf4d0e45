"""Token merging and HyperTile with windows of another shape than the base image, as a cropped target makes them.

The host sets both up once a generation; both look at rows and columns of the picture. See `attention.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .client import WebUI
from .test_reckoning import SCRIPT

pytestmark = pytest.mark.once
RUN = """\
from modules.processing import Processed
names = {{"__name__": "attention"}}
exec(compile({source!r}, "attention.py", "exec"), names)
return Processed(p, [], infotexts=[__import__("json").dumps(names["compare"](p, {what!r}))])
"""
SAME, OTHER = 1e-5, 1e-4
"""Relative. Patches are compared in the batches that they came in."""
OPTIONS: dict[str, dict[str, Any]] = {
    "hypertile": {
        "hypertile_enable_unet": True, "hypertile_max_tile_unet": 128, "hypertile_swap_size_unet": 1,
        "hypertile_max_depth_unet": 3,
    },
    "merging": {"token_merging_ratio": 0.5},
}  # fmt: skip
OFF: dict[str, dict[str, Any]] = {"hypertile": {"hypertile_enable_unet": False}, "merging": {"token_merging_ratio": 0}}
"""Where the webui lists no such option, as beside an extension that loads the API's models early."""


@pytest.mark.parametrize("what", OPTIONS)
def test_every_shape_is_divided_for_itself(webui: WebUI, what: str) -> None:
    """Base 256x256 cropped to 256x104, target 640x256: in phase 2 windows of 32x26 cells, sub-images of 32x13."""
    if SCRIPT not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        pytest.skip("the webui runs no code of ours; start it with --allow-code")
    if webui.is_forge:
        pytest.skip("the webui has no such HyperTile, and merges tokens at random, by the shape of each call")
    before = {name: webui.options().get(name) for name in OPTIONS[what]}
    webui.set_options(**OPTIONS[what])
    code = RUN.format(source=Path(__file__).with_name("attention.py").read_text(encoding="utf-8"), what=what)
    try:
        answer = webui.enlarge(
            {"width": 256, "height": 256, "steps": 2, "script_name": SCRIPT, "script_args": [code, 2]},
            target_width=640, target_height=256, window_batch=4,
        )  # fmt: skip
    finally:
        webui.set_options(**OFF[what] | {name: value for name, value in before.items() if value is not None})
    shapes = json.loads(answer.infotexts[0])
    assert {"32x32", "32x26", "32x13"} <= set(shapes)
    for shape, (apart, without) in shapes.items():
        assert apart < SAME, (shape, apart)
        assert without > OTHER, (shape, without)
