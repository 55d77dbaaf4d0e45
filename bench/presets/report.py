"""The measured figures as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from bench.presets.decoding import Decoded
from bench.presets.watching import Part, Shape, Watched

MB = 1e6
Runs = Mapping[tuple[str, float], Sequence[Watched]]
"""By preset and scale, every round's."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A line as soon as its row is there."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def sizes(part: Part) -> str:
    """`9` where all calls of a phase have so many rows of the native size."""
    return "+".join(str(rows) for rows in sorted({shape[0] for shape in part.shapes}, reverse=True))


def distinct(part: Part) -> int:
    return len(part.shapes)


def in_bases(runs: Sequence[Watched], base: float) -> float:
    """The least time of a run's phases, their VAE apart, and of the base image, over the base image's."""
    return 1 + min(run.seconds for run in runs) / base


def between(runs: Sequence[Watched], base: float) -> float:
    """The least time of the VAE between a run's phases, in base images."""
    return min(run.in_vae for run in runs) / base


def units(runs: Runs, foretold: Mapping[tuple[str, float], float], base: float) -> Iterator[str]:
    """base: the base image's seconds in the UNet."""
    rows = []
    for (preset, scale), told in foretold.items():
        drawn = runs.get((preset, scale), ())
        if not drawn:
            rows.append([preset, f"{scale:g}x", f"{told:.2f}", "not drawn", "", "", "", ""])
            continue
        run = drawn[0]
        rows.append([
            preset, f"{scale:g}x", f"{told:.2f}", f"{run.counted:.2f}", f"{in_bases(drawn, base):.2f}",
            f"{between(drawn, base):.2f}", f"{median(one.overhead for one in drawn):.3f}",
            ", ".join(f"{distinct(part)} ({sizes(part)})" for part in run.phases),
        ])  # fmt: skip
    head = "preset", "scale", "units foretold", "counted in the run", "time", "VAE between phases", "phases / UNet"
    yield from table((*head, "shapes a phase (rows)"), rows)


def overheads(runs: Mapping[int, Sequence[Watched]]) -> Iterator[str]:
    """runs: by the base image's side in pixels."""
    rows = [
        [run.preset, f"{side} -> {round(side * run.scale)} px", f"{run.inside:.1f}", f"{run.overhead:.4f}"]
        for side, drawn in runs.items()
        for run in drawn
    ]
    yield from table(("preset", "size", "s in the UNet", "phases / UNet"), rows)


def growth(scales: Sequence[float], rows: Mapping[str, tuple[Sequence[float], float, float]]) -> Iterator[str]:
    """rows: of each preset the units at every scale, and the exponents of the run and of its phases."""
    head = "preset", *(f"{scale:g}x" for scale in scales), "exponent", "of the phases alone"
    yield from table(
        head,
        [
            [preset, *(f"{value:.2f}" for value in values), f"{whole:.2f}", f"{phases:.2f}"]
            for preset, (values, whole, phases) in rows.items()
        ],
    )


def decodes(runs: Runs, scale: float, decoded: Decoded, base: float) -> Iterator[str]:
    rows = []
    for (preset, at), drawn in runs.items():
        if at == scale:
            drawing = in_bases(drawn, base) + between(drawn, base)
            shares = [share(drawing, seconds, base) for seconds in (decoded.exact, decoded.undivided)]
            rows.append([preset, f"{drawing:.2f}", f"{decoded.exact / base:.2f}", *shares])
    head = "preset", "drawing, VAE between phases too", "exact decode", "its share", "the undivided decode's share"
    yield from table(head, rows)


def share(drawing: float, seconds: float | None, base: float) -> str:
    """Of a decode, in a run whose drawing takes so many base images."""
    return "" if seconds is None else f"{seconds / base / (drawing + seconds / base):.0%}"


def memory(rows: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    yield from table(("what", "size", "live MB"), [[what, size, f"{held / MB:,.0f}"] for what, size, held in rows])


def all_shapes(run: Watched) -> Counter[Shape]:
    return sum((part.shapes for part in run.phases), Counter())
