"""The pictures of one run, and what `--json` prints of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ..saved import write
from .decoding import Way, decode, to_image
from .drawing import Drawing, Finished
from .errors import Unwritten, told
from .files import FINAL, copy, infotext, save
from .folders import reason
from .keeping import Keeper
from .ranks import together
from .stops import Stops
from .telling import complain


class Output:
    """Each phase is decoded once: `final.png` is a copy of the last one's file, where it has one.

    `given_up`: a decoder was stopped by force, and none is started after that. decodes: or the latents are written as they
    are. writes: whether this is the process that puts files anywhere, of several that draw. on_tile: told `(done, total)` while a picture is decoded. profile: of the colours, for the files.
    """

    def __init__(self, drawing: Drawing, folder: Path, keeper: Keeper | None = None, *, decodes: bool = True):
        ranks = drawing.ranks
        self.writes = ranks is None or ranks.is_first
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
        self.drawing, self.folder, self.decodes = drawing, folder, decodes
        self.keeper = keeper or Keeper(folder, {}, wanted=False)
        self.on_tile: Callable[[int, int], None] | None = None
        self.files: dict[int, Path] = {}
        self.undecodable: set[int] = set()
        self.unsaved: tuple[int, list[Image]] | None = None
        self.given_up = False
        self.profile = b""
        self.report: dict[str, Any] = {
            "prompt": drawing.order.prompts[0], "seed": drawing.order.seeds[0], "model": drawing.model.name,
            "device": str(drawing.model.device), "dtype": str(drawing.model.dtype).removeprefix("torch."),
            "settings": vars(drawing.order.params), "image": None, "phases": [], "final": None, "notes": [], "resume": None,
            "stopped": None, "error": None,
        }  # fmt: skip
        self.note(drawing.order.params.rounding(drawing.plan.picture_lat or drawing.plan.drawn_lat))

    def add(self, phase: Finished) -> None:
        """A finished phase: saved first, then its picture, unless only the last is wanted."""
        entry: dict[str, Any] = {
            "phase": phase.number, "width": phase.size_px[0], "height": phase.size_px[1],
            "evaluations": phase.evaluations, "seconds": round(phase.seconds, 3), "file": None,
        }  # fmt: skip
        self.report["phases"].append(entry)
        self._keep(phase)
        if self.drawing.order.params.keep_phases:
            self.files[phase.number] = self._write(phase, f"phase{phase.number}")
            entry["file"] = str(self.files[phase.number])

    def finish(self, phases: Sequence[Finished], stops: Stops) -> None:
        """`final.png` is the last phase that can be decoded and written. Interrupted: the last that needs no decoding."""
        for phase in reversed(phases):
            decoded = phase.number in self.files or self._is_unsaved(phase) or not self.decodes
            if phase.number in self.undecodable or (self.given_up and not decoded):
                continue
            stops.deaf = decoded  # the rest takes no time
            try:
                path = self._final(phase)
            except KeyboardInterrupt:
                self.given_up = True
            except Exception as error:
                self.stop(told(error))
            else:
                width, height = phase.size_px
                self.report["final"] = {"file": str(path), "width": width, "height": height, "phase": phase.number}
                return

    def stop(self, why: str) -> None:
        said = self.report["stopped"]
        if why not in (said or "").split("; "):
            self.report["stopped"] = f"{said}; {why}" if said else why

    def note(self, text: str) -> None:
        """What a user should know of a run that goes on; once."""
        if text and text not in self.report["notes"]:
            self.report["notes"].append(text)
            complain(text)

    def way(self, on_tile: Callable[[int, int], None] | None) -> Way:
        """How the run's pictures are coded."""
        return Way(self.drawing.order.params.vae, self.note, on_tile, self.folder)

    def _keep(self, phase: Finished, *, lost: bool = False) -> None:
        if self.writes and not phase.latent.is_meta:
            self.note(self.keeper.keep(phase, self.drawing.batch.size or 0, lost=lost))

    def _is_unsaved(self, phase: Finished) -> bool:
        return self.unsaved is not None and self.unsaved[0] == phase.number

    def _named(self, name: str) -> Path:
        return self.folder / f"{name}.{'png' if self.decodes else 'safetensors'}"

    def _final(self, phase: Finished) -> Path:
        own, path = self.files.get(phase.number), self._named(FINAL)
        if own is None:
            return self._write(phase, FINAL)
        try:
            self._put(path, lambda: copy(own, path))
        except Unwritten as error:
            self.stop(told(error))
            return own
        return path

    def _write(self, phase: Finished, name: str) -> Path:
        path = self._named(name)
        if not self.decodes:
            self._put(path, lambda: self._write_latent(phase, path))
            return path
        images = self._decoded(phase)
        self._put(path, lambda: save(images, [path], self.drawing, self.profile))
        self.unsaved = None
        return path

    def _write_latent(self, phase: Finished, path: Path) -> None:
        """With all that its picture would tell, and that `--resume` needs to decode it."""
        texts = [infotext(self.drawing, index) for index in range(len(phase.latent))]
        write(path, self.keeper.saved(phase, self.drawing.batch.size or 0), {"parameters": "\n\n".join(texts)})

    def _decoded(self, phase: Finished) -> list[Image]:
        if not self._is_unsaved(phase):
            try:
                self.unsaved = phase.number, self._images(phase)
            except KeyboardInterrupt:
                self.given_up = True
                raise
            except Exception as error:
                self.undecodable.add(phase.number)
                self._keep(phase, lost=True)
                raise RuntimeError(f"decoding phase {phase.number} failed: {told(error)}") from error
        return self.unsaved[1] if self.unsaved else []

    def _images(self, phase: Finished) -> list[Image]:
        if phase.picture is not None:
            return [to_image(one) for one in phase.picture]
        ranks = self.drawing.ranks
        way = replace(self.way(self.on_tile), finish=self.drawing.held, sharing=ranks)
        return together(ranks, lambda: decode(self.drawing.model, phase.latent, way))

    def _put(self, path: Path, write: Callable[[], None]) -> None:
        ranks = self.drawing.ranks
        try:
            write() if ranks is None else ranks.first_does(write)
        except Exception as error:
            raise Unwritten(f"{path.name} can't be written ({reason(error)})") from error
