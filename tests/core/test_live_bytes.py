"""The two counters of live memory, the tests' own and the one that measures a window, on what is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core.batching import LiveBytes as Measure

from ..live_bytes import LiveBytes

KILO = 256  # float32 numbers in a kilobyte


def counters() -> list[Any]:
    return [LiveBytes(), Measure(torch.device("cpu"))]


@pytest.mark.parametrize("counter", counters(), ids=["tests", "core"])
def test_what_is_alive_and_what_was(counter: Any) -> None:
    before = torch.zeros(100 * KILO)
    with counter as live:
        one = torch.zeros(4 * KILO)
        two = one + 1
        assert live.now == live.peak == 8 * 1024
        del one
        assert (live.now, live.peak) == (4 * 1024, 8 * 1024)
        view = two.view(4, KILO)[1:3]
        two.add_(1)
        view.mul_(2)
        assert live.now == 4 * 1024  # one memory, however many look at it
        del two
        assert live.now == 4 * 1024
        del view
        assert live.now == 0
        old = before.view(100, KILO).add_(1)[3:]
        assert live.now == 0 and old.sum() > 0  # it was there already, the sum is a number of four bytes
        assert live.peak == 8 * 1024


@pytest.mark.parametrize("counter", counters(), ids=["tests", "core"])
def test_a_chain_of_layers_holds_three_of_its_planes(counter: Any) -> None:
    """The one it starts from, which the loop still names, and two that come of it: freed as soon as nothing needs them."""
    x = torch.zeros(1, 4, 16, 16)
    kernel = torch.zeros(4, 4, 3, 3)
    with torch.no_grad(), counter as live:
        y = x
        for _ in range(5):
            y = F.silu(F.conv2d(y, kernel, padding=1))
        assert live.peak == 3 * 4096
        assert live.now == 4096
    del y
    assert live.now == 0


def test_memory_that_is_handed_over_counts_once_told() -> None:
    x = torch.zeros(4 * KILO)
    with LiveBytes(lambda tensor: tensor.numel() > 10) as live:
        live.hold(x)
        small = torch.zeros(5)
        assert live.now == 4096 and len(small) == 5
        live.restart()
        del x
        assert (live.now, live.peak) == (0, 4096)


def test_another_devices_tensors_are_not_measured() -> None:
    with Measure(torch.device("meta")) as live:
        here, there = torch.zeros(KILO), torch.zeros(2 * KILO, device="meta")
        assert live.now == 2048 and len(here) + len(there) == 3 * KILO


@pytest.mark.parametrize("counter", counters(), ids=["tests", "core"])
def test_the_ways_that_hosts_call_a_model(counter: Any) -> None:
    """In inference mode, under autocast, with attention and weights that come and go by hooks."""
    layer, attended = torch.nn.Linear(64, 64), torch.zeros(2, 4, 128, 64)
    layer.register_forward_pre_hook(lambda module, _: setattr(module.weight, "data", module.weight.data.clone()))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), counter as live:
        answer = layer(F.scaled_dot_product_attention(attended, attended, attended))
        assert answer.dtype == torch.bfloat16
        assert answer.nbytes <= live.now <= live.peak
        assert live.peak >= attended.nbytes + answer.nbytes
        size = answer.nbytes
        before = live.now
        del answer
        assert live.now == before - size
