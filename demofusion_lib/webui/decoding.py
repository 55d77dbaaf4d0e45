"""The phases' pictures through the exact VAE tiles, in the host's own decoding.

`first_stage_model.decode` of the model that is loaded is ours while a batch is drawn, for latents that are larger than the
base image's; so the result, the phases that are kept and the live preview "Full" all go through it, and what the host does
around a decode (approximations, 32-bit retries, its NaN check) stays its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import torch
from modules import devices, shared

from .. import vae
from ..memory import giving_back
from ..targets import LATENT_PX
from .forge import always_tiled, reckoned_by_tiles
from .others import does_instead, extension_of
from .parts import scale_of, vae_of
from .previews import FullPreviews
from .progress import Progress

HOOK = "send_me_to_gpu"
LENT = "first_stage_model_decode_wrap"
"""Of the host's, on a module that is not always on the device (`--medvram`)."""
ONE_PRESS = 1.0
"""Seconds."""


class DecodingInterrupted(Exception):
    """Interrupt or Skip was pressed while a picture was decoded."""


class TiledDecode:
    """Stands for `first_stage_model.decode`. `larger_than`: latents of no more cells are the host's own business."""

    __name__ = "tiled_decode"  # the reader of the VAE refuses a `decode` that it doesn't know

    def __init__(
        self, model: Any, mode: str, larger_than: int, folder: str,
        tell: Callable[[str], None], progress: Progress, scale_factor: float = 1.0,
    ):  # fmt: skip
        self.model = model
        self.mode = mode
        self.larger_than = larger_than
        self.folder = folder
        self.tell = tell
        self.progress = progress
        self.host_decode = model.decode
        self.thread = threading.get_ident()
        self.readable = True
        self.deaf_until = 0.0
        self.scale_factor = scale_factor
        self.previews = FullPreviews()

    def __call__(self, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self._is_preview:
            return self._whole(z, *args, **kwargs)
        expected = self.progress.decode_seconds((z.shape[-1] * LATENT_PX, z.shape[-2] * LATENT_PX))
        return self.previews.of(z * self.scale_factor, expected, lambda: self._whole(z, *args, **kwargs))

    def _whole(self, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.readable or args or kwargs or z.shape[-2] * z.shape[-1] <= self.larger_than:
            return self.host_decode(z, *args, **kwargs)
        try:
            return self._decode(z)
        except vae.Unreadable as error:
            self.readable = False
            other = does_instead(getattr(self.model, "decoder", None))
            whole = f"the VAE can't be read ({error}), so the webui decodes the phases in one piece"
            self._tell(f"{other} decodes the phases" if other else whole)
            return self.host_decode(z)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        to_device(self.model)
        memory = vae.Memory.find(devices.device, self.folder)
        try:
            return vae.decode(
                self.model, z, mode=self.mode, memory=memory, on_tile=giving_back(self._after_tile), told=self._told_plan,
                on_share=self._tell_share,
            )  # fmt: skip
        except vae.NotFinite as error:
            if self._is_preview or shared.cmd_opts.disable_nan_check:
                raise
            self._tell(f"in the VAE's precision {error}")
            size_px = z.shape[-2] * LATENT_PX, z.shape[-1] * LATENT_PX
            # the host checks one value, and does what its settings ask for: a decode in another precision, or an error
            return z.new_full((1, 1, 1, 1), torch.nan).expand(len(z), 3, *size_px)

    def _told_plan(self, plan: vae.Plan) -> None:
        if plan.mode == "estimated":
            self._tell("decoded by tiles with estimated statistics, which is not exact")
        elif plan.store == "file":
            self._tell(str(plan))

    def _after_tile(self, done: int, total: int) -> None:
        if self._is_preview:
            return
        state = shared.state
        if (state.interrupted or state.skipped) and monotonic() >= self.deaf_until:
            raise DecodingInterrupted

    def _tell_share(self, share: float) -> None:
        if not self._is_preview:
            self.progress.tile(share)

    @contextlib.contextmanager
    def heeding_new_stops(self, *, deaf: bool = False) -> Iterator[None]:
        """A run that was stopped ends with a decode, which another press shall stop: the first one is set aside for it.

        What follows it within a second is the same press: buttons are pressed more than once. deaf: none stops it, as
        there is no other picture to show.
        """
        state = shared.state
        before = state.interrupted, state.skipped
        state.interrupted = state.skipped = False
        self.deaf_until = math.inf if deaf else monotonic() + ONE_PRESS if any(before) else 0.0
        try:
            yield
        finally:
            state.interrupted = state.interrupted or before[0]
            state.skipped = state.skipped or before[1]
            self.deaf_until = 0.0

    def _tell(self, text: str) -> None:
        if not self._is_preview:
            self.tell(text)

    @property
    def _is_preview(self) -> bool:
        """The host makes them in the thread of the request that asks for one, or between two steps (`--lowvram`)."""
        return threading.get_ident() != self.thread or not self.progress.decodes


def to_device(model: Any) -> None:
    """As `--medvram` does when the module itself is called."""
    for hook in model._forward_pre_hooks.values():
        if getattr(hook, "__name__", "") == HOOK:
            hook(model, None)


def folder_of(p: Any) -> str:
    """Where layers may be laid as files."""
    return p.outpath_samples if os.path.isdir(p.outpath_samples or "") else tempfile.gettempdir()


@contextlib.contextmanager
def tiled(
    p: Any, mode: str, larger_than: int, tell: Callable[[str], None], progress: Progress
) -> Iterator[TiledDecode | None]:
    """Puts a `TiledDecode` into the model that is loaded, and takes it out again whatever happens. None: the host's own decoder,
    of which live previews take no more of the time either.
    """
    model = vae_of(p.sd_model)
    before = vars(model).get("decode")
    if before is not None and getattr(before, "__name__", "") != LENT:
        if mode != "host":
            tell(f"{extension_of(before)} decodes the phases")
        yield None
        return
    if always_tiled(p.sd_model):
        if mode != "host":
            tell("decoded by the webui's own tiles, as its settings say")
        yield None
        return
    decode = TiledDecode(model, mode, larger_than, folder_of(p), tell, progress, scale_of(p.sd_model))
    decode.readable = mode != "host"
    model.decode = decode
    try:
        with reckoned_by_tiles(p.sd_model, larger_than) if decode.readable else contextlib.nullcontext():
            yield decode if decode.readable else None
    finally:
        if before is None:
            del model.decode
        else:
            model.decode = before
