"""`make quality`: draws every row at every size, measures, and writes the table as JSON, Markdown and a contact sheet.

What is measured is kept in `results.json` of the output folder: a run that was stopped goes on where it was, and more
rows and more images can follow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.quality.drawn import REFERENCE, Pictures, Studio, batches
from bench.quality.measures import PatchProjections, measure, sliced_wasserstein
from bench.quality.results import Results, Table, as_json, from_json, markdown, merged, tabulate
from bench.quality.rows import BY_NAME, LARGE, ROWS, SCALES, SHAPE_SIZES, Case, Row, Subject
from bench.quality.sheet import ContactSheet
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import choose_device, load_model
from demofusion_lib.standalone.toy import TOY


def listed(known: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(";")]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r}, allowed, with ; between them: {'; '.join(known)}")
        return names

    return parse


def kept(path: str) -> Table:
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path!r} can't be read as a table.json: {error}") from error


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument("--images", type=int, default=96, help="a row (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images drawn at once (%(default)s)")
    parser.add_argument("--rows", type=listed([row.name for row in ROWS]), default=[row.name for row in ROWS])
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES + LARGE, default=list(SCALES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPE_SIZES), default=list(SHAPE_SIZES))
    parser.add_argument(
        "--beside",
        type=kept,
        default={},
        help="a table.json of other runs, whose rows stand in for those of fewer images",
    )
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


class Reference:
    """True patches of a size, projected, by image number."""

    def __init__(self, studio: Studio, case: Case, projections: PatchProjections):
        self.studio, self.case, self.projections = studio, case, projections
        self.kept: dict[int, torch.Tensor] = {}

    def patches(self, subjects: Sequence[Subject]) -> torch.Tensor:
        missing = [subject for subject in subjects if subject.number not in self.kept]
        if missing:
            pictures = self.studio.true(self.case, missing, self.case.scale, REFERENCE)
            for subject, picture in zip(missing, pictures):
                self.kept[subject.number] = self.projections(picture, subject.number)
        return torch.cat([self.kept[subject.number] for subject in subjects])


def measured(subjects: Sequence[Subject], pictures: Pictures, case: Case, reference: Reference) -> dict[str, list[Any]]:
    """The figures of a batch."""

    def one(subject: Subject, final: torch.Tensor, base: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
        figures = asdict(measure(final, base, case.scale, subject, pictures.lines))
        return figures, reference.projections(final, subject.number)

    with ThreadPoolExecutor() as pool:
        images, drawn = zip(*pool.map(one, subjects, pictures.finals, pictures.bases))
    distance = sliced_wasserstein(torch.cat(drawn), reference.patches(subjects))
    return {
        "images": list(images), "sizes": [len(images)], "wasserstein": [distance],
        "evaluations": [pictures.evaluations], "units": [pictures.units], "seconds": [pictures.seconds],
    }  # fmt: skip


class Laboratory:
    """Draws and measures, and keeps the figures after every batch, the table after every row."""

    def __init__(self, studio: Studio, out: Path, kept: Table):
        self.studio, self.out, self.kept = studio, out, kept
        self.results, self.projections = Results(out / "results.json"), PatchProjections()

    def shape(self, cases: Sequence[Case], rows: Sequence[Row], images: int, batch: int) -> None:
        """Sizes of one shape, row by row."""
        references = {case: Reference(self.studio, case, self.projections) for case in cases}
        sheets = {case: ContactSheet(self.out, case) for case in cases}
        for row in rows:
            counts = {case: self.results.count(case.name, row.name) for case in cases}
            for due, subjects in batches(counts, images, batch):
                for case, pictures in self.studio.draw(row, due, subjects):
                    self.results.add(case.name, row.name, measured(subjects, pictures, case, references[case]))
                    if subjects[0].number == 0:
                        sheets[case].add(row.name, pictures.finals)
            for case in cases:
                seconds = self.results.cases[case.name][row.name]["seconds"]
                print(f"{case.name}, {row.name}: {median(seconds):.1f} s an image", flush=True)
            self.write()
        for sheet in sheets.values():
            sheet.save()

    def write(self) -> None:
        table = merged(tabulate(self.results), self.kept)
        (self.out / "table.md").write_text(markdown(table), encoding="utf-8")
        (self.out / "table.json").write_text(as_json(table), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> Results:
    args = parse(argv)
    keep_freed_memory()
    studio = Studio(load_model(TOY, choose_device(args.device), torch.float32))
    laboratory = Laboratory(studio, args.out, args.beside)
    for shape in args.shapes:
        cases = [Case(shape, scale) for scale in args.scales]
        laboratory.shape(cases, [BY_NAME[name] for name in args.rows], args.images, args.batch)
    return laboratory.results


if __name__ == "__main__":
    main()
