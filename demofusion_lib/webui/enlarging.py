"""Pictures between phases, for those that begin from pixels: decoded and encoded again by the VAE of the model that is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from modules import devices, shared
from modules.processing import decode_latent_batch

from .. import vae
from ..memory import giving_back
from ..work import DECODED_PX, ENCODED_PX
from .decoding import DecodingInterrupted, folder_of, to_device
from .others import does_instead
from .parts import scale_of, vae_of
from .progress import Progress


class Still:
    """A progress that shows nothing: of what is coded within a part of the run that shows its own."""

    def between(self, kind: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def tile(self, share: float) -> None: ...


class Coder:
    """mode: the setting `vae`. tell: given what a user should know."""

    def __init__(self, p: Any, mode: str, tell: Callable[[str], None], progress: Progress | Still):
        self.p = p
        self.mode = mode
        self.folder = folder_of(p)
        self.tell = tell
        self.progress = progress

    @property
    def model(self) -> Any:
        """After a refiner reForge loads the base model anew, as another object."""
        return self.p.sd_model

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """`(1, 4, h, w)` to `(1, 3, 8h, 8w)` in [-1, 1]."""
        with self.progress.between(DECODED_PX):
            return self._by_tiles(vae.decode, latent / scale_of(self.model), lambda: self._host_decode(latent))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Back again: the mean of what the encoder answers. The host's own `encode` would draw from it, by torch's global seed."""
        with self.progress.between(ENCODED_PX):
            moments = self._by_tiles(vae.encode, pixels, lambda: self._host_moments(pixels))
        return moments.chunk(2, dim=1)[0].to(devices.device).float() * scale_of(self.model)

    def _by_tiles(
        self, code: Callable[..., torch.Tensor], given: torch.Tensor, host: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        if self.mode == "host":
            return host()
        first_stage = vae_of(self.model)
        to_device(first_stage)
        try:
            return code(
                first_stage, given, mode=self.mode, memory=vae.Memory.find(devices.device, self.folder),
                on_tile=giving_back(self._after_tile), on_share=self.progress.tile, fallback=torch.float32,
            )  # fmt: skip
        except vae.Unreadable as error:
            self.mode = "host"
            others = (does_instead(getattr(first_stage, part, None)) for part in ("decoder", "encoder"))
            other = next(filter(None, others), "")
            whole = f"the VAE can't be read ({error}), so the webui's own codes the pictures between phases"
            self.tell(f"{other} codes the pictures between phases" if other else whole)
            return host()

    def _host_decode(self, latent: torch.Tensor) -> torch.Tensor:
        """With all that the host does about precision."""
        decoded = decode_latent_batch(self.model, latent, target_device=devices.cpu, check_for_nans=True)
        return torch.stack(list(decoded)).float()

    def _host_moments(self, pixels: torch.Tensor) -> torch.Tensor:
        first_stage = vae_of(self.model)
        to_device(first_stage)
        given = pixels.to(devices.device, next(first_stage.encoder.parameters()).dtype)
        with devices.autocast():
            moments: torch.Tensor = first_stage.quant_conv(first_stage.encoder(given))
        devices.test_for_nans(moments, "vae")
        return moments

    def _after_tile(self, done: int, total: int) -> None:
        if shared.state.interrupted or shared.state.skipped:
            raise DecodingInterrupted
