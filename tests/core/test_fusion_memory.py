"""What a step allocates: beside a plain model call, four latents and one batch of patches at most, however many windows."""

from __future__ import annotations

import pytest
import torch

from demofusion_lib.core import (
    Evaluation,
    Guidance,
    Phase,
    PhaseFusion,
    Weights,
    WindowGrid,
    X0Residual,
    gaussian_blur,
    step_generator,
)

from ..live_bytes import LiveBytes
from .support import draws, one_phase
from .test_fusion import GLOBAL, LOCAL, MIXED, smoothing_network

LATENTS = 3
"""Of the phase's size, one fewer than may be, seamless pictures too: two planes of a row and a few of its channels."""
PHASES = [
    ((16, 16), 2.0),
    ((17, 25), 2.5),  # 43x63 in threes
    ((19, 13), 3.7),  # 70x48 in fours
    ((24, 8), 6.0),
]
EDGES = [("inside", False), ("paper", False), ("inside", True)]


class Case:
    """One evaluation of a phase under guidance: a row for the prompt and one for the negative prompt of each image."""

    def __init__(
        self, phase: Phase, base: tuple[int, int], *, overlap: float = 0.5, border: str = "inside", wrap: bool = False,
        images: int = 1, batch: int = 2,
    ):  # fmt: skip
        self.images = images
        grid = WindowGrid(phase.height_lat, phase.width_lat, base, overlap, border=border, wrap=wrap)
        self.fusion = PhaseFusion(phase, grid, Weights(), batch=batch, wrap=wrap)
        self.fusion.begin_step([step_generator(image, phase.number, 0) for image in range(images)])
        self.x = draws(1, 2 * images, 4, phase.height_lat, phase.width_lat)
        self.largest = 0

    @property
    def patch(self) -> int:
        height, width = self.fusion.grid.window_lat
        return 4 * 4 * height * width

    @property
    def latent(self) -> int:
        """The bytes of one latent of the phase's size."""
        return self.x.nbytes // 2

    def predict(self, patches: torch.Tensor, *_: object) -> torch.Tensor:
        self.largest = max(self.largest, patches.nbytes)
        return patches * 0.5

    def peak(self, t: float) -> int:
        with torch.no_grad(), LiveBytes() as live:
            answer = self.fusion(self.x, [*range(self.images)] * 2, t, 0.7, self.predict)
            assert live.now <= answer.nbytes + 64  # nothing stays behind
        return live.peak

    def extra(self, t: float) -> float:
        """In latents: what is allocated beside the answer, and beside one batch of patches and their outputs."""
        return (self.peak(t) - self.x.nbytes - 2 * self.largest) / self.latent


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize(("border", "wrap"), EDGES)
@pytest.mark.parametrize(("base", "scale"), PHASES)
def test_three_latents_and_one_batch_of_patches(
    base: tuple[int, int], scale: float, border: str, wrap: bool, t: float
) -> None:
    for batch in (1, 6):
        case = Case(one_phase(base, scale), base, border=border, wrap=wrap, batch=batch)
        assert case.extra(t) <= LATENTS, batch
        assert case.largest <= case.patch * batch


@pytest.mark.parametrize("guidance", [Guidance(), Guidance("low-pass"), Guidance(until=1000)], ids=str)
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("weight", ["flat", "sin2"])
def test_weights_and_guidance_stay_within_them(weight: str, wrap: bool, guidance: Guidance) -> None:
    """What stands in for the negative prompt's rows takes the place of what asking for them does."""
    base = (16, 16)
    case = Case(one_phase(base, 3.0), base, overlap=0.25, wrap=wrap)
    case.fusion.window_weight, case.fusion.weights = weight, Weights(a2=float("inf"))
    low = torch.zeros(2, 4, *base)
    with torch.no_grad(), LiveBytes() as live:
        evaluation = Evaluation(case.fusion, guidance, [0, 0], [1.0, None], MIXED, wrap)
        evaluation(case.x, 0, 0.7, case.predict, low=lambda rows: low[list(rows)])
    assert (
        live.peak - case.x.nbytes - 2 * case.largest
    ) / case.latent <= LATENTS + wrap  # an enlarged margin around a small picture


@pytest.mark.parametrize("wrap", [False, True])
def test_what_holds_a_prediction_takes_one_more(wrap: bool) -> None:
    before, denoised = draws(1, 1, 4, 16, 16), draws(2, 1, 4, 64, 64)
    residual = X0Residual(denoised, denoised, before, Weights(1.0), wrap=wrap)
    with LiveBytes() as live:
        residual.corrected(denoised, 700.0)
    assert live.peak <= (3 if wrap else 1.25) * denoised.nbytes  # its answer, and a few of the phase before's


@pytest.mark.parametrize(("border", "wrap"), EDGES)
def test_images_of_a_batch_share_what_is_allocated(border: str, wrap: bool) -> None:
    """Row after row is blurred: what one image alone takes, a batch of four takes once."""
    phase = one_phase((17, 25), 2.5)
    case = Case(phase, (17, 25), border=border, wrap=wrap, images=4)
    assert case.extra(MIXED) <= 1


@pytest.mark.parametrize(("border", "wrap"), EDGES)
def test_more_windows_take_no_more(border: str, wrap: bool) -> None:
    phase = one_phase((12, 16), 3.0)
    few, many = (Case(phase, (12, 16), border=border, wrap=wrap, overlap=overlap) for overlap in (0.5, 0.75))
    assert len(many.fusion.grid) > 3 * len(few.fusion.grid)
    for t in (LOCAL, MIXED):
        assert many.peak(t) == few.peak(t)


def test_a_network_that_looks_around_costs_its_own_and_no_more() -> None:
    """With what a model allocates inside, the peak moves by that and nothing else: no batch's outputs wait for the next."""
    case = Case(one_phase((16, 16), 2.0), (16, 16), batch=4)
    plain = case.peak(LOCAL)
    with torch.no_grad(), LiveBytes() as live:
        patches = torch.zeros(4, 4, 16, 16)
        smoothing_network(patches)
    own = live.peak - 2 * patches.nbytes
    assert own > 0
    case.predict = lambda patches, *_: smoothing_network(patches)
    assert case.peak(LOCAL) == plain + own


@pytest.mark.parametrize("wrap", [False, True])
def test_the_blur_takes_its_answer_and_a_few_channels(wrap: bool) -> None:
    latent = draws(2, 3, 4, 40, 40)
    with LiveBytes() as live:
        gaussian_blur(latent, 7, 0.8, wrap=wrap)
    channel = latent.nbytes / 12
    assert live.peak <= latent.nbytes + 4 * channel
