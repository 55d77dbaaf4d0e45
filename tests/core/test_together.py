"""Calls of the model that have one window of every row, as a host's own calls do, for what tells rows by their places."""

from __future__ import annotations

import pytest
import torch

from demofusion_lib.core.cutting import Cut, by_view
from demofusion_lib.core.views import Layout, View

from .test_fusion import GLOBAL, LOCAL, MIXED, build_fusion, size_of, smoothing_network

OWNERS = [0, 1, 0, 1]
"""Two pictures' prompts, then their negative prompts."""


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("batch", [0, 1, 3, 64])
def test_every_call_has_the_rows_of_the_hosts_call_in_their_order(t: float, batch: int) -> None:
    fusion = build_fusion((8, 12), 2, images=2, batch=batch)
    x = torch.randn(2, 4, *size_of(fusion), generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)
    x[2:] += 0.1
    calls = []

    def predict(patches, rows, views, layout):
        calls.append((list(rows), [layout.views[OWNERS[row]].index(view) for row, view in zip(rows, views)]))
        return smoothing_network(patches) * (1 + torch.tensor(rows).view(-1, 1, 1, 1))

    apart = fusion(x, OWNERS, t, 1.0, predict)
    calls.clear()
    fusion.together = True
    together = fusion(x, OWNERS, t, 1.0, predict)
    assert calls and all(rows == [0, 1, 2, 3] and len(set(views)) == 1 for rows, views in calls)
    assert torch.allclose(together, apart, atol=2e-6)


def test_rows_of_unlike_numbers_of_views_have_no_such_calls() -> None:
    view = View(slice(0, 8), slice(0, 8))
    layout = Layout([[view], [view, view]])
    assert by_view(Cut(layout, (8, 8), torch.device("cpu")), [0, 1]) is None
    assert by_view(Cut(layout, (8, 8), torch.device("cpu")), [1, 1]) == [((8, 8), [(0, view), (1, view)])] * 2
