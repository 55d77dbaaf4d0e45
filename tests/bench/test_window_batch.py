"""The benchmark of the window batch runs, and finds what the core's search finds."""

from __future__ import annotations

import pytest

from bench import window_batch
from demofusion_lib.core import WindowBatch
from demofusion_lib.core.batching import PAYS


def test_every_batch_and_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_batch, "BATCHES", (4, 9))
    bench = window_batch.Bench("toy", 1.5, "float32")
    assert bench.patches == 2 * (4 + 4)
    seconds, found = window_batch.timed(bench, lambda: WindowBatch(free_bytes=lambda: 10**15), 1)
    assert found == PAYS and set(seconds) == {"4", "9", "first", "later", "auto"}
    assert all(value > 0 for value in seconds.values())
