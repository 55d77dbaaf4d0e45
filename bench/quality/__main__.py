"""`make quality`: draws every row at every size, measures, and writes the table as JSON, Markdown and a contact sheet.

What is finished is kept in `results.json` of the output folder: a run that was stopped goes on, and more rows can follow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.quality.drawn import REFERENCE, Pictures, Studio, batches
from bench.quality.measures import PatchProjections, measure, sliced_wasserstein
from bench.quality.results import Results, markdown
from bench.quality.rows import BY_NAME, ROWS, SCALES, SHAPE_SIZES, Case, Row, Subject
from bench.quality.sheet import ContactSheet
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument("--images", type=int, default=96, help="a row (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images drawn at once (%(default)s)")
    parser.add_argument("--rows", type=listed([row.name for row in ROWS]), default=[row.name for row in ROWS])
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPE_SIZES), default=list(SHAPE_SIZES))
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
            pictures = self.studio.truth(self.case, missing, REFERENCE).finals
            for subject, picture in zip(missing, pictures):
                self.kept[subject.number] = self.projections(picture, subject.number)
        return torch.cat([self.kept[subject.number] for subject in subjects])


class Measurement:
    """One row at one size, batch by batch."""

    def __init__(self, case: Case, reference: Reference):
        self.case, self.reference = case, reference
        self.images: list[dict[str, Any]] = []
        self.wasserstein: list[float] = []
        self.evaluations: list[float] = []
        self.seconds: list[float] = []

    def add(self, subjects: Sequence[Subject], pictures: Pictures) -> None:
        pitch = self.case.base_px[0] // 2, self.case.base_px[1] // 2
        for subject, final, base in zip(subjects, pictures.finals, pictures.bases):
            self.images.append(asdict(measure(final, base, self.case.scale, subject.colour, pitch)))
        projections = self.reference.projections
        drawn = torch.cat([projections(final, s.number) for final, s in zip(pictures.finals, subjects)])
        self.wasserstein.append(sliced_wasserstein(drawn, self.reference.patches(subjects)))
        self.evaluations.append(pictures.evaluations)
        self.seconds.append(pictures.seconds)

    def figures(self) -> dict[str, Any]:
        count = len(self.evaluations)
        return {
            "images": self.images, "wasserstein": self.wasserstein,
            "evaluations": sum(self.evaluations) / count, "seconds": sum(self.seconds) / count,
        }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> Results:
    args = parse(argv)
    studio = Studio(load_model(TOY, choose_device(args.device), torch.float32))
    results, projections = Results(args.out / "results.json"), PatchProjections()
    for case in (Case(shape, scale) for scale in args.scales for shape in args.shapes):
        reference, sheet = Reference(studio, case, projections), ContactSheet(args.out, case)
        for row in (BY_NAME[name] for name in args.rows):
            if not results.has(case.name, row.name, args.images):
                results.put(case.name, row.name, run(studio, row, case, args, reference, sheet))
                print(
                    f"{case.name}, {row.name}: {results.cases[case.name][row.name]['seconds']:.1f} s an image",
                    flush=True,
                )
                (args.out / "table.md").write_text(markdown(results), encoding="utf-8")
        sheet.save()
    return results


def run(
    studio: Studio, row: Row, case: Case, args: argparse.Namespace, reference: Reference, sheet: ContactSheet
) -> dict[str, Any]:
    measurement = Measurement(case, reference)
    for subjects in batches(args.images, args.batch):
        pictures = studio.draw(row, case, subjects)
        measurement.add(subjects, pictures)
        if subjects[0].number == 0:
            sheet.add(row.name, pictures.finals)
    return measurement.figures()


if __name__ == "__main__":
    main()
