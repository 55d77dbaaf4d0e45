"""The figures of all pictures, kept in one JSON file, and the table that is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.quality.bars import LIKENESS, bars
from bench.quality.measures import BANDS
from bench.quality.rows import BY_NAME

Figures = Mapping[str, Any]


class Results:
    """By case and row: `{"images": [...], "evaluations": [...], "seconds": [...], "wasserstein": [...]}`.

    Figures of images come one each, the others one for each batch that was drawn.
    """

    def __init__(self, path: Path):
        self.path = path
        self.cases: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}

    def count(self, case: str, row: str) -> int:
        """How many images have been measured."""
        return len(self.cases.get(case, {}).get(row, {}).get("images", ()))

    def add(self, case: str, row: str, figures: Mapping[str, Sequence[Any]]) -> None:
        """Of one more batch."""
        kept = self.cases.setdefault(case, {}).setdefault(row, {name: [] for name in figures})
        for name, values in figures.items():
            kept[name].extend(values)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.cases, separators=(",", ":")))
        part.replace(self.path)  # whole or not at all: a run may be stopped at any time


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)


def ratio_error(values: Sequence[float]) -> tuple[float, float]:
    """Geometric mean of ratios and its standard error."""
    mean, error = mean_error([math.log(max(value, 1e-3)) for value in values])
    return math.exp(mean), math.exp(mean) * error


def share_error(values: Sequence[bool]) -> tuple[float, float]:
    """A share and its standard error; where all agree, that of one image that did not."""
    count = len(values)
    share = sum(values) / count
    doubtful = min(max(share, 1 / (count + 1)), count / (count + 1))
    return share, math.sqrt(doubtful * (1 - doubtful) / count)


def distance_to(spectrum: Sequence[float]) -> Callable[[Figures], float]:
    """Root mean square distance of an image's log spectrum from the truth's mean one, in dB."""

    def distance(image: Figures) -> float:
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(image["spectrum"], spectrum)) / len(spectrum))

    return distance


def mean_spectrum(images: Sequence[Figures]) -> list[float]:
    return [sum(column) / len(images) for column in zip(*(image["spectrum"] for image in images))]


def summary(figures: Figures, truth: Figures) -> dict[str, tuple[float, float]]:
    """Each column's figure and its standard error; bands are differences from the truth's mean level."""
    images, true = figures["images"], truth["images"]
    columns = {
        "one object": share_error([image["one_object"] for image in images]),
        "objects": mean_error([image["objects"] for image in images]),
        "right colour": share_error([image["right_colour"] for image in images]),
        "PSNR to base": mean_error([image["psnr_to_base"] for image in images]),
        "seam ratio": ratio_error([image["seam_ratio"] for image in images]),
        "log-spectral distance": mean_error([distance_to(mean_spectrum(true))(image) for image in images]),
    }
    for band in BANDS:
        level, _ = mean_error([image["bands"][band] for image in true])
        columns[f"band {band}"] = mean_error([image["bands"][band] - level for image in images])
    columns["sliced Wasserstein"] = mean_error(figures["wasserstein"])
    columns["evaluations"] = sum(figures["evaluations"]) / len(figures["evaluations"]), math.nan
    columns["seconds"] = median(figures["seconds"]), math.nan  # a batch beside which other work ran doesn't count
    return columns


DIGITS = {
    "one object": 2, "objects": 2, "right colour": 2, "PSNR to base": 1, LIKENESS: 2, "seam ratio": 2, "log-spectral distance": 1,
    "sliced Wasserstein": 2, "evaluations": 0, "seconds": 2,
}  # fmt: skip


def cell(name: str, value: float, error: float) -> str:
    if math.isnan(value):
        return ""
    digits = DIGITS.get(name, 1)
    sign = "+" if name.startswith(("band", "PSNR beside")) else ""
    return f"{value:{sign}.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def beside(figures: Figures, method: Figures) -> tuple[float, float]:
    """How much nearer to the base a row's pictures are than the method's, in dB, image by image."""
    pairs = zip(figures["images"], method["images"])
    return mean_error([one["psnr_to_base"] - other["psnr_to_base"] for one, other in pairs])


@dataclass(frozen=True)
class Line:
    """A row of the table: what its images came to."""

    images: int
    columns: dict[str, tuple[float, float]]


Table = dict[str, dict[str, Line]]
"""By case and row."""


def tabulate(results: Results) -> Table:
    """Of the cases whose truth is known."""
    table: Table = {}
    for case, rows in results.cases.items():
        if "truth" not in rows:
            continue
        table[case] = {}
        for name, figures in rows.items():
            columns = summary(figures, rows["truth"])
            if "method" in rows:
                columns[LIKENESS] = beside(figures, rows["method"])
            table[case][name] = Line(len(figures["images"]), columns)
    return table


def merged(one: Table, other: Table) -> Table:
    """Both tables' rows; of a row that both have, that of more images, `one`'s if they have as many."""
    together: Table = {}
    for case in sorted({**one, **other}):
        rows, others = one.get(case, {}), other.get(case, {})
        names = [name for name in BY_NAME if name in rows or name in others]
        lines = {name: [side[name] for side in (rows, others) if name in side] for name in names}
        together[case] = {name: max(sides, key=lambda line: line.images) for name, sides in lines.items()}
    return together


def as_json(table: Table) -> str:
    """The table for programs: `{case: {row: {"images": n, column: [figure, standard error or null]}}}`."""

    def figure(value: float) -> float | None:
        return None if math.isnan(value) else float(f"{value:.5g}")

    return json.dumps({
        case: {
            row: {"images": line.images} | {name: [figure(value) for value in pair] for name, pair in line.columns.items()}
            for row, line in rows.items()
        }
        for case, rows in table.items()
    }, indent=1) + "\n"  # fmt: skip


def from_json(text: str) -> Table:
    """A table as `as_json` writes it."""

    def pair(figures: Sequence[float | None]) -> tuple[float, float]:
        value, error = (math.nan if figure is None else figure for figure in figures)
        return value, error

    return {
        case: {
            row: Line(line["images"], {name: pair(figures) for name, figures in line.items() if name != "images"})
            for row, line in rows.items()
        }
        for case, rows in json.loads(text).items()
    }


def markdown(table: Table) -> str:
    """A table for each size and what must come of it. Bands in dB against the truth, the Wasserstein distance in grey
    levels of 100."""
    parts = []
    for case, rows in table.items():
        names = list(max((line.columns for line in rows.values()), key=len))
        lines = [f"### {case}", "", f"| | images | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
        for row, line in rows.items():
            cells = [cell(name, *line.columns.get(name, (math.nan, math.nan))) for name in names]
            lines.append(f"| {row} | {line.images} | {' | '.join(cells)} |")
        demands = [
            f"- {bar}" for bar in bars({row: line.columns for row, line in rows.items()}, int(case.split("x")[0]))
        ]
        parts.append("\n".join([*lines, "", *demands] if demands else lines))
    return "\n\n".join(parts) + "\n"
