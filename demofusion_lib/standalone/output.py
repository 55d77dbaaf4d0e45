"""The pictures of one run, or of several that are drawn at once, and what `--json` prints of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ..saved import write
from .decoding import Way, decode, to_image
from .drawing import Drawing, Finished
from .errors import Unwritten, told
from .files import FINAL, copy, infotext, save
from .folders import reason, remove_stale, suffix
from .keeping import Keeper, saved_phase
from .ranks import together
from .stops import Stops
from .telling import complain


class Output:
    """Each phase is decoded once: `final.png` is a copy of the last one's file, where it has one.

    `given_up`: a decoder was stopped by force, and none is started after that. decodes: or the latents are written as they
    are. numbers, made_of: of each picture. replaces: whether files of the same names may be an earlier run's. on_tile: told
    `(done, total)` while a picture is decoded. profile: of the colours, for the files.
    """

    def __init__(
        self, drawing: Drawing, folder: Path, keeper: Keeper | None = None, *, decodes: bool = True,
        numbers: Sequence[int] = (1,), made_of: Sequence[Mapping[str, str]] = (), replaces: bool = False,
    ):  # fmt: skip
        self.writes = drawing.ranks is None or drawing.ranks.is_first  # of several processes that draw
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
        self.drawing, self.folder, self.decodes = drawing, folder, decodes
        self.keeper = keeper or Keeper(folder, {}, wanted=False)
        self.numbers, self.made_of, self.replaces = numbers, made_of or [self.keeper.made_of], replaces
        self.on_tile: Callable[[int, int], None] | None = None
        self.files: dict[int, list[Path]] = {}
        self.undecodable: set[int] = set()
        self.unsaved: tuple[int, list[Image]] | None = None
        self.given_up = False
        self.rows_before = [] if drawing.ranks is None else list(drawing.ranks.rows)
        self.profile = b""
        order, model = drawing.order, drawing.model
        self.reports: list[dict[str, Any]] = [{
            "prompt": prompt, "seed": seed, "model": model.name,
            "device": str(model.device), "dtype": str(model.dtype).removeprefix("torch."),
            "settings": vars(order.params), "image": None, "controlnets": [], "phases": [], "final": None, "notes": [], "resume": None,
            "stopped": None, "error": None,
        } for prompt, seed in zip(order.prompts, order.seeds)]  # fmt: skip
        self.note(order.params.rounding(drawing.plan.picture_lat or drawing.plan.drawn_lat))

    @property
    def report(self) -> dict[str, Any]:
        """The first picture's."""
        return self.reports[0]

    def add(self, phase: Finished) -> None:
        """A finished phase: saved first, then its pictures, unless only the last is wanted."""
        count = len(self.reports)  # of a batch, whose pictures take alike
        entries: list[dict[str, Any]] = [{
            "phase": phase.number, "width": phase.size_px[0], "height": phase.size_px[1],
            "evaluations": phase.evaluations // count, "seconds": round(phase.seconds / count, 3), "file": None,
        } for _ in self.reports]  # fmt: skip
        for report, entry in zip(self.reports, entries):
            report["phases"].append(entry)
        self._keep(phase)
        if self.drawing.order.params.keep_phases:
            self.files[phase.number] = self._write(phase, f"phase{phase.number}")
            for entry, path in zip(entries, self.files[phase.number]):
                entry["file"] = str(path)

    def finish(self, phases: Sequence[Finished], stops: Stops) -> None:
        """`final.png` is the last phase that can be decoded and written. Interrupted: the last that needs no decoding."""
        for phase in reversed(phases):
            decoded = phase.number in self.files or self._is_unsaved(phase) or not self.decodes
            if phase.number in self.undecodable or (self.given_up and not decoded):
                continue
            stops.deaf = decoded  # the rest takes no time
            try:
                paths = self._final(phase)
            except KeyboardInterrupt:
                self.given_up = True
            except Exception as error:
                self.stop(told(error))
            else:
                width, height = phase.size_px
                for report, path in zip(self.reports, paths):
                    report["final"] = {"file": str(path), "width": width, "height": height, "phase": phase.number}
                self._remove_stale(paths)
                return

    def stop(self, why: str) -> None:
        for report in self.reports:
            said = report["stopped"]
            if why not in (said or "").split("; "):
                report["stopped"] = f"{said}; {why}" if said else why

    def note(self, text: str) -> None:
        """What a user should know of a run that goes on; once."""
        if text and text not in self.report["notes"]:
            for report in self.reports:
                report["notes"].append(text)
            complain(text)

    def way(self, on_tile: Callable[[int, int], None] | None) -> Way:
        """How the run's pictures are coded."""
        return Way(self.drawing.order.params.vae, self.note, on_tile, self.folder)

    def _keep(self, phase: Finished, *, lost: bool = False) -> None:
        if self.writes and not phase.latent.is_meta and len(self.reports) == 1:  # a file holds one picture
            self.note(self.keeper.keep(phase, self.drawing.batch.size or 0, lost=lost))

    def _is_unsaved(self, phase: Finished) -> bool:
        return self.unsaved is not None and self.unsaved[0] == phase.number

    def _named(self, name: str) -> list[Path]:
        ending = "png" if self.decodes else "safetensors"
        return [self.folder / f"{name}{suffix(number)}.{ending}" for number in self.numbers]

    def _final(self, phase: Finished) -> list[Path]:
        own, paths = self.files.get(phase.number), self._named(FINAL)
        if own is None:
            return self._write(phase, FINAL)
        try:
            for source, path in zip(own, paths):
                self._put(path, partial(copy, source, path))
        except Unwritten as error:
            self.stop(told(error))
            return own
        return paths

    def _write(self, phase: Finished, name: str) -> list[Path]:
        paths = self._named(name)
        if not self.decodes:
            for index, path in enumerate(paths):
                self._put(path, partial(self._write_latent, phase, index, path))
            return paths
        images = self._decoded(phase)
        self._put(paths[0], lambda: save(images, paths, self.drawing, self.profile))
        self.unsaved = None
        return paths

    def _write_latent(self, phase: Finished, index: int, path: Path) -> None:
        """With all that its picture would tell, and that `--resume` needs to decode it."""
        saved = saved_phase(phase, index, self.drawing.batch.size or 0, self.made_of[index])
        write(path, saved, {"parameters": infotext(self.drawing, index)})

    def _remove_stale(self, finals: Sequence[Path]) -> None:
        """What an earlier run left under the names of this one, and this one didn't write again."""
        if self.replaces and self.writes:
            kept = {*finals, *(path for paths in self.files.values() for path in paths)}
            for number in self.numbers:
                remove_stale(self.folder, number, kept)

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
            return [to_image(one) for one in phase.picture.expand(len(self.reports), -1, -1, -1)]
        ranks = self.drawing.ranks
        way = replace(self.way(self.on_tile), finish=self.drawing.held, sharing=ranks)
        return together(ranks, lambda: decode(self.drawing.model, phase.latent, way))

    def _put(self, path: Path, write: Callable[[], None]) -> None:
        ranks = self.drawing.ranks
        try:
            write() if ranks is None else ranks.first_does(write)
        except Exception as error:
            raise Unwritten(f"{path.name} can't be written ({reason(error)})") from error
