"""NaN and infinity from the model: the windows that hold them, and no others, are asked for once more, alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from demofusion_lib.core import Layout, NotFiniteError, PhaseFusion, Place, View, Weights, WindowGrid, step_generator

from ..live_bytes import LiveBytes
from ..reads import Reads
from .runs import Run
from .support import draws, network_denoiser, one_phase
from .test_batching import CUDA, EXPECTED, PLACES, UNDISTURBED, same
from .test_fusion import GLOBAL, LOCAL, MIXED, build_fusion, size_of

NAN, INF = math.nan, math.inf


class Spoilt:
    """The run's own network, but one number of one patch in one call. `again`: what it answers to that patch alone."""

    def __init__(self, at: int, patch: int, value: float, again: float | None = None):
        self.at, self.patch, self.value, self.again = at, patch, value, again
        self.given: torch.Tensor | None = None

    def wrap(self, run: Run) -> Run:
        ask = run.answer

        def answer(call: int, patches: torch.Tensor, level: float, rows: Sequence[int]) -> torch.Tensor:
            outputs = ask(call, patches, level, rows)
            if call == self.at:
                self.given = patches[self.patch].clone()
                outputs[self.patch, 1, 2, 3] = self.value
            if call == self.at + 1 and self.again is not None:
                outputs[0, 0, 0, 0] = self.again
            return outputs

        run.answer = answer  # type: ignore[method-assign]
        return run


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_spoilt_answer_in_any_call_is_asked_for_again_alone(place: tuple[int, int]) -> None:
    """Window k of step n of phase m, all of them: the picture is the undisturbed run's."""
    for k in [k for k, (phase, step, _) in enumerate(UNDISTURBED.calls) if (phase, step) == place]:
        patch = k % UNDISTURBED.calls[k][-1]
        spoilt = Spoilt(k, patch, NAN if k % 2 else -INF)
        run = spoilt.wrap(Run(rescue=lambda call, patch: None))
        assert same(run.latents(), EXPECTED), k
        assert run.calls == UNDISTURBED.calls and run.drawn == UNDISTURBED.drawn
        assert len(run.alone) == len(run.rescued) == 1
        assert torch.equal(run.alone[0][0], spoilt.given)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_without_a_rescue_the_same_model_is_asked(place: tuple[int, int]) -> None:
    """As for an answer spoilt by chance."""
    for k in [k for k, (phase, step, _) in enumerate(UNDISTURBED.calls) if (phase, step) == place]:
        run = Spoilt(k, 0, INF).wrap(Run())
        assert same(run.latents(), EXPECTED), k
        assert run.calls == [*UNDISTURBED.calls[: k + 1], (*place, 1), *UNDISTURBED.calls[k + 1 :]]
        assert len(run.rescued) == 1


@pytest.mark.parametrize("rescue", [None, lambda call, patch: torch.full_like(patch, NAN)])
def test_a_window_that_stays_spoilt_ends_the_run_and_is_named(rescue) -> None:
    for k, (phase, step, size) in enumerate(UNDISTURBED.calls):
        run = Spoilt(k, size - 1, NAN, again=NAN).wrap(Run(rescue=rescue))
        with pytest.raises(NotFiniteError) as raised:
            run.latents()
        assert run.calls[k] == (phase, step, size) and len(run.calls) == k + (2 if rescue is None else 1)
        assert str(raised.value.place) in str(raised.value) and not run.rescued


def one_spoilt(wanted: View, row: int):
    """A model that answers NaN in one view of one row, in whatever company."""

    def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
        outputs = patches.clone()
        for output, at, view in zip(outputs, rows, views):
            if at == row and view == wanted:
                output[2, 0, -1] = NAN
        return outputs

    return predict


@pytest.mark.parametrize("border", ["inside", "paper"])
def test_the_window_is_named_by_its_place_in_the_picture(border: str) -> None:
    fusion = build_fusion((16, 12), 2.5, images=2, border=border)
    x = draws(1, 4, 4, *size_of(fusion))
    layout = fusion.local
    numbered = torch.arange(40 * 30).view(1, 40, 30) + 1.0
    for view in layout.views[1]:
        with pytest.raises(NotFiniteError) as raised:
            fusion(x, [0, 1, 0, 1], MIXED, 1.0, one_spoilt(view, 3))
        place = raised.value.place
        assert (place.row, place.image, place.offset) == (3, 1, None)
        assert (place.height_lat, place.width_lat) == (16, 12)
        # the view's last cell that lies in the picture is the one that the place counts to
        seen = layout.pad(numbered)[0, view.rows, view.cols]
        (i, j) = (seen > 0).nonzero()[-1].tolist()
        assert numbered[0, place.top_lat + i, place.left_lat + j] == seen[i, j]
        assert f"window at ({place.left_lat}, {place.top_lat}) of 12x16 cells" in str(raised.value)
        pixels = f"window at ({8 * place.left_lat}, {8 * place.top_lat}) of 96x128 px"
        assert pixels in raised.value.told(8, "px") and place.told(8, "px") == pixels


def test_a_sub_image_is_named_by_its_offset() -> None:
    fusion = build_fusion((16, 16), 3.0)
    x = draws(1, 2, 4, 48, 48)
    spoilt = View(slice(1, None, 3), slice(2, None, 3))
    with pytest.raises(NotFiniteError, match=r"NaN or infinity in the dilated sub-image 1, 2, asked again alone too$"):
        fusion(x, [0, 0], GLOBAL, 1.0, one_spoilt(spoilt, 1))
    rescued = fusion(x, [0, 0], GLOBAL, 1.0, one_spoilt(spoilt, 1), rescue=lambda patch, *_: patch)
    assert torch.equal(rescued, fusion(x, [0, 0], GLOBAL, 1.0, lambda patches, *_: patches))
    assert fusion.rescued == [Place(1, 0, 0, 0, 16, 16, offset=(1, 2))]


def test_the_rescue_is_told_what_the_model_was_told() -> None:
    fusion = build_fusion((16, 12), 2.5, images=2, border="paper")
    x = draws(1, 2, 4, *size_of(fusion))
    view = fusion.local.views[1][4]
    told = []

    def rescue(patch: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
        told.append((patch.shape, list(rows), list(views), layout))
        assert torch.equal(patch[0], layout.pad(x)[1, :, view.rows, view.cols])
        return patch.double()

    answer = fusion(x, [0, 1], LOCAL, 1.0, one_spoilt(view, 1), rescue=rescue)
    assert told == [((1, 4, 16, 12), [1], [view], fusion.local)]
    assert torch.allclose(answer, x, atol=1e-6) and answer.dtype == torch.float32


def test_all_spoilt_windows_of_a_call_and_no_others() -> None:
    fusion = build_fusion((16, 16), 2.0, batch=9)
    x = draws(1, 2, 4, 32, 32)
    sizes = []

    def predict(patches: torch.Tensor, *_: object) -> torch.Tensor:
        sizes.append(len(patches))
        outputs = patches.clone()
        if len(patches) > 1:
            outputs[1, 0, 0, 0], outputs[7, 3, 1, 1] = NAN, INF
        return outputs

    assert torch.allclose(fusion(x, [0, 0], LOCAL, 1.0, predict), x, atol=1e-6)
    assert sizes == [9, 1, 1, 9, 1, 1]
    assert [place.row for place in fusion.rescued] == [0, 0, 1, 1]


def test_a_model_that_changes_its_input_is_given_the_patch_as_it_was() -> None:
    fusion = build_fusion((16, 16), 2.0, batch=4)
    x = draws(1, 1, 4, 32, 32)
    once = iter([True])

    def predict(patches: torch.Tensor, *_: object) -> torch.Tensor:
        return patches.mul_(NAN) if next(once, False) else patches.mul_(2)

    assert torch.allclose(fusion(x, [0], MIXED, 2.0, predict), 2 * x, atol=1e-5)


def test_a_latent_that_is_spoilt_already_is_not_the_models_fault() -> None:
    fusion = build_fusion((16, 16), 2.0)
    x = draws(1, 1, 4, 32, 32)
    x[0, 0, 20, 20] = NAN
    calls = []
    with pytest.raises(
        NotFiniteError, match=r"the latent holds NaN .* window at \(\d+, \d+\) of 16x16 cells"
    ) as raised:
        fusion(x, [0], LOCAL, 1.0, lambda patches, *_: calls.append(len(patches)) or patches)
    assert raised.value.given and len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_numbers_are_finite(dtype: torch.dtype) -> None:
    """Their sum is not."""
    fusion = build_fusion((16, 16), 2.0)
    calls = []

    def predict(patches: torch.Tensor, *_: object) -> torch.Tensor:
        calls.append(len(patches))
        return torch.full_like(patches, 3e37, dtype=dtype)

    answer = fusion(draws(1, 1, 4, 32, 32), [0], LOCAL, 1.0, predict)
    assert torch.allclose(answer, torch.full_like(answer, 3e37), rtol=0.01) and calls == [9]


def test_memory_that_runs_out_in_the_second_try_is_told_as_such() -> None:
    def rescue(call: int, patch: torch.Tensor) -> None:
        raise CUDA

    with pytest.raises(torch.cuda.OutOfMemoryError):
        Spoilt(3, 0, NAN).wrap(Run(rescue=rescue)).latents()


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_each_call_waits_for_the_device_once(batch: int) -> None:
    phase = one_phase((16, 16), 2.5)
    fusion = PhaseFusion(phase, WindowGrid(40, 40, (16, 16)), Weights(), batch=batch)
    fusion.begin_step([step_generator(0, 2, 0)])
    network, calls = network_denoiser(), []

    def predict(patches: torch.Tensor, *_: object) -> torch.Tensor:
        calls.append(len(patches))
        return network(patches, 2.0, [0] * len(patches))

    with LiveBytes() as live:
        fusion(draws(1, 1, 4, 40, 40), [0], MIXED, 1.0, predict)
    waits = [name for name in live.operations if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::item")]
    assert len(waits) == len(calls)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(), lambda x: x.tolist(), float, int, bool, lambda x: x.cpu(), lambda x: x.numpy(),
        lambda x: x.to("cpu"), lambda x: x.to(torch.device("cpu")), lambda x: x.to(device="cpu"), lambda x: [1, 2][x],
    ],
)  # fmt: skip
def test_whatever_waits_for_a_device_is_counted(read) -> None:
    number = torch.ones((), dtype=torch.long)
    with Reads() as reads:
        read(number)
        number.mul(2).to(torch.float32)
    assert reads.count == 1


@pytest.mark.parametrize("t", [LOCAL, MIXED, GLOBAL])
@pytest.mark.parametrize("weight", ["flat", "sin2"])
def test_an_evaluation_reads_one_number_from_the_device(t: float, weight: str) -> None:
    for at_once, most in ((False, 1), (True, 30)):
        fusion = build_fusion((16, 12), 2.5, images=2, batch=4, looks_at_once=at_once, window_weight=weight)
        x = draws(1, 4, 4, *size_of(fusion))
        with Reads() as reads:
            fusion(x, [0, 1, 0, 1], t, 1.0, lambda patches, *_: patches * 0.5)
        assert reads.count <= most and (at_once or reads.count == 1) and (not at_once or reads.count > 1)


@pytest.mark.parametrize("t", [LOCAL, MIXED])
def test_what_is_looked_at_later_is_asked_for_again(t: float) -> None:
    """The whole evaluation, and from then on every batch of the phase is looked at as it comes."""
    fusion = build_fusion((16, 12), 2.5, batch=4, looks_at_once=False)
    x, calls = draws(1, 2, 4, *size_of(fusion)), []
    wanted = fusion.local.views[0][5]
    spoilt = one_spoilt(wanted, 1)

    def predict(patches: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(len(patches))
        return spoilt(patches, *rest)

    clean = build_fusion((16, 12), 2.5, batch=4)(x, [0, 0], t, 1.0, lambda patches, *_: patches.clone())
    answer = fusion(x, [0, 0], t, 1.0, predict, rescue=lambda patch, *_: patch.clone())
    once = len(calls) // 2
    assert torch.equal(answer, clean) and len(fusion.rescued) == 1 and len(calls) == 2 * once
    calls.clear()
    assert torch.equal(fusion(x, [0, 0], t, 1.0, predict, rescue=lambda patch, *_: patch.clone()), clean)
    assert len(calls) == once
    with pytest.raises(NotFiniteError):
        build_fusion((16, 12), 2.5, batch=4, looks_at_once=False)(x, [0, 0], t, 1.0, predict)
