"""The figures of all pictures, kept in one JSON file, and the table that is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.quality.bars import LIKENESS, bars
from bench.quality.measures import BANDS
from bench.quality.rows import BY_NAME, Subject

Figures = Mapping[str, Any]
LEAST_RATIO = 1e-3


class Results:
    """By case and row: `images`, one each; `sizes`, `wasserstein`, `evaluations`, `units` and `seconds`, one for each batch
    that was drawn.
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
    mean, error = mean_error([math.log(max(value, LEAST_RATIO)) for value in values])
    return math.exp(mean), math.exp(mean) * error


def share_error(values: Sequence[bool]) -> tuple[float, float]:
    """A share and its standard error; where all agree, that of one image that did not."""
    count = len(values)
    share = sum(values) / count
    doubtful = min(max(share, 1 / (count + 1)), count / (count + 1))
    return share, math.sqrt(doubtful * (1 - doubtful) / count)


@dataclass(frozen=True)
class Truth:
    """What the true pictures of a size read."""

    spectrum: list[float]
    bands: dict[str, float]
    grain: float
    outlines: dict[str, float]
    """By shape: the autoencoder rounds a triangle's corners."""

    @classmethod
    def of(cls, images: Sequence[Figures]) -> Truth:
        grains = [image["grain"] for image in images if image["grain"]]
        outlines: dict[str, list[float]] = {}
        for number, image in enumerate(images):
            if image["outline"]:
                outlines.setdefault(Subject(number).shape, []).append(image["outline"])
        return cls(
            [sum(column) / len(images) for column in zip(*(image["spectrum"] for image in images))],
            {band: sum(image["bands"][band] for image in images) / len(images) for band in BANDS},
            math.exp(sum(map(math.log, grains)) / len(grains)) if grains else math.nan,
            {shape: sum(values) / len(values) for shape, values in outlines.items()},
        )


Read = Callable[[Figures, Subject, Truth], "float | bool | None"]
"""A column's figure of one image; None where the image does not show it."""


@dataclass(frozen=True)
class Column:
    """A figure that every image has of its own.

    right: what it would be at best, infinite where more or less is always better. mean: how images are put together; of
    ratios the logarithms are.
    """

    name: str
    read: Read
    right: float
    digits: int = 2
    mean: Callable[[Sequence[float]], tuple[float, float]] = mean_error

    @property
    def is_ratio(self) -> bool:
        return self.mean is ratio_error

    def values(self, images: Sequence[Figures], truth: Truth) -> list[float | None]:
        read = [self.read(image, Subject(number), truth) for number, image in enumerate(images)]
        return [None if value is None or math.isnan(value) else value for value in read]


def key(name: str) -> Read:
    return lambda image, subject, truth: image[name]


def off_truth(image: Figures, subject: Subject, truth: Truth) -> float:
    """Root mean square distance of an image's log spectrum from the truth's mean one, in dB."""
    pairs = zip(image["spectrum"], truth.spectrum)
    return math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(truth.spectrum))


def outline(image: Figures, subject: Subject, truth: Truth) -> float | None:
    """Over the truth's of the same shape."""
    return image["outline"] and image["outline"] / truth.outlines.get(subject.shape, 1.0)


def grain(image: Figures, subject: Subject, truth: Truth) -> float | None:
    return image["grain"] and image["grain"] / truth.grain


def whole(image: Figures, subject: Subject, truth: Truth) -> bool:
    """Whether horizon, outline and grain could all be measured."""
    return None not in (image["horizon_px"], image["outline"], image["grain"])


def band(name: str) -> Column:
    return Column(f"band {name}", lambda image, subject, truth: image["bands"][name] - truth.bands[name], 0.0, 1)


MORE, LESS = math.inf, -math.inf
COLUMNS: tuple[Column, ...] = (
    Column("one object", key("one_object"), MORE, mean=share_error),
    Column("objects", key("objects"), 1.0),
    Column("right colour", key("right_colour"), MORE, mean=share_error),
    Column("measurable", whole, MORE, mean=share_error),
    Column("PSNR to base", key("psnr_to_base"), MORE, 1),
    Column("seam ratio", key("seam_ratio"), LESS, mean=ratio_error),
    Column("horizon", key("horizon_px"), LESS),
    Column("horizon's greatest", key("horizon_greatest_px"), LESS),
    Column("tilt", key("tilt_px"), LESS),
    Column("outline", outline, 1.0, 3),
    Column("grain", grain, 1.0, mean=ratio_error),
    Column("log-spectral distance", off_truth, LESS, 1),
    *map(band, BANDS),
)
DISTANCE = "sliced Wasserstein"
COSTS = ("evaluations", "units", "seconds")
DIGITS = {column.name: column.digits for column in COLUMNS} | {DISTANCE: 2, "evaluations": 0, "units": 2, "seconds": 2}


def measurable(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def summary(figures: Figures, truth: Truth) -> dict[str, tuple[float, float]]:
    """Each column's figure and its standard error, of those images that show it."""
    columns = {}
    for column in COLUMNS:
        values = measurable(column.values(figures["images"], truth))
        columns[column.name] = column.mean(values) if values else (math.nan, math.nan)
    columns[DISTANCE] = mean_error(figures["wasserstein"])
    columns["evaluations"] = sum(figures["evaluations"]) / len(figures["evaluations"]), math.nan
    columns["units"] = sum(figures["units"]) / len(figures["units"]), math.nan
    columns["seconds"] = median(figures["seconds"]), math.nan  # a batch beside which other work ran doesn't count
    return columns


@dataclass(frozen=True)
class Difference:
    """What a row has more of than the method, mean of the images that both have, and its standard error; of ratios how
    many times as much. worse: whether that is farther from the best by more than the error."""

    value: float
    error: float
    worse: bool


def is_worse(row: float, method: float, error: float, right: float) -> bool:
    if math.isnan(error):
        return False
    if math.isinf(right):
        return (method - row if right > 0 else row - method) > error
    return abs(row - right) - abs(method - right) > error


def difference(rows: Sequence[float | None], methods: Sequence[float | None], column: Column) -> Difference | None:
    """Of the images that both show."""
    pairs = [(one, other) for one, other in zip(rows, methods) if one is not None and other is not None]
    if not pairs:
        return None
    right = column.right
    if column.is_ratio:
        pairs = [(math.log(max(one, LEAST_RATIO)), math.log(max(other, LEAST_RATIO))) for one, other in pairs]
        right = right if math.isinf(right) else math.log(right)
    (value, error), (method, _) = mean_error([a - b for a, b in pairs]), mean_error([b for _, b in pairs])
    worse = is_worse(method + value, method, error, right)
    return (
        Difference(math.exp(value), math.exp(value) * error, worse)
        if column.is_ratio
        else Difference(value, error, worse)
    )


def paired(figures: Figures, method: Figures, truth: Truth) -> dict[str, Difference]:
    """Every column beside the method's, image by image from the same bases; patches batch by batch."""
    differences = {
        column.name: difference(column.values(figures["images"], truth), column.values(method["images"], truth), column)
        for column in COLUMNS
    }
    same = [one == other for one, other in zip(figures["sizes"], method["sizes"])]
    batches = same.index(False) if False in same else len(same)
    distances = figures["wasserstein"][:batches], method["wasserstein"][:batches]
    differences[DISTANCE] = difference(*distances, Column(DISTANCE, key(DISTANCE), LESS))
    return {name: one for name, one in differences.items() if one is not None}


def cell(name: str, value: float, error: float) -> str:
    if math.isnan(value):
        return ""
    digits = DIGITS.get(name, 1)
    sign = "+" if name.startswith("band") else ""
    return f"{value:{sign}.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def paired_cell(name: str, found: Difference | None) -> str:
    """In bold what is worse."""
    if found is None:
        return ""
    digits, ratio = DIGITS.get(name, 2), name in RATIOS
    digits += name not in RATIOS  # differences are smaller than what they are of
    text = f"×{found.value:.{digits}f}" if ratio else f"{found.value:+.{digits}f}"
    text += "" if math.isnan(found.error) else f" ± {found.error:.{digits}f}"
    return f"**{text}**" if found.worse else text


RATIOS = frozenset(column.name for column in COLUMNS if column.is_ratio)


@dataclass(frozen=True)
class Line:
    """A row of the table: what its images came to, and beside the method where it has the same bases."""

    images: int
    columns: dict[str, tuple[float, float]]
    paired: dict[str, Difference] = field(default_factory=dict)
    pairs: int = 0


Table = dict[str, dict[str, Line]]
"""By case and row."""


def tabulate(results: Results) -> Table:
    """Of the cases whose truth is known."""
    table: Table = {}
    for case, rows in results.cases.items():
        if "truth" not in rows:
            continue
        truth, method = Truth.of(rows["truth"]["images"]), rows.get("method")
        table[case] = {}
        for name, figures in rows.items():
            count, beside, pairs = len(figures["images"]), {}, 0
            if method is not None and name != "method" and BY_NAME[name].shares_bases:
                beside, pairs = paired(figures, method, truth), min(count, len(method["images"]))
            table[case][name] = Line(count, summary(figures, truth), beside, pairs)
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
    """The table for programs: `{case: {row: {"images": n, column: [figure, standard error or null], ..., "paired":
    {"images": n, column: [difference or ratio, standard error or null, whether it is worse], ...}}}}`."""

    def figure(value: float) -> float | None:
        return None if math.isnan(value) else float(f"{value:.5g}")

    def beside(line: Line) -> dict[str, Any]:
        differences = {n: [figure(d.value), figure(d.error), d.worse] for n, d in line.paired.items()}
        return {"paired": {"images": line.pairs} | differences} if line.paired else {}

    return json.dumps({
        case: {
            row: {"images": line.images} | {name: [figure(value) for value in pair] for name, pair in line.columns.items()} | beside(line)
            for row, line in rows.items()
        }
        for case, rows in table.items()
    }, indent=1) + "\n"  # fmt: skip


def from_json(text: str) -> Table:
    """A table as `as_json` writes it, or earlier wrote it: then `LIKENESS` was a column, and what else is new is missing."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    def line(row: str, figures: Mapping[str, Any]) -> Line:
        columns = {
            name: (number(pair[0]), number(pair[1]))
            for name, pair in figures.items()
            if name not in ("images", "paired")
        }
        beside = dict(figures.get("paired", {}))
        pairs = beside.pop("images", 0)
        found = {
            name: Difference(number(value), number(error), worse) for name, (value, error, worse) in beside.items()
        }
        value, error = columns.pop(LIKENESS, (math.nan, math.nan))
        if not found and not math.isnan(value) and row != "method" and row in BY_NAME and BY_NAME[row].shares_bases:
            found, pairs = (
                {"PSNR to base": Difference(value, error, is_worse(value, 0.0, error, MORE))},
                figures["images"],
            )
        return Line(figures["images"], columns, found, pairs)

    return {case: {row: line(row, figures) for row, figures in rows.items()} for case, rows in json.loads(text).items()}


def markdown(table: Table) -> str:
    """For each size its table, what its rows are beside the method, and what must come of it."""
    parts = [LEGEND]
    for case, rows in table.items():
        scale = int(case.split("x")[0])
        demands = [
            f"- {bar}" for bar in bars({row: line.columns | likeness(line) for row, line in rows.items()}, scale)
        ]
        blocks = [f"### {case}", "\n".join(absolute(rows)), "\n".join(beside_method(rows)), "\n".join(demands)]
        parts += [block for block in blocks if block]
    return "\n\n".join(parts) + "\n"


LEGEND = """What can be told is told by the second table of each size: there every row stands beside the method image by \
image, from the same base images, and ± is the standard error of that difference; the first tables' ± is how far the scenes \
differ, which hides it. **Bold** is worse than the method by more than one standard error (where a column has a right value, \
farther from it). × is a ratio. Rows with other base images (the truth, other samplers, other steps of the base) can't be paired. A \
column counts the pictures that show what it measures: *measurable* is the share that show horizon, outline and flat sky. \
*horizon*: root mean square of its distance from a straight line, px; *horizon's greatest*: its greatest; *tilt*: how much it \
rises over the picture's width, px. *outline*: the object's over that of a disc of the same area, over the truth's of the same \
shape. *grain*: deviation in flat sky over the truth's. *seam ratio*: of the line that shows most; 1 is none. *units*: cost in \
native pictures at 20 steps, by area."""


def likeness(line: Line) -> dict[str, tuple[float, float]]:
    found = line.paired.get("PSNR to base")
    return {} if found is None else {LIKENESS: (found.value, found.error)}


def absolute(rows: Mapping[str, Line]) -> list[str]:
    known = [*(column.name for column in COLUMNS), DISTANCE, *COSTS]
    names = [name for name in known if any(name in line.columns for line in rows.values())]
    lines = [f"| | images | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
    for row, line in rows.items():
        cells = [cell(name, *line.columns.get(name, (math.nan, math.nan))) for name in names]
        lines.append(f"| {row} | {line.images} | {' | '.join(cells)} |")
    return lines


def beside_method(rows: Mapping[str, Line]) -> list[str]:
    """Nothing where no row can be paired."""
    known = [*(column.name for column in COLUMNS), DISTANCE]
    names = [name for name in known if any(name in line.paired for line in rows.values())]
    if not names:
        return []
    lines = [f"| beside the method, paired | pairs | units | {' | '.join(names)} |", "|" + "---|" * (len(names) + 3)]
    for row, line in rows.items():
        if line.paired:
            cells = [paired_cell(name, line.paired.get(name)) for name in names]
            units = cell("units", *line.columns.get("units", (math.nan, math.nan)))
            lines.append(f"| {row} | {line.pairs} | {units} | {' | '.join(cells)} |")
    return lines
