"""What the prompts tell the network is repeated once for a phase's calls of one kind, and is what each call is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.guidance import KEPT
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.prompts import Encoded


def order(prompts: Sequence[str] = ("a red disc",), **settings: object) -> Order:
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 2, "window_batch": 16, **settings})
    return Order(prompts, range(len(prompts)), 64, 64, params, steps=3, sampler="Euler", guidance=3.0)


@pytest.mark.parametrize(("preset", "most"), [("paper", 4), ("fast", 2), ("draft", 2)])
def test_once_for_a_phase(preset: str, most: int, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of windows at once, prompt or negative; the sub-images of both; with low-pass guidance the pair of the base's size."""
    asked: list[tuple[int, ...]] = []
    real = Encoded.rows

    def rows(self: Encoded, chosen: Sequence[int]) -> Any:
        asked.append(tuple(chosen))
        return real(self, chosen)

    monkeypatch.setattr(Encoded, "rows", rows)
    drawing = Drawing(models["sdxl"], order(preset=preset))
    phases = drawing.phases()
    next(phases)
    asked.clear()
    evaluations = next(phases).evaluations
    assert evaluations > 20 and len(asked) == len(set(asked)) <= most


def test_each_patch_is_told_its_own_prompt(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """More kinds of calls than are kept, of prompts of one chunk and of several: against what is encoded."""
    prompts = ["a red disc", ", ".join(["a blue square"] * 40), "a green one"]
    drawing = Drawing(models["sdxl"], order(prompts, window_batch=5))
    seen: list[tuple[torch.Tensor, Any, torch.Tensor]] = []
    real = UNet2DConditionModel.forward

    def forward(self: UNet2DConditionModel, x: torch.Tensor, *given: Any, **named: Any) -> Any:
        added = named["added_cond_kwargs"]
        seen.append((named["encoder_hidden_states"], named["encoder_attention_mask"], added["text_embeds"]))
        assert len(x) == len(seen[-1][0]) == len(seen[-1][2]) == len(added["time_ids"])
        return real(self, x, *given, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    list(drawing.phases())
    known = [drawing.cond.context[i] for i in range(3)] + [drawing.uncond.context[0]]
    pooled = [drawing.cond.pooled[i] for i in range(3)] + [drawing.uncond.pooled[0]]
    lengths, kinds = (*drawing.cond.lengths, 77), set()
    assert lengths[1] > 77 == lengths[0]
    for context, readable, texts in seen:
        kind = []
        for i, text in enumerate(texts):
            which = next(n for n, one in enumerate(pooled) if torch.equal(one, text))
            assert torch.equal(context[i, : lengths[which]], known[which][: lengths[which]])
            assert readable is None or int(readable[i].sum()) == lengths[which]
            kind.append(which)
        kinds.add(tuple(kind))
    assert len(kinds) > KEPT
