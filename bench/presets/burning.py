"""A UNet that does nothing but take its time: so that what is left of a run's time is not its own."""

from __future__ import annotations

from time import process_time
from types import SimpleNamespace
from typing import Any

import torch


class BurningUNet(torch.nn.Module):
    """Takes `seconds` of the processor for each row, and answers half of what it is given. side_lat: of its windows."""

    def __init__(self, seconds: float, side_lat: int):
        super().__init__()
        self.seconds = seconds
        self.config = SimpleNamespace(sample_size=side_lat, in_channels=4)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        end = process_time() + self.seconds * len(x)
        answer = x * 0.5
        while process_time() < end:
            pass
        return (answer,)
