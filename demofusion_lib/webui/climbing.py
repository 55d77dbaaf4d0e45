"""One batch in the host: from the base image, or from given pictures, through the phases to what is delivered."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from modules import devices, errors, rng, shared
from modules.processing import DecodedSamples, decode_latent_batch

from ..core import Enlarge, NotFiniteError, WindowBatch, centre_crop, climb
from ..memory import window_batch
from ..plan import LATENT_CHANNELS
from ..saved import SavedPhase
from ..targets import LATENT_PX
from .controlnet import ControlNet
from .decoding import DecodingInterrupted, TiledDecode, tiled
from .enlarging import Coder, Still
from .forge_controlnet import ForgeControlNet
from .formats import LIMITS_PX, too_large
from .given import Given, check_room
from .kept import end_with, keep_images
from .masks import Masked, is_inpainting
from .notes import STOPPED_KEY, tell, untell
from .parts import of_forge
from .planning import plan_of
from .progress import Progress
from .resuming import Saving, resumed
from .sampling import PhaseInterrupted, PhaseSampler
from .starting import is_given, start_of
from .takeover import Holding

Finished = tuple[int, torch.Tensor]
"""A phase's number, and the latent that it ended with; of phase 1 uncropped."""


class Climb:
    """The phases of one batch, from the host's base image to what is delivered."""

    def __init__(self, p: Any, run: Any, notes: list[str]):
        self.p, self.run, self.notes = p, run, notes
        self.plan = plan_of(p, run.params)
        self.found = resumed(p, self.plan)
        self.saving = Saving(p, self.plan, self._tell)
        self.holding = Holding(p, self.plan, foreign=run.outer_sample is not None or "sample" in vars(p))
        self.progress = Progress(self.plan, p.sd_model)
        if run.batch is None:
            run.batch = window_batch(run.params.window_batch, devices.device)
        self.batch: WindowBatch = run.batch
        self.tiles: TiledDecode | None = None
        self.stops: list[str] = []
        self.given = Given(p, start_of(p, run.params), self.plan) if is_given(p) else None
        if self.given is not None and self.plan.strength == 0:
            check_room(self.plan)
        self.mask: Masked | None = self.given.mask if self.given else None
        self.coder = Coder(p, self.plan.params.vae, self._tell, self.progress)
        units = ControlNet if of_forge(p.sd_model) is None else ForgeControlNet
        self.control = units(p, self.plan, self._tell, Coder(p, self.plan.params.vae, self._tell, Still()))

    def sample(self, host_sample: Any) -> Any:
        self._announce()
        with contextlib.ExitStack() as self.lent:
            self.lent.callback(self.progress.end)
            if self.given is not None and self.plan.strength == 0:
                return self._enlarged(self.given)
            done = [self._go_on(*self.found)] if self.found is not None else self._taken_over()
            if not done:
                with self.control.first():
                    base, finished = self._first(host_sample)
                if not finished:
                    # not a picture: the host shows and saves it by its own rules
                    self._stopped(0, stop_word())
                    return base
                done = [(1, base)]
            return self._deliver(self._climb(done))

    def _first(self, host_sample: Any) -> tuple[Any, bool]:
        """What phase 1 ends with, and whether it is finished."""
        if self.given is None:
            base = host_sample()
            if not stop_pressed():
                self.progress.base_ended()
            return base, not (stop_pressed() and base is self.p.sampler.last_latent)
        base = self._encoded(self.given)
        if self.mask is None or base.is_meta:
            return base, True
        base = self._drawn_behind(self.mask, base, host_sample)
        if stop_pressed():
            self.mask.place(*size_px(base))
            self.mask.take_back()
        return base, not stop_pressed()

    def _go_on(self, path: str, found: SavedPhase) -> tuple[int, torch.Tensor]:
        """The phase that an earlier run has finished last: what comes before it is not drawn again."""
        self.batch.size = self.batch.size or found.window_batch or None
        self.progress.skip(found.number)
        return found.number, self.saving.go_on(path, found)

    def _taken_over(self) -> list[Finished]:
        """The phases that earlier runs have finished, as far as they are still held."""
        taken = self.holding.take()
        if taken:
            self._go_on("", taken[-1])
        return [(phase.number, phase.latent.to(devices.device)) for phase in taken]

    def _encoded(self, given: Given) -> torch.Tensor:
        """The pictures in place of phase 1; stopped meanwhile, they are still what the run ends with, and need no latent."""
        self.progress.base_ended()
        with contextlib.suppress(DecodingInterrupted):
            return given.latent(self.coder.encode)
        return torch.empty(self.plan.images, LATENT_CHANNELS, *self.plan.first_lat, device="meta")

    def _drawn_behind(self, mask: Masked, latent: torch.Tensor, host_sample: Any) -> Any:
        """Phase 1 of a given picture behind a mask: as the host itself inpaints it. latent: its own, which stays outside."""
        p, size_lat = self.p, (latent.shape[-2], latent.shape[-1])
        p.init_latent = latent
        mask.lend(mask.latent(*size_lat))
        p.image_conditioning = self._condition(latent)
        p.rng = rng.ImageRNG(
            latent.shape[1:], p.seeds, subseeds=p.subseeds, subseed_strength=p.subseed_strength,
            seed_resize_from_h=p.seed_resize_from_h, seed_resize_from_w=p.seed_resize_from_w,
        )  # fmt: skip
        with self.progress.drawing_first():
            return host_sample(**self._told_size(size_lat))

    def _told_size(self, size_lat: tuple[int, int]) -> dict[str, Any]:
        """SDXL's conditions for another size than the picture's."""
        p, before = self.p, (self.p.height, self.p.width)
        size = size_lat[0] * LATENT_PX, size_lat[1] * LATENT_PX
        if not p.sd_model.is_sdxl or size == before:
            return {}
        p.height, p.width = size
        try:
            p.setup_conds()
        finally:
            p.height, p.width = before
        return {"conditioning": p.c, "unconditional_conditioning": p.uc}

    def _condition(self, latent: torch.Tensor) -> torch.Tensor:
        """Of a sampling as large as `latent`, for models that are told of the mask."""
        if self.mask is None or not is_inpainting(self.p.sd_model):
            return latent.new_zeros(len(latent), 5, 1, 1)
        return self.mask.condition((latent.shape[-2], latent.shape[-1]), self.coder.encode, latent)

    def _enlarged(self, given: Given) -> DecodedSamples:
        """At strength 0: no latent, no model."""
        number, size_lat = 1, self.plan.first_lat
        for last in self.plan.phases[-1:]:
            number, size_lat = last.number, (last.height_lat, last.width_lat)
        return self._delivered(number, DecodedSamples(given.enlarged(*size_lat)))

    def _announce(self) -> None:
        """Tells the host's console how many steps there are to do, once a run. `job_count` stays the number of pictures."""
        state = shared.state
        self.progress.begin()
        if state.processing_has_refined_job_count or self.p.iteration > 0:
            return
        base_steps = self.plan.first_steps
        shared.total_tqdm.updateTotal(
            max(state.job_count, 1) * (base_steps + len(self.plan.phases) * self.plan.phase_steps)
        )
        state.processing_has_refined_job_count = True

    def _climb(self, done: list[Finished]) -> list[Finished]:
        """All phases that could be completed, from the last of those that are finished already."""
        p, taken = self.p, list(done)
        number, latent = done[-1]
        try:
            if stop_pressed() and latent.is_meta:
                raise PhaseInterrupted
            devices.test_for_nans(latent, "unet")
            if number == 1:
                latent = self._cropped(*done[0])
                self.saving.begin(latent)
                self.saving.save(*done[0], self.batch.size)
                self.holding.hold(*done[0], self.saving.anchor, self.batch.size)
                # while the model that ended it is loaded: a refiner's VAE may be its own
                self._keep(1, latent)
            elif self.found is None:
                self.saving.save(number, latent, self.batch.size)
            if stop_pressed():
                raise PhaseInterrupted
            drawer = PhaseSampler(
                p, self.plan, self.batch, self.progress, self._tell, self.control, self.mask, self._condition
            )
            self.lent.enter_context(drawer.networks())
            self._decode_by_tiles()  # of the model that is loaded now
            if number > 1 and self.found is None:
                self._keep_all(taken)
            ahead = self.plan.phases[number - 1 :]
            blend = None if self.mask is None else drawer.blended
            enlarge = self._enlarge(*done[-1])
            climbing = climb(latent, ahead, drawer, enlarge=enlarge, anchor=self.saving.anchor, blend=blend)
            for phase, latent in climbing:
                devices.test_for_nans(latent, "unet")
                done.append((phase.number, latent))
                self.saving.save(phase.number, latent, self.batch.size)
                self.holding.hold(phase.number, latent, self.saving.anchor, self.batch.size)
                if phase.number == phase.last:
                    break
                self._keep(phase.number, latent)
                if stop_pressed():
                    raise PhaseInterrupted
                devices.torch_gc()
        except (PhaseInterrupted, DecodingInterrupted):
            self._stopped(done[-1][0], stop_word())
        except Exception as error:
            self._report(done[-1][0], error)
        return done

    def _enlarge(self, number: int, latent: torch.Tensor) -> Enlarge:
        """number, latent: of the phase that the climb begins with."""
        if self.mask is not None:
            return self._enlarge_behind(self.mask)
        if self.given is None or number > 1:
            return self.plan.enlarge(self.coder.decode, self.coder.encode)
        return self.plan.enlarge_picture(self.coder.decode, self.coder.encode, latent, self.given.pixels)

    def _cropped(self, number: int, latent: torch.Tensor) -> torch.Tensor:
        """To the target's shape, which phases are drawn in."""
        return centre_crop(latent, *self.plan.base_lat) if number == 1 and self.given is None else latent

    def _keep_all(self, taken: list[Finished]) -> None:
        """What this run would have kept of the phases that it has taken over."""
        for number, latent in taken:
            if number <= len(self.plan.phases):
                self._keep(number, self._cropped(number, latent))

    def _enlarge_behind(self, mask: Masked) -> Enlarge:
        """What is outside of the mask is the given picture, enlarged in one go."""
        enlarge = self.plan.enlarge(self.coder.decode, self.coder.encode, mask.paste)
        if self.plan.params.enlarge == "pixels" or self.given is None:
            return enlarge
        known = self.given.latent(self.coder.encode) if self.found is not None else self.p.init_latent

        def in_latent(latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
            outside, inside = (enlarge(each, height_lat, width_lat) for each in (known, latent))
            return torch.lerp(outside, inside, mask.latent(height_lat, width_lat).to(inside))

        return in_latent

    def _keep(self, number: int, latent: torch.Tensor) -> None:
        """The user has a given picture already, unless part of it has been drawn."""
        if number == len(self.plan.phases) + 1:
            return
        if self.plan.params.keep_phases and not (self.given and not self.mask and number == 1):
            with self.progress.kept(number):
                decoded = self._held(decode(self.p, latent))
                if self.mask is not None:
                    self.mask.place(*size_px(latent))
                keep_images(self.p, self.run, number, len(self.plan.phases) + 1, decoded)

    def _held(self, decoded: DecodedSamples) -> DecodedSamples:
        return decoded if self.given is None else self.given.held(decoded)

    def _decode_by_tiles(self) -> None:
        cells = self.plan.drawn_lat[0] * self.plan.drawn_lat[1]
        wanted = tiled(self.p, self.plan.params.vae, cells, self._tell, self.progress)
        self.tiles = self.lent.enter_context(wanted)

    def _tell(self, text: str) -> None:
        tell(self.p, self.notes, text)

    def _report(self, complete: int, error: Exception) -> None:
        """A fault after the base image loses nothing: the last complete phase is delivered, and the fault is named."""
        errors.report("DemoFusion: a phase failed", exc_info=True)
        devices.torch_gc()
        told = error.told(LATENT_PX, "px") if isinstance(error, NotFiniteError) else str(error)
        message = told.strip().splitlines() or ["no message"]
        self._stopped(complete, type(error).__name__, message[0][:200])

    def _stopped(self, complete: int, reason: str, message: str = "", at: str = "") -> None:
        """`complete` phases are finished, the base image counted; the last of them is what the user gets.

        A run may stop twice, where what it ended with can't be decoded: then both reasons are told, and one picture.
        """
        total = len(self.plan.phases) + 1
        named = f"{reason} ({message})" if message else reason
        shown = f"this is the image of phase {complete}" if complete else "the unfinished base image"
        which = images_of(self.p)
        if self.stops:
            untell(self.p, self.notes, which + "; ".join(self.stops))
        self.stops = [*self.stops[:-1], f"{named} {at or 'in'} phase {complete + 1} of {total}", shown]
        self._tell(which + "; ".join(self.stops))
        self.p.extra_generation_params[STOPPED_KEY] = f"phase {complete} of {total} - {reason}"

    def _deliver(self, done: list[Finished]) -> Any:
        """Decodes the last latent; if that fails, the one before it. Raises the last error if none can be decoded."""
        p = self.p
        method = shared.opts.sd_vae_decode_method
        if method != "Full":
            p.extra_generation_params["VAE Decoder"] = method
            self._tell(f"decoded by {method}, as the webui's settings say")
        for complete, latent in reversed(done):
            devices.torch_gc()
            before = max((number for number, _ in done if number < complete), default=0)
            if self.given is not None and complete == 1 and (self.mask is None or latent.is_meta):
                return self._delivered(1, DecodedSamples(self.given.enlarged(*self.plan.first_lat)))
            try:
                heeding = self.tiles.heeding_new_stops(deaf=not before) if self.tiles else contextlib.nullcontext()
                with self.progress.delivered(complete, size_px(latent)), heeding:
                    decoded = self._held(decode(p, latent))
            except DecodingInterrupted:
                self._stopped(before, stop_word(), at="while decoding")
                continue
            except Exception as error:
                if not before:
                    raise
                self._report(before, error)
                continue
            return self._delivered(complete, decoded)
        raise AssertionError("there is always a base latent")

    def _delivered(self, complete: int, decoded: DecodedSamples) -> DecodedSamples:
        """decoded: the pictures of phase `complete`."""
        total = len(self.plan.phases) + 1
        if self.mask is not None:
            self.mask.place(decoded[0].shape[-1], decoded[0].shape[-2])
            self.mask.take_back()
        end_with(self.p, self.run.kept, complete, total, decoded)
        self._end_of_saved(complete == total)
        height, width = decoded[0].shape[-2:]
        if self.mask is not None:
            width, height = self.mask.placed_px
        held = too_large((width, height))
        if held:
            picture = f"this picture of {width}x{height} px is a PNG"
            self._tell(f"{held} holds {LIMITS_PX[held]} px a side at most: {picture}")
        return decoded

    def _end_of_saved(self, ended_well: bool) -> None:
        """What was saved is removed when the pictures are on the disk, or it is told what it is for."""
        if ended_well:
            self.run.served |= self.saving.files
        elif self.saving.kept():
            self._tell(self.saving.kept())


def images_of(p: Any) -> str:
    """Which of a request's pictures are drawn; empty where there is one."""
    total, first = p.batch_size * p.n_iter, p.iteration * p.batch_size + 1
    if total == 1:
        return ""
    last = first + p.batch_size - 1
    return f"image {first} of {total}: " if last == first else f"images {first} to {last} of {total}: "


def stop_pressed() -> bool:
    return bool(shared.state.interrupted or shared.state.skipped)


def stop_word() -> str:
    """Which of them."""
    return "skipped" if shared.state.skipped and not shared.state.interrupted else "interrupted"


def size_px(latent: torch.Tensor) -> tuple[int, int]:
    """`(width, height)` of its picture."""
    return latent.shape[-1] * LATENT_PX, latent.shape[-2] * LATENT_PX


def decode(p: Any, latent: torch.Tensor) -> DecodedSamples:
    return decode_latent_batch(p.sd_model, latent, target_device=devices.cpu, check_for_nans=True)
