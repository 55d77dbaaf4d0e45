"""What a run takes: rows of the model, and pixels of the VAE, in the order in which they come; weighed by how long a row and
a pixel take on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .core import Phase
from .plan import Plan
from .targets import LATENT_PX

ATTENTION_PX = 10_000_000
"""Where the VAE's one attention, whose work grows with the square of the picture, takes as much as all its convolutions:
SD 1's on a CPU, measured at 512 px. By operations alone (140 TFLOP at 4096 px against 9.5 MFLOP a pixel) it were twice as many.
"""
BASE_ROW, ROW, DECODED_PX, ENCODED_PX = KINDS = ("base_row", "row", "decoded_px", "encoded_px")
DECODE_ROWS, ENCODE_ROWS = 3.6, 1.6
"""What the VAE takes for a picture of the native size, in rows of the UNet: SD 1's at 512 px, by their operations."""


@dataclass(frozen=True)
class Part:
    """One stretch of a run. kind: one of `KINDS`. phase: the number of the one that it belongs to. size_px: `(width, height)`
    of its picture."""

    kind: str
    phase: int
    amount: int
    size_px: tuple[int, int]


@dataclass(frozen=True)
class Speeds:
    """Seconds. row: of the model in a phase. decoded_px, encoded_px: of the VAE, pixels counted as `Work` counts them.
    base_row: of the model in the base image, where fewer rows are given to it at once; None: as in a phase."""

    row: float
    decoded_px: float
    encoded_px: float
    base_row: float | None = None

    def of(self, kind: str) -> float:
        seconds: float | None = getattr(self, kind)
        return self.row if seconds is None else seconds


def default_speeds(row: float, native_px: int) -> Speeds:
    """Before the VAE has ever been timed. row: seconds of the model's. native_px: pixels of the base image."""
    return Speeds(row, row * DECODE_ROWS / native_px, row * ENCODE_ROWS / native_px)


@dataclass(frozen=True)
class Work:
    """Of one picture or batch of them. phase_rows: of each phase after the base image. Pixels are those of every decode
    and encode, of kept phases' and between phases too; those of a large picture count for more (`vae_px`)."""

    base_rows: int
    phase_rows: tuple[int, ...]
    encoded_px: int
    decoded_px: int

    def seconds(self, speeds: Speeds) -> float:
        return (
            self.base_rows * speeds.of(BASE_ROW)
            + sum(self.phase_rows) * speeds.row
            + self.encoded_px * speeds.encoded_px
            + self.decoded_px * speeds.decoded_px
        )


def work_of(plan: Plan) -> Work:
    parts = parts_of(plan)
    amounts = {kind: sum(part.amount for part in parts if part.kind == kind) for kind in KINDS}
    rows = tuple(part.amount for part in parts if part.kind == ROW)
    return Work(amounts[BASE_ROW], rows, amounts[ENCODED_PX], amounts[DECODED_PX])


def parts_of(plan: Plan) -> tuple[Part, ...]:
    """All that a run does, in order."""
    return tuple(_parts(plan))


def _parts(plan: Plan) -> Iterator[Part]:
    """Pictures between phases go through the VAE one by one, decoded and encoded; those that are shown, all of a batch.

    A given picture is encoded in place of the base image, once for all of a batch, and never decoded; at strength 0 it is all
    there is. Behind a mask it is encoded before phase 1, which draws.
    """
    given = plan.picture_lat is not None
    yield Part(BASE_ROW, 1, 0 if plan.masked else plan.base_evaluations, _px(plan.first_lat))
    size_px = _px(plan.first_lat if given else plan.base_lat)
    if plan.strength == 0:
        return
    if given:
        yield encode_part(1, size_px)
    if plan.masked:
        yield Part(BASE_ROW, 1, plan.base_evaluations, size_px)
    for number, phase in enumerate(plan.phases, start=1):
        known = given and not plan.masked and number == 1
        if plan.params.keep_phases and not known:
            yield decode_part(number, size_px, plan.images)
        before_px, size_px = size_px, _px((phase.height_lat, phase.width_lat))
        if plan.params.enlarge == "pixels":
            encode = encode_part(phase.number, size_px)
            yield from [encode] if known else [decode_part(phase.number, before_px), encode] * plan.images
        yield Part(ROW, phase.number, plan.evaluations(phase), size_px)
    if plan.phases or plan.masked or not given:
        yield decode_part(_last(plan.phases), size_px, plan.images)


def encode_part(phase: int, size_px: tuple[int, int]) -> Part:
    """Of one picture, in the phase that begins with it."""
    return Part(ENCODED_PX, phase, vae_px(*size_px), size_px)


def decode_part(phase: int, size_px: tuple[int, int], images: int = 1) -> Part:
    """phase: the number of the one that the picture is of, or that begins with it."""
    return Part(DECODED_PX, phase, images * vae_px(*size_px), size_px)


def vae_px(width_px: int, height_px: int) -> int:
    """Pixels of a picture, each counted for its share of the attention too."""
    pixels = width_px * height_px
    return pixels + pixels * pixels // ATTENTION_PX


def _last(phases: list[Phase]) -> int:
    return phases[-1].number if phases else 1


def _px(size_lat: tuple[int, int]) -> tuple[int, int]:
    height, width = size_lat
    return width * LATENT_PX, height * LATENT_PX
