"""The fused denoiser of a phase: exactness of both paths, the blur, and what is computed at all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import Layout, PhaseFusion, View, Weights, WindowGrid, gaussian_blur, step_generator

from .support import draws, one_phase

LOCAL, MIXED, GLOBAL = 0.0, 600.0, 1000.0  # timesteps at which c2 is 0, between, and 1
SHAPES = [(16, 16), (19, 13), (13, 19), (17, 25), (8, 24), (24, 8), (5, 3)]
SCALES = [1.25, 1.5, 2, 2.5, 3.7]

Network = Callable[[torch.Tensor], torch.Tensor]


def build_fusion(
    base: tuple[int, int], scale: float, *, images: int = 1, border: str = "inside", **options: object
) -> PhaseFusion:
    phase = one_phase(base, scale)
    weights = options.pop("weights", Weights())
    grid = WindowGrid(phase.height_lat, phase.width_lat, base, border=border)
    fusion = PhaseFusion(phase, grid, weights, **options)
    fusion.begin_step([step_generator(image, phase.number, 0) for image in range(images)])
    return fusion


def size_of(fusion: PhaseFusion) -> tuple[int, int]:
    return fusion.phase.height_lat, fusion.phase.width_lat


def fused(fusion: PhaseFusion, x: torch.Tensor, t: float, skip: float, network: Network) -> torch.Tensor:
    return fusion(x, range(len(x)), t, skip, lambda patches, rows, views, layout: network(patches))


@pytest.mark.parametrize("border", ["inside", "paper"])
@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("base", SHAPES)
def test_a_constant_comes_back_constant_everywhere(base: tuple[int, int], t: float, border: str) -> None:
    """Lower rows without a global path, cells without a window or padding left in the result would all show."""
    for scale in [*SCALES, 6]:
        fusion = build_fusion(base, scale, border=border)
        x = draws(1, 1, 4, *size_of(fusion))
        answer = fused(fusion, x, t, 0.0, lambda patches: torch.full_like(patches, 3.0))
        assert answer.shape == x.shape
        assert torch.allclose(answer, torch.full_like(x, 3.0), atol=1e-6), (base, scale)


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("base", [(152, 104), (104, 152), (65, 97), (97, 65)])
def test_a_constant_comes_back_constant_at_native_sizes(base: tuple[int, int], t: float) -> None:
    for scale in (1.5, 2):
        fusion = build_fusion(base, scale)
        x = draws(1, 1, 1, *size_of(fusion))
        answer = fused(fusion, x, t, 0.0, lambda patches: torch.full_like(patches, 3.0))
        assert torch.allclose(answer, torch.full_like(x, 3.0), atol=1e-6)


@pytest.mark.parametrize("skip", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("base", SHAPES)
def test_a_pointwise_linear_denoiser_comes_back_exactly(base: tuple[int, int], t: float, skip: float) -> None:
    """`D(x) = skip * x + 2` has a constant network: what is fused must not depend on windows, dilation or blur."""
    for scale, border in zip(SCALES, itertools.cycle(("inside", "paper"))):
        fusion = build_fusion(base, scale, border=border)
        x = draws(2, 1, 4, *size_of(fusion))
        answer = fused(fusion, x, t, skip, lambda patches: skip * patches + 2)
        assert torch.allclose(answer, skip * x + 2, atol=1e-5), (base, scale)


@pytest.mark.parametrize("base", SHAPES)
def test_without_blur_any_pointwise_denoiser_comes_back_exactly(base: tuple[int, int]) -> None:
    for scale in SCALES:
        fusion = build_fusion(base, scale, blur=0.0)
        x = draws(3, 1, 4, *size_of(fusion))
        assert torch.allclose(fused(fusion, x, MIXED, 1.0, torch.tanh), x.tanh(), atol=1e-5)


def direct_blur(plane: torch.Tensor, size: int, std: float) -> torch.Tensor:
    """A two-dimensional convolution with the Gaussian itself, cell by cell."""
    reach = size // 2
    offsets = range(-reach, reach + 1)
    kernel = torch.tensor([[math.exp(-(i * i + j * j) / (2 * std**2)) for j in offsets] for i in offsets])
    kernel /= kernel.sum()
    height, width = plane.shape[-2:]
    padded = F.pad(plane, (reach,) * 4)
    return sum(
        kernel[i, j] * padded[..., i : i + height, j : j + width] for i in range(size) for j in range(size)
    )  # fmt: skip


@pytest.mark.parametrize("std", [0.008, 0.3, 0.8, 3.0])
@pytest.mark.parametrize("size", [3, 5, 7, 15])
def test_the_blur_is_a_two_dimensional_gaussian(size: int, std: float) -> None:
    plane = draws(4, 2, 4, 11, 17)
    assert torch.allclose(gaussian_blur(plane, size, std), direct_blur(plane, size, std), atol=1e-5)


@pytest.mark.parametrize(("size", "std"), [(1, 0.8), (5, 0.0), (0, 1.0)])
def test_no_kernel_or_no_deviation_is_no_blur(size: int, std: float) -> None:
    plane = draws(5, 1, 4, 9, 9)
    assert gaussian_blur(plane, size, std) is plane


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_blur_keeps_the_latents_type(dtype: torch.dtype) -> None:
    plane = draws(5, 1, 4, 9, 9).to(dtype)
    blurred = gaussian_blur(plane, 5, 0.8)
    assert blurred.dtype == dtype
    assert torch.allclose(blurred.float(), direct_blur(plane.float(), 5, 0.8), atol=0.02)


def smoothing_network(patches: torch.Tensor) -> torch.Tensor:
    """Looks at neighbours, so that its answer depends on how the latent is cut up."""
    kernel = torch.ones(4, 1, 3, 3) / 9
    return torch.tanh(F.conv2d(patches, kernel, padding=1, groups=4))


def global_path_by_hand(x: torch.Tensor, s: int, blur: float, skip: float) -> torch.Tensor:
    """One image: blurred, brought to its own mean and deviation, sub-image by sub-image, `D(g) + skip * (x - g)`."""
    top, left = -x.shape[-2] % s, -x.shape[-1] % s
    plane = F.pad(x, (left, 0, top, 0))
    g = direct_blur(plane, 2 * s - 1, blur)
    g = (g - g.mean()) / g.std() * plane.std() + plane.mean()
    answer = torch.empty_like(plane)
    for i, j in itertools.product(range(s), range(s)):
        part = g[..., i::s, j::s]
        answer[..., i::s, j::s] = skip * part + smoothing_network(part) + skip * (plane[..., i::s, j::s] - part)
    return answer[..., top:, left:]


@pytest.mark.parametrize("skip", [1.0, 0.35, 0.0])
@pytest.mark.parametrize("base", SHAPES[:4])
@pytest.mark.parametrize("scale", [2, 2.5, 3.7])
def test_the_networks_output_is_applied_to_the_unblurred_latent(
    base: tuple[int, int], scale: float, skip: float
) -> None:
    """`skip` is 1 for epsilon, `1 / (sigma^2 + 1)` for v; each image by its own statistics."""
    weights = Weights(a3=0.5)
    fusion = build_fusion(base, scale, images=2, weights=weights, blur=1.3)
    x = torch.stack([draws(6, 4, *size_of(fusion)), 5 * draws(7, 4, *size_of(fusion)) + 2])
    c2, std = weights.c2(MIXED), 1.3 * weights.c3(MIXED)

    def network(patches: torch.Tensor) -> torch.Tensor:
        return skip * patches + smoothing_network(patches)

    by_hand = torch.cat([global_path_by_hand(image, fusion.phase.dilation, std, skip) for image in x.split(1)])
    local = fused(fusion, x, LOCAL, skip, network)
    assert torch.allclose(fused(fusion, x, MIXED, skip, network), (1 - c2) * local + c2 * by_hand, atol=1e-4)
    full_blur = torch.cat([global_path_by_hand(image, fusion.phase.dilation, 1.3, skip) for image in x.split(1)])
    assert torch.allclose(fused(fusion, x, GLOBAL, skip, network), full_blur, atol=1e-4)


@pytest.mark.parametrize("border", ["inside", "paper"])
def test_the_local_path_is_the_mean_of_the_overlapping_predictions(border: str) -> None:
    fusion = build_fusion((16, 12), 2.5, images=2, border=border)
    x = draws(8, 2, 4, *size_of(fusion))
    layout = fusion.local
    plane = layout.pad(x)
    total, count = torch.zeros_like(plane), torch.zeros_like(plane)
    for image, views in enumerate(layout.views):
        for view in views:
            total[image, :, view.rows, view.cols] += smoothing_network(
                plane[image : image + 1, :, view.rows, view.cols]
            )[0]
            count[image, :, view.rows, view.cols] += 1
    expected = layout.crop(total) / layout.crop(count)
    assert torch.allclose(fused(fusion, x, LOCAL, 1.0, smoothing_network), expected, atol=1e-5)


class Recorder:
    """A predict function that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int], list[View], Layout]] = []

    def __call__(
        self, patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout
    ) -> torch.Tensor:
        assert len(patches) == len(rows) == len(views)
        self.calls.append((len(patches), list(rows), list(views), layout))
        return torch.zeros_like(patches)

    @property
    def sizes(self) -> list[int]:
        return [size for size, *_ in self.calls]

    def count(self, *, dilated: bool) -> int:
        return sum((view.corner_lat is None) == dilated for _, _, views, _ in self.calls for view in views)


@pytest.mark.parametrize(
    ("t", "a2", "windows", "dilated"),
    [
        (LOCAL, 1.0, 9, 0),  # c2 = 0
        (GLOBAL, 1.0, 0, 4),  # c2 = 1
        (MIXED, 1.0, 9, 4),
        (MIXED, 0.0, 0, 4),  # the exponent 0 leaves the global path alone, at every noise level
        (LOCAL, 0.0, 0, 4),
        (0.1, 1.0, 9, 4),  # of next to no weight is not of none
        (999.9, 1.0, 9, 4),
        (0.05, 1.0, 9, 0),  # 6e-9: no float32 sum of the two holds anything of it
        (999.95, 1.0, 0, 4),
    ],
)
def test_only_paths_of_no_weight_are_left_out(t: float, a2: float, windows: int, dilated: int) -> None:
    fusion = build_fusion((16, 16), 2, weights=Weights(a2=a2))
    recorder = Recorder()
    fusion(draws(9, 1, 4, 32, 32), [0], t, 1.0, recorder)
    assert (recorder.count(dilated=False), recorder.count(dilated=True)) == (windows, dilated)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16, 64])
@pytest.mark.parametrize(("base", "scale"), [((16, 16), 2), ((19, 13), 3), ((13, 19), 2.5)])
def test_the_model_never_gets_more_than_the_batch_and_nothing_twice(
    base: tuple[int, int], scale: float, batch: int
) -> None:
    fusion = build_fusion(base, scale, images=2, batch=batch)
    recorder = Recorder()
    fusion(draws(10, 3, 4, *size_of(fusion)), [0, 0, 1], MIXED, 1.0, recorder)
    evaluations = len(fusion.grid) + fusion.phase.dilation**2
    assert max(recorder.sizes) <= batch
    assert sum(recorder.sizes) == 3 * evaluations
    for dilated, count in ((False, 3 * len(fusion.grid)), (True, 3 * fusion.phase.dilation**2)):
        sizes = [size for size, _, views, _ in recorder.calls if (views[0].corner_lat is None) == dilated]
        fewest = math.ceil(count / batch)
        assert (len(set(sizes)) == 1 and min(sizes) >= min(batch, 8)) or len(sizes) == fewest
        assert max(sizes) - min(sizes) <= 1
    asked = [(row, str(view)) for _, rows, views, _ in recorder.calls for row, view in zip(rows, views)]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_batch_does_not_change_the_picture(t: float, batch: int) -> None:
    x = draws(11, 2, 4, 40, 30)
    one, other = (build_fusion((16, 12), 2.5, images=2, batch=size) for size in (batch, 64))
    assert torch.allclose(
        fused(one, x, t, 1.0, smoothing_network), fused(other, x, t, 1.0, smoothing_network), atol=1e-6
    )


def test_rows_of_one_image_share_its_windows() -> None:
    """Prompts and negative prompts, in one call or in several: windows come from the step, not from a call counter."""
    fusion = build_fusion((16, 16), 2, images=2)
    x = draws(12, 4, 4, 32, 32)
    together, first, second = Recorder(), Recorder(), Recorder()
    fusion(x, [0, 0, 1, 1], LOCAL, 1.0, together)
    fusion(x[:2], [0, 1], LOCAL, 1.0, first)
    fusion(x[2:], [0, 1], LOCAL, 1.0, second)

    def windows(recorder: Recorder) -> list[list[View]]:
        pairs = [pair for _, rows, views, _ in recorder.calls for pair in zip(rows, views)]
        return [[view for row, view in pairs if row == wanted] for wanted in sorted({row for row, _ in pairs})]

    a, b, c, d = windows(together)
    assert a == b != c == d
    assert windows(first) == windows(second) == [a, c]


def test_predict_is_told_each_patchs_row_view_and_layout() -> None:
    fusion = build_fusion((16, 16), 2.5, images=2, border="paper")
    x = draws(13, 2, 4, *size_of(fusion))

    def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
        plane = layout.pad(x)
        for patch, row, view in zip(patches, rows, views):
            assert torch.equal(patch, plane[row, :, view.rows, view.cols])
        return patches

    fusion.blur = 0.0
    assert torch.allclose(fusion(x, [0, 1], MIXED, 1.0, predict), x, atol=1e-6)


def test_windows_cut_off_at_the_padded_edge_go_to_the_model_by_their_own_shapes() -> None:
    """A window larger than the latent overhangs the padding too, by as much as its jitter leaves."""
    fusion = build_fusion((8, 8), 2)
    whole, upper, narrow = slice(0, 30), slice(0, 9), slice(4, 30)
    fusion.local = Layout([[View(whole, whole), View(upper, whole), View(whole, narrow)]], (1, 0, 1, 0))
    x = draws(15, 1, 4, 16, 16)
    shapes = []

    def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
        shapes.append(tuple(patches.shape[-2:]))
        return torch.tanh(patches)

    assert torch.allclose(fusion(x, [0], LOCAL, 1.0, predict), x.tanh(), atol=1e-6)
    assert sorted(shapes) == [(9, 16), (18, 12), (18, 16)]


def test_the_latent_is_left_as_it_was() -> None:
    """Samplers go on from the `x` they handed in."""
    fusion = build_fusion((16, 16), 2.5)
    x = draws(14, 1, 4, *size_of(fusion))
    before = x.clone()
    for t in (LOCAL, MIXED, GLOBAL):
        fused(fusion, x, t, 1.0, smoothing_network)
    assert torch.equal(x, before)


def test_every_dilated_sub_image_sees_the_whole_picture() -> None:
    """An object's place must be known everywhere: a mark in any corner reaches the global answer in every sub-image."""
    fusion = build_fusion((16, 12), 3.7)
    x = torch.zeros(1, 4, *size_of(fusion))
    answer = fused(
        fusion, x, GLOBAL, 0.0, lambda patches: torch.arange(float(len(patches))).view(-1, 1, 1, 1).expand_as(patches)
    )
    height, width = size_of(fusion)
    s = fusion.phase.dilation
    for rows, cols in itertools.product(
        (slice(0, 2 * s), slice(height - 2 * s, height)), (slice(0, 2 * s), slice(width - 2 * s, width))
    ):
        assert len(answer[0, 0, rows, cols].unique()) == s * s


def test_a_step_must_have_begun() -> None:
    phase = one_phase((8, 8), 2)
    fusion = PhaseFusion(phase, WindowGrid(16, 16, (8, 8)), Weights())
    with pytest.raises(RuntimeError, match="begin_step"):
        fused(fusion, draws(0, 1, 4, 16, 16), MIXED, 1.0, torch.tanh)
