"""LoRAs, hypernetworks and embeddings of the prompt hold in the phases as in the base image: the phase, reckoned with them.

The files are made in the webui, of the loaded model's own shapes, and are gone afterwards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .client import WebUI
from .test_reckoning import AGREE, DIFFER, SCRIPT, exact  # noqa: F401

HERE = Path(__file__).parent
NAME, WORD = "demofusion-test", "demofusiontestword"
"""Of the LoRA and the hypernetwork, and of the embedding."""
RUN = """\
import sys, types
from modules.processing import Processed
module = types.ModuleType("reckoning")
exec(compile({reckoning!r}, "reckoning.py", "exec"), vars(module))
names = {{"__name__": "networks_of_ours"}}
sys.modules["reckoning"] = module
try:
    exec(compile({networks!r}, "networks_of_ours.py", "exec"), names)
finally:
    del sys.modules["reckoning"]
answer = names[{function!r}](p, *{arguments!r})
return Processed(p, [], infotexts=[__import__("json").dumps(answer)])
"""

LORA, HYPER = f"<lora:{NAME}:0.8:0.5>", f"<hypernet:{NAME}:0.7>"
PROMPT = f"a red disc, ({WORD}:1.2)"
WITHOUT = {
    "no LoRA": f"{PROMPT} {HYPER}", "the LoRA alike in both": f"{PROMPT} {HYPER} <lora:{NAME}:0.8>",
    "no hypernetwork": f"{PROMPT} {LORA}", "another strength of it": f"{PROMPT} {LORA} <hypernet:{NAME}:1>",
    "no embedding": f"{PROMPT} {LORA} {HYPER}".replace(WORD, "fog"),
}  # fmt: skip


OF_FORGE = {"no LoRA": "a red disc", "the LoRA alike in both": f"a red disc <lora:{NAME}:0.8>"}
"""Its family has no hypernetworks, and Forge takes embeddings of the real encoders' widths alone."""


def code_of(function: str, *arguments: Any) -> str:
    """Python for the script that runs it: what a function of `networks_of_ours.py` answers."""
    sources = ((HERE / f"{name}.py").read_text(encoding="utf-8") for name in ("reckoning", "networks_of_ours"))
    reckoning, networks = sources
    return RUN.format(reckoning=reckoning, networks=networks, function=function, arguments=arguments)


def test_the_phases_have_the_prompts_networks_and_embeddings(exact: WebUI) -> None:  # noqa: F811
    """To the reckoning's precision, and to none without one of them."""
    prompt, without = f"{PROMPT} {LORA} {HYPER}", WITHOUT
    if exact.is_forge:
        prompt, without = f"a red disc {LORA}", OF_FORGE
    code = code_of("reckon_networks", (128, 192), prompt, without, NAME, WORD)
    fields: dict[str, Any] = {"width": 96, "height": 64, "steps": 4, "script_name": SCRIPT, "script_args": [code, 2]}
    answer = json.loads(exact.enlarge(fields, preset="none", scale=2, jitter=False).infotexts[0])
    assert answer.pop("right") < AGREE, answer
    assert len(answer) == len(without) and all(apart >= DIFFER for apart in answer.values()), answer
