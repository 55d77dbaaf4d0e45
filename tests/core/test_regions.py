"""Prompts for parts of the picture, against what each cell's prompts answer by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from demofusion_lib.core import (
    Evaluation,
    Guidance,
    Layout,
    PhaseFusion,
    PlacedPrompts,
    Region,
    View,
    Weights,
    WindowGrid,
    gaussian_blur,
    looking,
    plan_phases,
    shrink,
    shrunk_noise,
    step_generator,
    upsample,
)
from demofusion_lib.core.regions import shares_of
from demofusion_lib.params import Params
from demofusion_lib.plan import Plan

from .support import draws

REGIONS = (
    Region("left", (0.0, 0.0, 0.45, 1.0)),
    Region("middle", (0.3, 0.2, 0.8, 0.9), weight=0.6, feather=0.5),
    Region("spot", mask=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])),
)
GAINS, OFFSETS = (0.9, 0.2, -0.5, 0.6), (0.3, -1.0, 2.0, 0.7)
"""The linear answer `gain * x + offset` to each prompt, the main one first; a negative prompt's is that of `NEGATIVE`."""
NEGATIVE = (0.4, 0.1)


def by_hand(region: Region, height: int, width: int, fine: int = 40) -> torch.Tensor:
    """A box's plane by counting points, without a feather."""
    left, top, right, bottom = region.box
    y = (torch.arange(height * fine) + 0.5) / (height * fine)
    x = (torch.arange(width * fine) + 0.5) / (width * fine)
    inside = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))
    return inside.double().unflatten(0, (height, fine)).unflatten(2, (width, fine)).mean((1, 3)) * region.weight


@pytest.mark.parametrize("size", [(16, 16), (24, 13), (7, 30)])
@pytest.mark.parametrize("box", [(0, 0, 0.5, 1), (0.1, 0.35, 0.9, 0.6), (0.333, 0, 0.334, 1), (0, 0, 1, 1)])
def test_a_box_counts_where_it_lies(box: tuple[float, float, float, float], size: tuple[int, int]) -> None:
    region = Region("a", box, weight=0.7)
    assert float((region.plane(*size) - by_hand(region, *size)).abs().max()) < 0.03
    assert float(region.plane(*size).sum()) == pytest.approx(
        0.7 * (box[2] - box[0]) * (box[3] - box[1]) * math.prod(size)
    )


def test_a_feather_grows_from_the_edge_but_not_at_the_pictures_own() -> None:
    plane = Region("a", (0.0, 0.0, 0.5, 1.0), feather=0.5).plane(4, 40)
    assert plane[0].tolist() == pytest.approx([1.0] * 15 + [0.9, 0.7, 0.5, 0.3, 0.1] + [0.0] * 20)
    assert torch.equal(plane, plane[:1].expand(4, 40))
    assert torch.equal(Region("a", feather=1.0).plane(4, 4), torch.ones(4, 4, dtype=torch.float64))


def test_shares_sum_up_to_1_and_the_main_prompt_has_the_rest() -> None:
    shares = shares_of([Region("a", (0, 0, 0.75, 1), weight=0.5), Region("b", (0.5, 0, 1, 1))], 1, 4)
    expected = [[0.5, 0.5, 0, 0], [0.5, 0.5, 1 / 3, 0], [0, 0, 2 / 3, 1]]
    assert torch.allclose(shares[:, 0], torch.tensor(expected))
    assert float((shares_of(REGIONS, 31, 22).sum(0) - 1).abs().max()) < 1e-6


def test_boxes_that_meet_leave_no_cell_to_the_main_prompt() -> None:
    for count in (2, 3, 5, 6, 7, 11):
        parts = [Region("a", (i / count, 0, (i + 1) / count, 1)) for i in range(count)]
        prompts = PlacedPrompts(parts, (9, 9 * count))
        assert prompts.whole == tuple(range(1, count + 1))
        assert all((prompts.shares > 0).sum(0).flatten() == 1)


class Linear:
    """A host whose model answers each prompt linearly, and counts what it is asked."""

    def __init__(
        self, size: tuple[int, int], *, window: tuple[int, int] = (16, 16), regions: Sequence[Region] = REGIONS,
        guidance: Guidance | None = None, t: float = 500.0, owners: Sequence[int] = (0,),
        shares: Sequence[float | None] = (1.0,), wrap: bool = False, border: str = "inside", weight: str = "flat",
        overlap: float = 0.5, batch: int = 5,
    ):  # fmt: skip
        phase = plan_phases(window, size, "direct")[0]
        self.window, self.owners, self.t, self.wrap = window, owners, t, wrap
        self.grid = WindowGrid(*size, window, overlap=overlap, border=border, wrap=wrap)
        self.prompts = PlacedPrompts(regions, size) if regions else None
        self.fusion = PhaseFusion(
            phase, self.grid, Weights(), batch=batch, wrap=wrap, window_weight=weight, prompts=self.prompts
        )
        self.fusion.begin_step([step_generator(image, 2, 0) for image in range(max(owners) + 1)])
        self.evaluation = Evaluation(self.fusion, guidance or Guidance(), owners, shares, t, wrap)
        self.asked: list[tuple[int, int, View]] = []
        self.low_rows = 0

    def law(self, row: int, prompt: int) -> tuple[float, float]:
        if self.evaluation.shares[row] is None:
            return NEGATIVE
        second = row > 0 and self.owners[row - 1] == self.owners[row]  # behind `AND`
        return (0.1, 1.5 + row) if second else (GAINS[prompt], OFFSETS[prompt])

    def answer(self, patches: torch.Tensor, rows: Sequence[int], first: int) -> torch.Tensor:
        now = looking()
        assert now is not None and list(now.rows) == list(rows)
        laws = [self.law(first + row, prompt) for row, prompt in zip(rows, now.prompts)]
        return torch.stack([gain * patch + offset for patch, (gain, offset) in zip(patches, laws)])

    def __call__(self, x: torch.Tensor, calls: Sequence[int] = ()) -> torch.Tensor:
        answers, first = [], 0
        for count in calls or [len(x)]:
            answers.append(self.call(x[first : first + count], first))
            first += count
        return torch.cat(answers)

    def call(self, x: torch.Tensor, first: int) -> torch.Tensor:
        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
            self.asked += [(first + row, view.prompt or 0, view) for row, view in zip(rows, views)]
            return self.answer(patches, rows, first)

        def low(rows: Sequence[int]) -> torch.Tensor:
            self.low_rows += len(rows)
            return self.answer(shrink(x, *self.window)[list(rows)], rows, first)

        return self.evaluation(x, first, 1.0, predict, low=low, base_lat=self.window)

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """Cell by cell: `D = (1 - c2) * local + c2 * (answer to the blurred + x - blurred)`."""
        c2, dilation = Weights().c2(self.t), self.fusion.phase.dilation
        whole = self.fusion._dilated_layout(1, *x.shape[-2:]).pad(x) if not self.wrap else x
        std = 0.8 * Weights().c3(self.t)
        blurred = gaussian_blur(whole, 2 * dilation - 1, std, wrap=self.wrap)
        mean, deviation = (f(whole, (1, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
        own = [f(blurred, (1, 2, 3), keepdim=True) for f in (torch.mean, torch.std)]
        blurred = (blurred - own[0]) / own[1] * deviation + mean
        blurred = blurred[..., -x.shape[-2] :, -x.shape[-1] :]
        rows = []
        for row in range(len(x)):
            gain, offset = self.plane(row, x.shape[-2:])
            local = gain * x[row] + offset
            rows.append((1 - c2) * local + c2 * (gain * blurred[row] + offset + x[row] - blurred[row]))
        return torch.stack(rows)

    def plane(self, row: int, size: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each cell, what its prompts' gains and offsets come to."""
        laws = torch.tensor([self.law(row, prompt) for prompt in range(len(GAINS))])
        placed = row in self.evaluation._placed
        shares = shares_of(REGIONS, *size) if placed else torch.eye(len(GAINS))[0].view(-1, 1, 1)
        return (laws[:, 0, None, None] * shares).sum(0), (laws[:, 1, None, None] * shares).sum(0)


BATCH = {"owners": [0, 1, 0, 1], "shares": [1.0, 1.0, None, None]}
AND = {"owners": [0, 0, 1, 0, 1], "shares": [0.4, 0.6, 1.0, None, None]}


@pytest.mark.parametrize("t", [999.0, 500.0, 1.0], ids=["global", "both", "local"])
@pytest.mark.parametrize(
    ("size", "more"),
    [
        ((32, 32), {}),
        ((48, 32), BATCH),
        ((30, 45), {"weight": "sin2", "overlap": 0.25, **BATCH}),
        ((37, 24), {"border": "paper", **AND}),
        ((33, 40), {"wrap": True, "weight": "gaussian"}),
        ((16, 40), {"batch": 64, **AND}),
    ],
    ids=["square", "portrait", "odd", "paper", "wrap", "flat"],
)
def test_the_fused_answer_is_the_mean_of_the_prompts_cell_by_cell(size: tuple[int, int], more: dict, t: float) -> None:
    host = Linear(size, t=t, **more)
    x = draws(3, len(host.owners), 4, *size)
    assert float((host(x) - host.expected(x)).abs().max()) < 1e-5
    if "owners" in more:
        prompts = host.evaluation.shares.index(None)
        apart = Linear(size, t=t, **more)
        assert float((apart(x, [prompts, len(x) - prompts]) - host.expected(x)).abs().max()) < 1e-5


@pytest.mark.parametrize("guidance", [Guidance(), Guidance("low-pass"), Guidance(until=600), Guidance("low-pass", 600)])
@pytest.mark.parametrize("wrap", [False, True])
def test_rows_foretold_are_those_run(guidance: Guidance, wrap: bool) -> None:
    size, t = (40, 32), 500.0
    host = Linear(size, guidance=guidance, wrap=wrap, t=t, **BATCH)
    host(draws(1, 4, 4, *size))
    assert host.prompts is not None
    windows, dilated = host.prompts.of_windows(host.grid), host.prompts.of_sub_images(2, wrap=wrap)
    placed = sum(map(len, (*windows, *dilated)))
    foretold = guidance.rows(len(host.grid) + 4, 2, t, placed, len(host.prompts.whole))
    assert len(host.asked) + host.low_rows == 2 * foretold
    assert guidance.low_pass(t) == bool(host.low_rows)


def test_a_window_is_asked_for_the_regions_that_it_can_lie_on_and_no_other() -> None:
    """In every step, whatever jitter draws; and no region goes unasked where it has a share."""
    size = (48, 64)
    for overlap in (0.5, 0.25):
        host = Linear(size, overlap=overlap, t=1.0)
        shares = shares_of(REGIONS, *size)
        possible: dict[int, set[int]] = {}
        for step in range(40):
            host.fusion.begin_step([step_generator(0, 2, step)])
            host.asked.clear()
            host(draws(1, 1, 4, *size))
            asked: dict[tuple[int, int], set[int]] = {}
            windows = [(prompt, view.corner_lat) for _, prompt, view in host.asked if view.corner_lat]
            for prompt, corner in windows:
                asked.setdefault(corner, set()).add(prompt)
            grid = host.grid.views(step_generator(0, 2, step))
            for i, view in enumerate(grid):
                there = {int(p) for p in shares[:, view.rows, view.cols].flatten(1).sum(1).nonzero()}
                assert view.corner_lat is not None and there <= asked[view.corner_lat]
                possible.setdefault(i, set()).update(there)
            assert len(windows) == sum(map(len, host.prompts.of_windows(host.grid)))
        told = [set(prompts) for prompts in host.prompts.of_windows(host.grid)]
        # 40 draws reach every end of the jitter, which is 2 cells at most
        assert told == [possible[i] for i in range(len(told))]


@pytest.mark.parametrize("kind", ["windows", "low-pass"])
@pytest.mark.parametrize("weight", ["flat", "sin2"])
def test_one_region_over_everything_is_the_plain_run_to_the_bit(kind: str, weight: str) -> None:
    """With the same prompt: the same calls of the same patches."""
    whole, size = [Region("same")], (30, 48)
    outputs, asked = [], []
    for regions in ((), whole):
        host = Linear(size, regions=regions, guidance=Guidance(kind), weight=weight, **BATCH)
        host.law = lambda row, prompt: (NEGATIVE if row > 1 else (0.7, 0.2))  # type: ignore[method-assign]
        outputs.append(host(draws(5, 4, 4, *size)))
        asked.append([(row, view.rows, view.cols) for row, _, view in host.asked])
    assert torch.equal(*outputs) and asked[0] == asked[1]


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_low_pass_guidance_is_that_of_the_regions(size: tuple[int, int]) -> None:
    """Prompts answer constants, so that the guided answer is known: `D + up(down(shares) * difference)`."""
    host = Linear(size, guidance=Guidance("low-pass"), t=1.0, **BATCH)
    x = torch.zeros(4, 4, *size)
    cond, negative = host(x).chunk(2)
    offsets = torch.tensor(OFFSETS)[:, None, None]
    shares = shares_of(REGIONS, *size)
    assert float((cond - (offsets * shares).sum(0)).abs().max()) < 1e-5
    small = (offsets * shrink(shares[None], *host.window)[0]).sum(0) - NEGATIVE[1]
    assert float((cond - negative - upsample(small[None, None], *size)).abs().max()) < 1e-5
    assert shrunk_noise(size, host.window) < 1


def test_half_precision_keeps_the_mean() -> None:
    host = Linear((32, 32), t=1.0)
    x = torch.full((1, 4, 32, 32), 2.0, dtype=torch.bfloat16)
    host.law = lambda row, prompt: (0.0, 3.0)  # type: ignore[method-assign]
    assert float((Linear.call(host, x, 0) - 3).abs().max()) < 0.06


def test_a_plan_counts_what_a_run_asks_for() -> None:
    regions = "a ADDCOL b"
    params = Params.from_names({"preset": "none", "scale": 3, "regions": regions, "gate": 0.1})
    plan = Plan(params, (16, 12), 5, "sample_euler", lambda steps, start: [999, 800, 500, 200, 1], images=2)
    plain = replace(plan, params=replace(params, regions=""))
    for phase in plan.phases:
        grid, total = plan.grid(phase), 0
        for t in plan.phase_levels:
            fusion = plan.engine(
                phase, *(draws(1, 2, 4, phase.height_lat, phase.width_lat),) * 3, [0, 1], stochastic=False
            ).fusion
            fusion.begin_step([step_generator(seed, 2, 0) for seed in (0, 1)])
            evaluation = Evaluation(fusion, params.guiding, [0, 1, 0, 1], [1.0, 1.0, None, None], t)
            counted: list[int] = []

            def predict(patches: torch.Tensor, *_: object, counted: list[int] = counted) -> torch.Tensor:
                counted.append(len(patches))
                return patches

            evaluation(
                draws(1, 4, 4, phase.height_lat, phase.width_lat), 0, 1.0, predict, low=lambda rows: torch.zeros(0)
            )
            assert sum(counted) == 2 * plan.rows(phase, t)
            total += sum(counted)
        assert total == plan.evaluations(phase) > plain.evaluations(phase)
        assert len(grid) > 1
