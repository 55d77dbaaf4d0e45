"""What an evaluation of a phase waits for a device for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from demofusion_lib.core import PhaseFusion
from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.guidance import Guided
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.samplers import Schedule

from ..reads import Reads


class Half(torch.nn.Module):
    """A network that reads nothing."""

    def __init__(self, config: Any):
        super().__init__()
        self.config, self.dtype, self.device = config, torch.float32, torch.device("cpu")

    def forward(self, x: torch.Tensor, *given: object, **named: object) -> tuple[torch.Tensor]:
        return (x * 0.5,)


def order(sampler: str, **settings: object) -> Order:
    params = Params.from_names({"enabled": True, "scale": 2, "window_batch": 16, **settings})
    return Order(["a red disc"], [1], 64, 64, params, steps=4, sampler=sampler, guidance=3.0)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("preset", ["paper", "fast", "draft"])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_an_evaluation_waits_once(
    name: str, sampler: str, preset: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whether all its answers are finite. The sampler has told it the level."""
    waits: list[int] = []
    real_call, real_init, real_shrunk = Guided.__call__, PhaseFusion.__init__, Schedule.shrunk
    reads = Reads()

    def called(self: Guided, *given: Any) -> torch.Tensor:
        before = reads.count
        answer = real_call(self, *given)
        if self.engine is not None:
            waits.append(reads.count - before)
        return answer

    def made(self: PhaseFusion, *given: Any, **named: Any) -> None:
        real_init(self, *given, **{**named, "looks_at_once": False})  # as on every device but a CPU

    def shrunk(self: Schedule, *given: Any) -> Any:
        before = reads.seen.copy()
        answer = real_shrunk(self, *given)
        reads.seen = before  # its levels lie on the host
        return answer

    monkeypatch.setattr(Guided, "__call__", called)
    monkeypatch.setattr(PhaseFusion, "__init__", made)
    monkeypatch.setattr(Schedule, "shrunk", shrunk)
    model = replace(models[name], unet=Half(models[name].unet.config))
    with reads:
        list(Drawing(model, order(sampler, preset=preset)).phases())
    assert len(waits) > 1 and set(waits) == {1}
