"""Counts what makes a program wait for its device: numbers and copies that are fetched from it.

On a CPU there is nothing to wait for, and several of these are no operation at all; they are seen as they are called.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

WAITS = {
    getattr(torch.Tensor, name): name.strip("_")
    for name in (
        "item", "tolist", "cpu", "numpy", "nonzero", "__float__", "__int__", "__bool__", "__index__", "__complex__",
        "__array__", "__contains__",
    )
}  # fmt: skip


class Reads(TorchFunctionMode):
    """`with Reads() as reads: ...`; then `reads.seen` tells them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return sum(self.seen.values())

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in WAITS:
            self.seen[WAITS[function]] += 1
        elif function is torch.Tensor.to and "cpu" in map(str, (*args[1:], *(kwargs or {}).values())):
            self.seen["cpu"] += 1
        return function(*args, **(kwargs or {}))
