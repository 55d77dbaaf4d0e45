"""How many patches the model gets at once: found by memory, halved where it runs out, and never seen in the picture."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from demofusion_lib.core import PhaseFusion, Weights, WindowBatch, WindowGrid, is_out_of_memory, step_generator
from demofusion_lib.core.batching import MODEST, PAYS, SHARE, TRIAL

from ..live_bytes import LiveBytes
from .runs import Run
from .support import draws, one_phase
from .test_fusion import LOCAL, MIXED

CUDA = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
PLENTY = 10**15


def same(latents: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(latents, expected, strict=True))


def once(at: int, error: BaseException) -> Callable[[int, torch.Tensor], None]:
    def fault(call: int, patches: torch.Tensor) -> None:
        if call == at:
            raise error

    return fault


UNDISTURBED = Run()
EXPECTED = UNDISTURBED.latents()
PLACES = [(m, n) for m in (2, 3) for n in range(3)]


# The batch is not seen


@pytest.mark.parametrize("border_wrap", [("inside", False), ("paper", False), ("inside", True)], ids=str)
def test_every_batch_draws_the_same_picture(border_wrap: tuple[str, bool]) -> None:
    border, wrap = border_wrap
    expected = Run(batch=7, border=border, wrap=wrap).latents()
    for batch in range(1, 65) if border_wrap == ("inside", False) else (1, 2, 5, 16, 64):
        run = Run(batch=batch, border=border, wrap=wrap)
        assert same(run.latents(), expected), batch
        assert max(size for *_, size in run.calls) <= batch


def test_the_automatic_batch_draws_the_same_picture() -> None:
    for free in (None, 0, 10**5, PLENTY):
        assert same(Run(batch=WindowBatch(free_bytes=lambda free=free: free)).latents(), EXPECTED)


# Out of memory


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_memory_that_runs_out_in_any_call_costs_nothing_but_time(place: tuple[int, int]) -> None:
    """In window k of step n of phase m, all of them: the same windows are asked for again, in halves from there on."""
    injected = [k for k, (phase, step, _) in enumerate(UNDISTURBED.calls) if (phase, step) == place]
    assert len(injected) >= 4
    for k in injected:
        tried = UNDISTURBED.calls[k][-1]
        batch = WindowBatch(5)
        run = Run(batch=batch, fault=once(k, CUDA))
        assert tried > 1
        assert same(run.latents(), EXPECTED), k
        assert run.drawn == UNDISTURBED.drawn  # the step's windows are those that were drawn for it
        assert (batch.size, batch.reduced) == (tried // 2, (tried, tried // 2))
        assert run.calls[: k + 1] == UNDISTURBED.calls[: k + 1]
        assert max(size for *_, size in run.calls[k + 1 :]) == tried // 2
        patches = sum(size for *_, size in run.calls) - tried
        assert patches == sum(size for *_, size in UNDISTURBED.calls)


def test_memory_for_one_patch_alone_is_found_by_halving() -> None:
    def fault(call: int, patches: torch.Tensor) -> None:
        if len(patches) > 1:
            raise MemoryError

    batch = WindowBatch(5)
    run = Run(batch=batch, fault=fault)
    assert same(run.latents(), EXPECTED)
    assert [size for *_, size in run.calls[:3]] == [5, 2, 1] and {size for *_, size in run.calls[3:]} == {1}
    assert batch.reduced == (5, 1)


def test_where_one_patch_is_too_many_the_error_comes_through() -> None:
    def fault(call: int, patches: torch.Tensor) -> None:
        raise CUDA

    run = Run(fault=fault)
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        run.latents()
    assert raised.value is CUDA
    assert [size for *_, size in run.calls] == [5, 2, 1]


def test_a_number_is_halved_too() -> None:
    run = Run(batch=5, fault=once(2, CUDA))
    run.latents()
    assert max(size for phase, _, size in run.calls[3:] if phase == 2) == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")]
)
def test_another_error_is_not_tried_again(error: Exception) -> None:
    run = Run(fault=once(4, error))
    with pytest.raises(type(error)) as raised:
        run.latents()
    assert raised.value is error and len(run.calls) == 5


def test_what_did_not_fit_is_gone_before_the_next_try() -> None:
    """Not kept by the error's traceback either, though somebody keeps the error; then the host frees what it can."""
    held: list[weakref.ref[torch.Tensor]] = []
    errors: list[Exception] = []
    freed: list[int] = []

    def model(patches: torch.Tensor) -> None:
        inner = patches + 1
        held.append(weakref.ref(inner))
        try:
            raise KeyError("an allocator's own")
        except KeyError as cause:
            errors.append(RuntimeError("MPS backend out of memory"))
            raise errors[-1] from cause

    def fault(call: int, patches: torch.Tensor) -> None:
        alive = [tensor for tensor in held if tensor() is not None]
        assert not alive
        if len(patches) > 1:
            held.append(weakref.ref(patches))
            model(patches)

    def free() -> None:
        freed.append(len([tensor for tensor in held if tensor() is not None]))

    run = Run(batch=WindowBatch(5, free=free), fault=fault)
    assert same(run.latents(), EXPECTED)
    assert freed == [0, 0] and len(held) == 4


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (CUDA, True),
        (MemoryError(), True),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18.0 GB, max allowed: 18.1 GB)."), True),
        (RuntimeError("Invalid buffer size: 16.00 GB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:83] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:72] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("Could not allocate tensor with 9 bytes. There is not enough GPU video memory available!"), True),
        (RuntimeError("Expected all tensors to be on the same device"), False),
        (ValueError("out of memory"), False),
        (OSError("No space left on device"), False),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_who_says_that_memory_ran_out(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) == memory


def test_torchs_own_error_on_this_machine() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_out_of_memory(raised.value)


# The automatic batch

INSIDE = 25
"""Planes of a patch's size that the model makes beside its answer."""


class Heavy:
    """A model whose need is known: so many planes to a patch. `fixed`: bytes that a call takes whatever it is given."""

    def __init__(self, fixed: int = 0, *, loads: int = 0):
        self.fixed, self.loads = fixed, loads
        self.sizes: list[int] = []
        self.weights: torch.Tensor | None = None

    def __call__(self, patches: torch.Tensor, *_: object) -> torch.Tensor:
        self.sizes.append(len(patches))
        if self.loads and self.weights is None:
            self.weights = torch.empty(self.loads, dtype=torch.uint8)  # moved to the device when first called
        room = torch.empty(self.fixed, dtype=torch.uint8)
        planes = [patches + i for i in range(INSIDE)]
        assert len(room) == self.fixed and len(planes) == INSIDE
        return patches * 0.5


def fusion_of(batch: int | WindowBatch, base: tuple[int, int] = (16, 16), scale: float = 3.0) -> PhaseFusion:
    phase = one_phase(base, scale)
    fusion = PhaseFusion(phase, WindowGrid(phase.height_lat, phase.width_lat, base), Weights(), batch=batch)
    fusion.begin_step([step_generator(0, 2, 0)])
    return fusion


def evaluate(fusion: PhaseFusion, model: Callable[..., torch.Tensor], t: float = LOCAL) -> None:
    x = draws(1, 2, 4, fusion.phase.height_lat, fusion.phase.width_lat)
    with torch.no_grad():
        fusion(x, [0, 0], t, 1.0, model)


PATCH = 16 * 16 * 4 * 4
EACH = (INSIDE + 2) * PATCH
"""A patch, its answer, and what the model makes of it."""


@pytest.mark.parametrize("fixed", [0, 60 * PATCH])
@pytest.mark.parametrize("fits", [1, 2, 3, 7, 11, 15])
def test_the_largest_batch_that_fits(fits: int, fixed: int) -> None:
    """By the model's own need in this machine's memory, as another counter sees it: one patch more would be too many."""
    free = int((fixed + (fits + 0.5) * EACH) / SHARE)
    batch = WindowBatch(free_bytes=lambda: free)
    model = Heavy(fixed)
    with LiveBytes() as live:
        evaluate(fusion_of(batch), model)
    around = 2 * 2 * 9 * PATCH  # what is drawn and the answer, two rows each
    largest = 10 if fits >= 10 else fits  # of 50 patches, all calls alike
    assert batch.size == fits and max(model.sizes[len(TRIAL) :]) == largest
    assert live.peak - around <= SHARE * free + EACH  # the two of the trial may be more than fit
    if fits > 1:
        assert SHARE * free - EACH * (1 + fits - largest) < live.peak - around <= SHARE * free


@pytest.mark.parametrize("free", [PLENTY, 2 * PLENTY, int((PAYS + 1) * EACH / SHARE)])
def test_where_memory_is_plentiful_the_batch_is_always_the_same(free: int) -> None:
    for model in (Heavy(), Heavy(loads=300 * PATCH)):
        batch = WindowBatch(free_bytes=lambda: free)
        evaluate(fusion_of(batch), model)
        assert batch.size == PAYS and batch.reduced is None
        assert model.sizes[:4] == [*TRIAL, 10]


def test_weights_that_come_with_the_first_call_are_not_a_patchs() -> None:
    """As a host does that keeps the model elsewhere until it is called."""
    free = int(7.5 * EACH / SHARE)
    batch = WindowBatch(free_bytes=lambda: free)
    evaluate(fusion_of(batch), Heavy(loads=500 * PATCH))
    assert batch.size == 7


def test_free_memory_is_asked_for_after_the_first_calls_and_once_in_a_run() -> None:
    model = Heavy()
    asked: list[int] = []

    def free_bytes() -> int:
        asked.append(len(model.sizes))
        return PLENTY

    batch = WindowBatch(free_bytes=free_bytes)
    for scale in (3.0, 2.0, 2.5):
        evaluate(fusion_of(batch, scale=scale), model, MIXED)
    assert asked == [len(TRIAL)]


def test_where_nobody_knows_the_batch_is_modest() -> None:
    for batch in (WindowBatch(), WindowBatch(0, free_bytes=lambda: None)):
        model = Heavy()
        evaluate(fusion_of(batch), model)
        assert batch.size == max(model.sizes) == MODEST
    assert fusion_of(0).batch.automatic


def test_a_model_that_cannot_be_watched_draws_in_modest_batches() -> None:
    sizes: list[int] = []

    def shy(patches: torch.Tensor, *_: object) -> torch.Tensor:
        sizes.append(len(patches))
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("compiled code runs under no mode")
        return patches * 0.5

    batch = WindowBatch(free_bytes=lambda: PLENTY)
    evaluate(fusion_of(batch), shy)
    assert batch.size == MODEST and sizes[5:] == [MODEST] * 10 + [3, 3]


def test_a_models_own_error_in_the_first_call_is_not_taken_for_the_watching() -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        evaluate(fusion_of(WindowBatch(free_bytes=lambda: PLENTY)), broken)


def test_memory_that_runs_out_while_measuring() -> None:
    def fault(call: int, patches: torch.Tensor) -> None:
        if len(patches) > 1:
            raise CUDA

    batch = WindowBatch(free_bytes=lambda: PLENTY)
    run = Run(batch=batch, fault=fault)
    assert same(run.latents(), EXPECTED)
    assert [size for *_, size in run.calls[:4]] == [*TRIAL, 1]
    assert (batch.size, batch.reduced) == (1, (2, 1))


def test_a_batch_found_is_halved_as_a_given_one() -> None:
    batch = WindowBatch(free_bytes=lambda: PLENTY)
    run = Run(batch=batch, fault=once(3, CUDA))
    assert same(run.latents(), EXPECTED)
    tried = run.calls[3][-1]
    assert tried > 4 and (batch.size, batch.reduced) == (tried // 2, (tried, tried // 2))


# Patches of other sizes


def test_larger_patches_come_in_smaller_batches() -> None:
    batch = WindowBatch(free_bytes=lambda: PLENTY)
    batch.size = 12
    assert [batch.rows(area) for area in (0.5, 1.0, 1.5, 2.25, 6.0, 30.0)] == [12, 12, 8, 5, 2, 1]
    given = WindowBatch(12)
    assert {given.rows(area) for area in (0.5, 1.0, 2.25, 30.0)} == {12}


@pytest.mark.parametrize("scale", [1.4, 2.5])
def test_whatever_is_measured_first_the_size_is_for_native_windows(scale: float) -> None:
    """At 1.4x the one sub-image is the whole picture, at 2.5x each of the nine is a little smaller than a window."""
    free = int(9.9 * EACH / SHARE)
    found = []
    for t in (LOCAL, MIXED, 1000.0):  # at the last no window is asked for
        batch = WindowBatch(free_bytes=lambda: free)
        fusion = fusion_of(batch, scale=scale)
        evaluate(fusion, Heavy(), t)
        if batch.size is None:
            assert fusion.phase.dilation == 1 and t == 1000  # two patches are too few to measure
        else:
            found.append(batch.size)
    assert set(found) == {9}


@pytest.mark.parametrize("area", [1.0, 1.3, 2.25])
@pytest.mark.parametrize("tried", range(2, 17))
def test_after_memory_ran_out_on_larger_patches_theirs_are_halved(tried: int, area: float) -> None:
    batch = WindowBatch()
    batch.size = PAYS
    batch._halve(tried, area)
    assert batch.rows(area) == tried // 2


# Going on with a run


@pytest.mark.parametrize("fault", [None, 4])
def test_a_resumed_run_is_drawn_bit_for_bit(fault: int | None) -> None:
    """With the size that its file carries, it asks for the very chunks that an undisturbed one asks for."""
    batch = WindowBatch(free_bytes=lambda: PLENTY)
    run = Run(batch=batch, fault=lambda *_: None if fault is None else once(fault, CUDA)(*_))
    expected = run.latents()
    assert run.sizes[0] == (PAYS if fault is None else run.calls[4][-1] // 2) and run.calls[4][0] == 2
    resumed = Run(batch=WindowBatch(free_bytes=lambda: PLENTY))
    assert isinstance(resumed.batch, WindowBatch)
    resumed.batch.size = run.sizes[0]
    latents = resumed.latents(after=expected[0])
    assert resumed.calls == [call for call in run.calls if call[0] == 3]
    assert torch.equal(latents[0], expected[1])


def test_a_batch_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window batch is -1, allowed: 0 \(automatic\) or more"):
        WindowBatch(-1)
