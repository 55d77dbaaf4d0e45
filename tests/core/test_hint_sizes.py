"""A hint at every size: lines stay lines, labels stay labels, and the part of it is the part that a latent keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import WAYS, centre_crop
from demofusion_lib.hints import HOW, at_size, covering, kind_of, middle


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def lines(side: int = 64) -> torch.Tensor:
    """White on black, one pixel wide: one level, one upright."""
    plane = torch.zeros(1, 1, side, side)
    plane[..., side // 4, :] = 1
    plane[..., side // 2 + 3] = 1
    return plane


def test_every_kind_has_a_way_for_dilated_sub_images() -> None:
    assert set(HOW.values()) == set(WAYS) - {"cells"}


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (160, 96)])
@pytest.mark.parametrize("kind", HOW)
def test_a_flat_hint_stays_flat(kind: str, size: tuple[int, int]) -> None:
    for value in (0.0, 1.0) if kind == "lines" else (0.0, 0.3, 1.0):
        flat = at_size(torch.full((1, 3, 64, 64), value), size, kind)
        assert torch.allclose(flat, torch.full((1, 3, *size), value), atol=1e-6)


def test_a_thin_line_is_white_at_any_size() -> None:
    """Shrunk, none of it is lost; the mean would leave a quarter of the white."""
    small = at_size(lines(), (16, 16), "lines")
    assert small[0, 0, 4].eq(1).all() and small[0, 0, :, 8].eq(1).all() and float(small.mean()) < 0.2
    assert float(at_size(lines(), (16, 16), "smooth").amax()) < 0.5
    large = at_size(lines(), (256, 256), "lines")
    assert large[0, 0, 64:68].mean(0)[:130].gt(0.95).all()


def test_an_enlarged_edge_is_as_sharp_as_before() -> None:
    plane = torch.zeros(1, 1, 16, 16)
    plane[..., 8:] = 1
    for times in (2, 4):
        row = at_size(plane, (16 * times, 16 * times), "lines")[0, 0, 3]
        assert row[: 8 * times].eq(0).all() and row[8 * times :].eq(1).all()
    soft = at_size(plane, (64, 64), "smooth")[0, 0, 3]
    assert int(((soft > 0.02) & (soft < 0.98)).sum()) > 2


def test_one_side_may_grow_while_the_other_shrinks() -> None:
    """No line is lost on the way."""
    seen = at_size(lines(), (16, 256), "lines")
    assert seen[0, 0, 4].eq(1).all() and seen[0, 0, :, 140:144].eq(1).any()


def test_labels_are_never_mixed() -> None:
    colours = draws(1, 5, 3)
    picture = colours[torch.randint(5, (32, 32), generator=torch.Generator().manual_seed(2))].permute(2, 0, 1)[None]
    for size in ((80, 72), (20, 12), (24, 50)):
        seen = at_size(picture, size, "labels").flatten(2)[0].T
        assert float((seen[:, None] - colours).abs().sum(2).amin(1).amax()) == 0


def test_a_slope_stays_a_slope() -> None:
    slope = torch.linspace(0.5, 63.5, 64).div(64).expand(1, 3, 64, 64)
    for length in (32, 128, 160):
        expected = torch.arange(length).add(0.5).div(length)
        assert float((at_size(slope, (64, length), "smooth")[0, 0, 9] - expected)[8:-8].abs().max()) < 1e-3


def test_kinds_are_told_by_their_values() -> None:
    white_on_black = lines(600).expand(1, 3, -1, -1)
    assert kind_of(white_on_black) == "lines" and kind_of(1 - white_on_black) == "smooth"
    assert kind_of(white_on_black.mul(0.9).add(0.05) + 0.03 * draws(6, 1, 3, 600, 600)) == "lines"  # JPEG's
    assert kind_of(F.interpolate(draws(3, 1, 3, 8, 8), (640, 640), mode="bicubic").clamp(0, 1)) == "smooth"
    depth = F.interpolate(draws(4, 1, 1, 4, 4), (640, 640), mode="bicubic").mul(100).round().div(255).clamp(0, 1)
    assert kind_of(depth.expand(1, 3, -1, -1)) == "smooth"  # of few greys
    assert kind_of(torch.zeros(1, 3, 8, 8)) == kind_of(torch.ones(1, 3, 8, 8)) == "smooth"
    places = torch.arange(64 * 64).view(64, 64)
    assert kind_of(draws(5, 12, 3)[places % 12].permute(2, 0, 1)[None]) == "labels"
    assert kind_of(torch.eye(3)[places % 3].permute(2, 0, 1)[None]) == "labels"  # of no greys, and yet no lines


@pytest.mark.parametrize(("whole", "part"), [((8, 8), (8, 5)), ((9, 6), (4, 6)), ((13, 11), (10, 4)), ((8, 8), (8, 8))])
@pytest.mark.parametrize("k", [1, 8, 24])
def test_the_middle_is_what_the_latent_keeps(whole: tuple[int, int], part: tuple[int, int], k: int) -> None:
    cells = torch.arange(whole[0] * whole[1]).float().view(1, 1, *whole)
    picture = F.interpolate(cells, (k * whole[0], k * whole[1]))
    expected = F.interpolate(centre_crop(cells, *part), (k * part[0], k * part[1]))
    assert torch.equal(middle(picture, whole, part), expected)


@pytest.mark.parametrize("size", [(50, 50), (1, 1), (7, 301)])
def test_the_middle_of_any_size_is_something(size: tuple[int, int]) -> None:
    taken = middle(torch.zeros(3, *size), (8, 8), (8, 3))
    assert taken.shape[-2] == size[0] and abs(taken.shape[-1] - size[1] * 3 / 8) <= 1


def test_another_shape_is_covered() -> None:
    assert covering((512, 512), (32, 32)) == (512, 512)
    assert covering((512, 768), (32, 32)) == (512, 512)
    assert covering((768, 512), (32, 48)) == (341, 512)
    assert covering((511, 768), (64, 96)) == (511, 768)  # to a pixel
