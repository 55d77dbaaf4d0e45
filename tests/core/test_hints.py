"""Control maps at other sizes: what is lines, labels or smooth stays so."""

from __future__ import annotations

import pytest
import torch

from demofusion_lib.hints import HOW, LABELS, LINES, SMOOTH, at_size, kind_of, part_of

from .support import draws


def lines(side: int = 64) -> torch.Tensor:
    hint = torch.zeros(1, 3, side, side)
    hint[..., side // 3, :] = hint[..., :, side // 4] = 1
    return hint


def labels(side: int = 64) -> torch.Tensor:
    colours = torch.tensor([[0.2, 0.4, 0.6], [0.9, 0.1, 0.3], [0.5, 0.5, 0.1]])
    return colours[(torch.arange(side) * 3 // side)].T[None, :, :, None].expand(1, 3, side, side)


def smooth(side: int = 64) -> torch.Tensor:
    return torch.linspace(0, 1, side).mul(torch.linspace(0.5, 1, side)[:, None]).expand(1, 3, side, side)


MAPS = {LINES: lines, LABELS: labels, SMOOTH: smooth}


@pytest.mark.parametrize("kind", MAPS)
def test_the_kind_is_seen(kind: str) -> None:
    assert kind_of(MAPS[kind]()) == kind
    assert kind_of(MAPS[kind](700)) == kind  # of which a part is looked at
    assert kind_of(MAPS[kind]()[:, :1]) == (SMOOTH if kind == LABELS else kind)


@pytest.mark.parametrize(
    "hint",
    [1 - lines(), lines() * 0.5, lines()[:, :1] * draws(1, 1, 1, 64, 64).abs().clamp(0, 1)],
    ids=["black", "grey", "shaded"],
)
def test_what_would_be_lost_as_lines_or_labels_is_smooth(hint: torch.Tensor) -> None:
    assert kind_of(hint) == SMOOTH


@pytest.mark.parametrize("size", [(128, 128), (150, 90), (40, 200), (32, 32), (33, 47), (64, 64)], ids=str)
@pytest.mark.parametrize("kind", MAPS)
def test_at_another_size_nothing_new_is_there(kind: str, size: tuple[int, int]) -> None:
    hint = MAPS[kind]()
    other = at_size(hint, size, kind)
    assert other.shape == (1, 3, *size) and other.min() >= 0 and other.max() <= 1
    if kind == SMOOTH:
        assert float((other.mean() - hint.mean()).abs()) < 0.01
        return
    assert {tuple(c) for c in other[0].flatten(1).T.unique(dim=0).tolist()} <= {
        tuple(c) for c in hint[0].flatten(1).T.unique(dim=0).tolist()
    }
    if kind == LINES:
        assert other[0, 0].amax(0).min() == 1 and other[0, 0].amax(1).min() == 1  # both go through from side to side
        middle = other[0, 0].mean(1).argmax().item()
        assert abs(middle / size[0] - 1 / 3) < 2 / min(size)


def test_a_part() -> None:
    hint = draws(1, 2, 3, 8, 10)
    assert torch.equal(part_of(hint, (2, 3), (4, 5)), hint[..., 2:6, 3:8])
    assert set(HOW) == set(MAPS)
