"""Which phases lead from a base size to a target, and what carries a latent from one to the next."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from demofusion_lib.core import (
    PLANS,
    Phase,
    centre_crop,
    climb,
    cropped_size,
    plan_phases,
    plan_scales,
    scaled_size,
    statistics,
    upsample,
    with_statistics,
)

from .support import draws

# sides in latent cells: native sizes of SD 1.5 and SDXL, portrait and landscape, the smallest, and odd ones
BASES = [(64, 64), (128, 128), (152, 104), (104, 152), (65, 97), (97, 65), (81, 64), (8, 16), (16, 3), (1, 1), (113, 7)]
SCALES = [1.05, 1.25, 1.5, 1.75, 2, 2.05, 2.5, 3, 3.3, 3.7, 4, 5.15, 6.6, 7.95, 8]


@pytest.mark.parametrize(
    ("scale", "every", "doubling"),
    [
        (1.5, [1.5], [1.5]),
        (2, [2], [2]),
        (2.5, [2, 2.5], [2, 2.5]),
        (3, [2, 3], [2, 3]),
        (3.7, [2, 3, 3.7], [2, 3.7]),
        (4, [2, 3, 4], [2, 4]),
        (5, [2, 3, 4, 5], [2, 4, 5]),
        (8, [2, 3, 4, 5, 6, 7, 8], [2, 4, 8]),
    ],
)
def test_plans(scale: float, every: list[float], doubling: list[float]) -> None:
    assert plan_scales(scale, "every") == every
    assert plan_scales(scale, "doubling") == doubling
    assert plan_scales(scale, "direct") == [scale]


@pytest.mark.parametrize("plan", PLANS)
def test_a_whole_scale_just_below_the_last_is_no_phase_of_its_own(plan: str) -> None:
    assert plan_scales(2.05, plan) == [2.05]
    assert plan_scales(4.05, plan)[-2:] != [4, 4.05]


@pytest.mark.parametrize("plan", PLANS)
def test_scale_1_has_no_phases(plan: str) -> None:
    assert plan_scales(1, plan) == []
    assert plan_phases((64, 48), (64, 48), plan) == []


@pytest.mark.parametrize(
    ("scale", "dilation"),
    [(1.05, 1), (1.4, 1), (1.5, 2), (2, 2), (2.45, 2), (2.5, 3), (3.7, 4), (4, 4), (7.5, 8), (8, 8)],
)
def test_dilation_is_the_nearest_whole_scale(scale: float, dilation: int) -> None:
    assert plan_phases((128, 128), scaled_size(128, 128, scale), "direct")[-1].dilation == dilation


def test_phases_of_the_papers_plan() -> None:
    assert plan_phases((152, 104), (608, 416), "every") == [
        Phase(number=2, last=4, scale=2.0, height_lat=304, width_lat=208, dilation=2),
        Phase(number=3, last=4, scale=3.0, height_lat=456, width_lat=312, dilation=3),
        Phase(number=4, last=4, scale=4.0, height_lat=608, width_lat=416, dilation=4),
    ]


def assert_climbs(base: tuple[int, int], target: tuple[int, int], phases: list[Phase]) -> None:
    """From the base to exactly the target, each phase larger than the one before, with sub-images near native size."""
    assert (phases[-1].height_lat, phases[-1].width_lat) == target
    assert [phase.number for phase in phases] == list(range(2, len(phases) + 2))
    assert {phase.last for phase in phases} == {len(phases) + 1}
    sizes = [base, *((phase.height_lat, phase.width_lat) for phase in phases)]
    for smaller, larger in itertools.pairwise(sizes):
        assert all(a <= b for a, b in zip(smaller, larger)) and smaller != larger
    assert all(abs(phase.scale - phase.dilation) <= 0.5 for phase in phases)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("base", BASES)
def test_every_scale_of_every_shape_is_reached(base: tuple[int, int], plan: str) -> None:
    for scale in SCALES:
        target = scaled_size(*base, scale)
        if target == base:
            assert plan_phases(base, target, plan) == []
            continue
        phases = plan_phases(base, target, plan)
        assert_climbs(base, target, phases)
        assert all((p.height_lat, p.width_lat) == scaled_size(*base, p.scale) for p in phases[:-1])
        if min(base) >= 64:
            assert [phase.scale for phase in phases] == pytest.approx(plan_scales(scale, plan), abs=0.011)


@pytest.mark.parametrize("plan", PLANS)
def test_every_target_width_and_height_is_reached(plan: str) -> None:
    """From the part of the base that has the target's shape."""
    for base in [(64, 64), (65, 97), (152, 104)]:
        for target in itertools.product(range(152, 500, 37), range(152, 500, 41)):
            cropped = cropped_size(base, target)
            assert_climbs(cropped, target, plan_phases(cropped, target, plan))


def test_sizes_round_to_the_nearest_cell() -> None:
    assert scaled_size(65, 97, 1.5) == (98, 146)
    assert scaled_size(104, 152, 3.7) == (385, 562)
    assert scaled_size(10, 10, 1.04) == (10, 10)


@pytest.mark.parametrize("plan", ["", "all", "Every", None])
def test_an_unknown_plan_is_refused(plan: str) -> None:
    with pytest.raises(ValueError, match=r"plan is .*allowed: every, doubling, direct"):
        plan_scales(2, plan)
    with pytest.raises(ValueError, match="plan is"):
        plan_phases((64, 64), (128, 128), plan)


@pytest.mark.parametrize("scale", [0.99, 0, -2, math.nan])
def test_a_scale_below_1_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale is {scale}, allowed: 1 or more"):
        plan_scales(scale, "every")


@pytest.mark.parametrize("target", [(63, 128), (128, 63), (32, 32)])
def test_a_target_below_the_base_is_refused(target: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"the target {target[1]}x{target[0]} is smaller than the base 64x64"):
        plan_phases((64, 64), target, "every")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("target", [(256, 256), (256, 512), (512, 256), (304, 301), (1024, 130)])
def test_cropped_size_is_the_largest_of_the_targets_shape(base: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = cropped_size(base, target)
    assert 1 <= height <= base[0] and 1 <= width <= base[1]
    assert height == base[0] or width == base[1]
    # the free side is the nearest whole cell to the target's shape
    assert abs(height * target[1] - width * target[0]) <= max(target) / 2 or min(height, width) == 1


def test_centre_crop_takes_the_middle() -> None:
    latent = torch.arange(6 * 8).view(1, 1, 6, 8)
    assert torch.equal(centre_crop(latent, 2, 4), latent[..., 2:4, 2:6])
    assert torch.equal(centre_crop(latent, 6, 8), latent)


def test_upsampling_is_bicubic_and_reads_pixels_as_areas() -> None:
    """A constant stays one; a plane stays one, up to the cubic's own ripple, and neither is shifted."""
    assert torch.allclose(upsample(torch.full((2, 4, 5, 7), 3.0), 13, 11), torch.full((2, 4, 13, 11), 3.0))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    finer = upsample(ramp, 16, 16)[0, 0, 8]
    assert torch.allclose(finer[4:12], torch.arange(1.75, 5.5, 0.5), atol=0.05)
    # a step overshoots, as a cubic does and a linear or nearest filter does not
    assert upsample(ramp.gt(3).float(), 16, 16).max() > 1.01


def test_statistics_are_each_images_own() -> None:
    batch = torch.stack([draws(i, 4, 6, 5) * (i + 1) + 10 * i for i in range(3)])
    mean, std = statistics(batch)
    for i, image in enumerate(batch):
        assert float(mean[i]) == pytest.approx(float(image.mean()), rel=1e-5)
        assert float(std[i]) == pytest.approx(float(image.std()), rel=1e-5)


def test_with_statistics_brings_each_image_to_its_own() -> None:
    batch = torch.stack([draws(i, 4, 6, 5) * (i + 1) + 10 * i for i in range(3)])
    mean, std = torch.tensor([1.0, -2.0, 0.0]).view(3, 1, 1, 1), torch.tensor([0.5, 2.0, 0.1]).view(3, 1, 1, 1)
    reached = statistics(with_statistics(batch, mean, std))
    assert torch.allclose(reached[0], mean, atol=1e-5) and torch.allclose(reached[1], std, rtol=1e-5)


def test_an_image_without_deviation_becomes_its_mean_not_nan() -> None:
    mean, std = torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1)
    assert torch.equal(with_statistics(torch.full((1, 4, 3, 3), 7.0), mean, std), torch.full((1, 4, 3, 3), 2.0))


def test_each_phase_starts_from_the_last_one_and_ends_with_phase_1s_statistics() -> None:
    base = torch.stack([draws(i, 4, 9, 7) * (i + 1) + i for i in range(2)])
    phases = plan_phases((9, 7), (36, 28), "every")
    given = []

    def denoise(phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        given.append((previous, before))
        return previous.square() + phase.number

    done = list(climb(base, phases, denoise))
    assert [phase for phase, _ in done] == phases
    for expected, (previous, before), (phase, latent) in zip([base] + [latent for _, latent in done], given, done):
        assert before is expected
        assert torch.equal(previous, upsample(before, phase.height_lat, phase.width_lat))
        for ours, anchor in zip(statistics(latent), statistics(base)):
            assert torch.allclose(ours, anchor, atol=1e-4)
        raw = denoise(phase, previous, before)
        shape = (raw - raw.mean((1, 2, 3), keepdim=True)).flatten(1)
        assert torch.cosine_similarity(shape, (latent - latent.mean((1, 2, 3), keepdim=True)).flatten(1)).min() > 0.9999


def test_phases_are_delivered_one_by_one() -> None:
    """A fault in a late phase must not take the earlier ones with it."""

    def denoise(phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        if phase.number == 3:
            raise MemoryError
        return previous

    running = climb(draws(0, 1, 4, 8, 8), plan_phases((8, 8), (24, 24), "every"), denoise)
    assert next(running)[0].number == 2
    with pytest.raises(MemoryError):
        next(running)


def test_no_phase_is_larger_than_the_target() -> None:
    """A base of few cells a side is where rounding would carry an earlier phase beyond it."""
    for height, width, target in itertools.product(range(1, 6), range(30, 60, 7), ((12, 256), (9, 200), (23, 300))):
        if target[0] < height or target[1] < width:
            continue
        for phase in plan_phases((height, width), target, "every"):
            assert phase.height_lat <= target[0] and phase.width_lat <= target[1]
