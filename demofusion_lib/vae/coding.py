"""Latent to picture and back, at any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.amp.autocast_mode import autocast

from .errors import NotFinite
from .exact import Exact
from .memory import Memory
from .planes import Answer, Given, new_answer, opened
from .planning import Job, Plan, answer_bytes, no_room, plans
from .program import Program
from .progress import Progress
from .reading import is_offloaded, read_decoder, read_encoder
from .running import follow, stretches
from .sharing import Sharing

MODES = ("auto", "exact", "estimated")
TILE_LAT = 64
MIN_TILE_LAT = 8


def decode(
    vae: Any,
    latent: torch.Tensor,
    *,
    mode: str = "auto",
    tile_lat: int = TILE_LAT,
    memory: Memory | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    told: Callable[[Plan], None] | None = None,
    on_share: Callable[[float], None] | None = None,
    dtype: torch.dtype | None = None,
    fallback: torch.dtype | None = None,
    out_device: torch.device | str = "cpu",
    sharing: Sharing | None = None,
) -> torch.Tensor:
    """The picture `(batch, 3, 8h, 8w)` of a latent `(batch, 4, h, w)` in the VAE's own scale: `vae.decode`, by tiles.

    vae: diffusers' or ldm's (sgm's) AutoencoderKL. It is not changed, but for accelerate's whole-model offload hook,
        which is called as its own `decode` would.
    mode: `exact` (the undivided result but for rounding), `estimated` (group norms' statistics from a sample of the
        picture), or `auto`: exact where its layers fit on the device, in host memory or in a file, else estimated.
    tile_lat: a tile has as many values as the last layer's has on `tile_lat` latent cells squared. At least 8.
    memory: what is free; found out if None.
    on_tile: told `(done, total)` after each tile's work. What it raises ends the work, and leaves nothing behind.
    on_share: told the share of the work that is done, up to 1, after each tile; as tiles differ, in proportion to time.
    told: given the plan before the work begins; a second time if the work is begun anew (fallback, lack of memory).
    dtype: precision to compute in, without changing the module; the weights' own if None.
    fallback: precision to begin anew in, once, where values are not finite.
    out_device: where the picture lies, in the precision that it was computed in.
    sharing: several processes that decode it together and all get it: bit for bit what one gets, where it is exact.

    Raises Unreadable for a module that can't be read, ValueError for a value outside its range, NoRoom where an exact
    decode would fit nowhere, NotFinite, OSError for a full disk.
    """
    _check(latent, mode, tile_lat)
    whole_at_device(vae)
    return _run(
        read_decoder(vae),
        latent,
        Options(mode, tile_lat, memory, on_tile, told, dtype, out_device, on_share, sharing),
        fallback,
    )


def encode(
    vae: Any,
    image: torch.Tensor,
    *,
    mode: str = "auto",
    tile_lat: int = TILE_LAT,
    memory: Memory | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    told: Callable[[Plan], None] | None = None,
    on_share: Callable[[float], None] | None = None,
    dtype: torch.dtype | None = None,
    fallback: torch.dtype | None = None,
    out_device: torch.device | str = "cpu",
    sharing: Sharing | None = None,
) -> torch.Tensor:
    """The moments `(batch, 2 * 4, h, w)`, mean and log variance, of an image `(batch, 3, 8h, 8w)` in [-1, 1].

    Everything else as in `decode`.
    """
    _check(image, mode, tile_lat)
    whole_at_device(vae)
    return _run(
        read_encoder(vae),
        image,
        Options(mode, tile_lat, memory, on_tile, told, dtype, out_device, on_share, sharing),
        fallback,
    )


def peak_bytes(
    vae: Any, height: int, width: int, *, mode: str = "exact", tile_lat: int = TILE_LAT, dtype: torch.dtype | None = None,
    encoder: bool = False,
) -> Plan:  # fmt: skip
    """The plan of a decode of `(height, width)` cells on the device: its `device_bytes` and `store_bytes`.

    encoder: of an encode of `(height, width)` pixels instead.
    """
    program = read_encoder(vae) if encoder else read_decoder(vae)
    job = _job(program, (height, width), tile_lat, dtype)
    return job.exact("device") if mode == "exact" else job.estimated("device", *job.parts()[-1])


def chosen(
    vae: Any, height: int, width: int, *, mode: str, memory: Memory, images: int = 1, tile_lat: int = TILE_LAT,
    dtype: torch.dtype | None = None, encoder: bool = False,
) -> Plan | None:  # fmt: skip
    """The plan that `decode` of so many latents of `(height, width)` cells would begin with; None where none fits."""
    program = read_encoder(vae) if encoder else read_decoder(vae)
    job = _job(program, (height, width), tile_lat, dtype)
    return next(plans(job, mode, memory, answer_bytes(job, images)), None)


@dataclass(frozen=True)
class Options:
    """What a decode was asked for."""

    mode: str
    tile_lat: int
    memory: Memory | None
    on_tile: Callable[[int, int], None] | None
    told: Callable[[Plan], None] | None
    dtype: torch.dtype | None
    out_device: torch.device | str
    on_share: Callable[[float], None] | None = None
    sharing: Sharing | None = None


def _run(program: Program, given: torch.Tensor, options: Options, fallback: torch.dtype | None) -> torch.Tensor:
    if given.shape[1] != program.inputs:
        raise ValueError(f"what the VAE is given has {given.shape[1]} channels, allowed: {program.inputs}")
    try:
        return _run_once(program, given, options)
    except NotFinite:
        if fallback is None or fallback == program.dtype(options.dtype):
            raise
    return _run_once(program, given, replace(options, dtype=fallback))


def _run_once(program: Program, given: torch.Tensor, options: Options) -> torch.Tensor:
    """The best plan, and the next best one where memory turns out to be short of what the plan reckoned with."""
    job = _job(program, given.shape[2:], options.tile_lat, options.dtype)
    memory = of_all(options.memory or Memory.find(program.device), options.sharing)
    short: RuntimeError | None = None
    for plan in plans(job, options.mode, memory, answer_bytes(job, given.shape[0])):
        if options.told is not None:
            options.told(plan)
        try:
            with torch.no_grad(), without_autocast(program.device):
                return _followed(plan, job, given, options, memory.folder)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            short = error.with_traceback(None)  # which holds the tensors that were too many
    raise short or no_room(job, options.mode, memory)


def _job(program: Program, size: Sequence[int], tile_lat: int, dtype: torch.dtype | None) -> Job:
    height, width = size
    return Job(program, height, width, program.dtype(dtype), program.tile_values(tile_lat))


def of_all(memory: Memory, sharing: Sharing | None) -> Memory:
    """What every one of several processes has, so that they plan alike."""
    if sharing is None:
        return memory
    device, host, disk = (sharing.least(free) for free in (memory.device, memory.host // sharing.beside, memory.disk))
    folder = memory.folder if sharing.least(int(bool(memory.folder))) else ""
    return replace(memory, device=device, host=host, disk=disk // sharing.beside, folder=folder)


def _followed(plan: Plan, job: Job, given: torch.Tensor, options: Options, folder: str) -> torch.Tensor:
    """Of several processes the first alone estimates, for all."""
    if options.sharing is None or plan.mode == "exact":
        return _follow(plan, job, given, options, folder)
    like = new_answer(given.shape[0], job.shapes[-1], job.dtype, options.out_device)
    alone = replace(options, sharing=None)
    return options.sharing.made_once(lambda: _follow(plan, job, given, alone, folder), like)


def _follow(plan: Plan, job: Job, given: torch.Tensor, options: Options, folder: str) -> torch.Tensor:
    answer = new_answer(given.shape[0], job.shapes[-1], job.dtype, options.out_device)
    progress = Progress(stretches(plan, job), given.shape[0], options.on_tile, job.program.device, options.on_share)
    for picture, target in zip(given, answer):
        with opened(plan.store, job.program.device, folder) as store:
            run = Exact(store, progress, job.values, options.dtype, sharing=options.sharing)
            run.planes["x"] = Given(picture, job.dtype, job.program.device)
            follow(plan, job, run, Answer(target))
    return answer


def lacks_memory(error: RuntimeError) -> bool:
    return (
        isinstance(error, torch.cuda.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate" in str(error)
        or str(error).startswith("out of memory")  # another process's, which shares this one's work
    )


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Precision is the layers' own here."""
    return autocast(device.type, enabled=False) if device.type in ("cuda", "cpu", "xpu") else nullcontext()


def _check(given: torch.Tensor, mode: str, tile_lat: int) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r:.80}, allowed: {', '.join(MODES)}")
    if not isinstance(tile_lat, int) or tile_lat < MIN_TILE_LAT:
        raise ValueError(f"tile_lat is {tile_lat!r:.80}, allowed: {MIN_TILE_LAT} or more")
    if given.ndim != 4 or 0 in given.shape:
        raise ValueError(f"what the VAE is given is {tuple(given.shape)}, allowed: (batch, channels, height, width)")


def whole_at_device(vae: Any) -> None:
    """Calls accelerate's hook on the whole module, as diffusers' own `decode` does."""
    if is_offloaded(vae):
        vae._hf_hook.pre_forward(vae)
