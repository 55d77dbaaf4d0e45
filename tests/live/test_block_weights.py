"""sd-webui-lora-block-weight, where the webui has it: the phases are drawn with the blocks that the prompt names.

Weights of 0 and 1 are known by LoRAs that hold so much of the whole one, to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .client import ROUNDING, WebUI, apart
from .test_guests import WITHIN, from_picture, small  # noqa: F401
from .test_networks import code_of

pytestmark = pytest.mark.once
PROMPT, NAME = "a red disc", "demofusion-test"
PARTS = {"all": "", "out": "lora_te|output_blocks", "unet": "lora_unet"}
"""LoRAs, by what their keys hold."""
WEIGHTS = {"out": (1, 0, 0, 1), "unet": (0, 1, 1, 1)}
"""Of the text encoder, and of the UNet's twelve input blocks, its middle and its twelve output blocks."""


def run(webui: WebUI, function: str, *arguments: object) -> object:
    script = {"script_name": "custom code", "script_args": [code_of(function, *arguments), 2]}
    return json.loads(webui.draw(None, **script).infotexts[0])


@pytest.fixture
def loras(small: WebUI) -> Iterator[WebUI]:  # noqa: F811
    there = {script.lower() for script in small.ask("scripts")["img2img"]}
    if not {"lora block weight", "custom code"} <= there:
        pytest.skip("install sd-webui-lora-block-weight, and start the webui with --allow-code")
    names = run(small, "save_loras", {f"{NAME}-{kind}": part for kind, part in PARTS.items()})
    yield small
    run(small, "remove_loras", names)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_blocks_hold_in_the_phases(loras: WebUI, kind: str) -> None:
    text, first, middle, last = WEIGHTS[kind]
    weights = ",".join(map(str, [text, *[first] * 12, middle, *[last] * 12]))
    without = from_picture(loras, {}, PROMPT, preset="fine")
    wanted, weighed = (
        from_picture(loras, {}, f"{PROMPT} <lora:{NAME}-{lora}>", preset="fine")
        for lora in (f"{kind}:1", f"all:1:lbw={weights}")
    )
    assert apart(weighed.picture, wanted.picture) == 0 and WITHIN not in weighed.infotexts[0]
    assert apart(weighed.picture, without.picture) > ROUNDING
    assert from_picture(loras, {}, PROMPT, preset="fine").images == without.images
