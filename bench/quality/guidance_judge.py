"""Ways to guide, judged by the fine texture they draw: `python -m bench.quality.guidance_judge`, with the second toy.

A cell's texture is what the prompt's word says in seven of ten cells, and guidance makes them more: in the phases by how
much, in the band that the base image doesn't have, is what is asked of every way to guide. `kept` is its gain over phases
without guidance as a share of the gain by guidance in every window and step, of the same plan and from the same seeds.
A way that keeps less than half of it, by more than two standard errors, at any level is rejected.

Each cell is of a kind of its own, which is decided late. With `--shared` all are of one, which is decided early, and the
base image shows which: a model's texture lies between the two.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bench.quality.results import mean_error
from demofusion_lib.core import Guidance, Phase, PhaseEngine, upsample
from demofusion_lib.params import BY_NAME, Params
from demofusion_lib.presets import PRESETS
from demofusion_lib.setting import SettingsError, quoted
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.samplers import Schedule
from lab.scenes import NATIVE_PX
from lab.toy2 import load_toy2
from lab.toy2.exact import TEXTURE
from lab.toy2.judge import Subject2, Texture, judge_texture
from lab.unet_training import alphas_cumprod

UNIT_ROWS = 40
"""Of the network in one native image at 20 steps with guidance."""
BATCH = 8
CFG = 3.0
LEVELS_T = (100, 200, 300, 400)
"""Timesteps of the noise levels that are the texture's strength: about there it is decided what a cell is."""
LEAST_KEPT, LEAST_GAIN = 0.5, 0.01
HAND_OVER_T = 400
PLANS: Mapping[str, Mapping[str, Any]] = {
    "whole method": {},
    **{name: {k: v for k, v in PRESETS[name].items() if k != "enlarge"} for name in ("fine", "fast", "draft")},
}
"""The presets, enlarged as latents: the second toy has no autoencoder."""
NONE, WINDOWS, HANDED_OVER = "none in the phases", "windows", f"low-pass, windows below {HAND_OVER_T}"
ENDS = (NONE, WINDOWS)
"""What the others are measured between."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    NONE: {"guidance": "windows", "guidance_until": 1000},
    "low-pass until 300": {"guidance": "low-pass", "guidance_until": 300},
    "low-pass": {"guidance": "low-pass", "guidance_until": 0},
    "windows until 300": {"guidance": "windows", "guidance_until": 300},
    HANDED_OVER: {"guidance": "low-pass", "guidance_until": 0},
    WINDOWS: {"guidance": "windows", "guidance_until": 0},
}


@dataclass(frozen=True)
class HandedOver(Guidance):
    """Low-pass first, in every window at less noise: no setting has it."""

    def in_windows(self, t: float) -> bool:
        return t < HAND_OVER_T

    def low_pass(self, t: float) -> bool:
        return t >= HAND_OVER_T


class HandingOver(Drawing):
    def _engine(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> PhaseEngine:
        engine = super()._engine(phase, previous, before)
        engine.guidance = HandedOver("low-pass")
        return engine


@dataclass(frozen=True)
class GuidedRow:
    """A way to draw: its plan and its way to guide, of `WAYS` or any other, and their settings."""

    plan: str
    way: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> GuidedRow:
        """`PLAN: setting=value ...`. Raises argparse.ArgumentTypeError naming what can't be used."""
        plan, colon, rest = (part.strip() for part in text.partition(":"))
        pairs = [part.partition("=") for part in rest.split()]
        if not colon or plan not in PLANS or not all(equals for _, equals, _ in pairs):
            allowed = f"PLAN: setting=value ..., PLAN one of {', '.join(PLANS)}"
            raise argparse.ArgumentTypeError(f"row is {quoted(text)}, allowed: {allowed}")
        unknown = [key for key, _, _ in pairs if key not in BY_NAME]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown setting {quoted(unknown[0])}; the settings are {', '.join(BY_NAME)}"
            )
        try:
            values = {key: BY_NAME[key].from_text(value) for key, _, value in pairs}
        except SettingsError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return cls(plan, rest, {**PLANS[plan], **values})

    def drawing(self, trial: Trial, subjects: Sequence[Subject2]) -> Drawing:
        params = Params.from_names(
            {"enabled": True, "preset": "none", "scale": trial.scale, "window_batch": 64, **self.settings}
        )
        prompts, seeds = [s.prompt for s in subjects], [s.number for s in subjects]
        order = Order(prompts, seeds, NATIVE_PX, NATIVE_PX, params, guidance=trial.cfg)
        return (HandingOver if self.way == HANDED_OVER else Drawing)(load_toy2(trial.strength, trial.shared), order)


def rows_of(plan: str) -> list[GuidedRow]:
    return [GuidedRow(plan, way, {**PLANS[plan], **settings}) for way, settings in WAYS.items()]


@dataclass
class Measured:
    """A row's figures, an image each, and its units."""

    textures: list[Texture] = field(default_factory=list)
    units: float = math.nan

    @property
    def right(self) -> list[float]:
        return [texture.right for texture in self.textures]


@dataclass(frozen=True)
class Trial:
    """What every row is drawn at: the scale, the noise level of the texture's strength, how many images, the guidance."""

    scale: int
    level_t: float
    images: int
    cfg: float = CFG
    shared: bool = False

    @property
    def strength(self) -> float:
        return float(Schedule(alphas_cumprod()).sigma(torch.tensor([self.level_t], dtype=torch.float64)))

    def batches(self) -> Iterator[list[Subject2]]:
        for first in range(0, self.images, BATCH):
            yield [Subject2(number) for number in range(first, min(first + BATCH, self.images))]

    def drawn(self, row: GuidedRow) -> Measured:
        found = Measured()
        for subjects in self.batches():
            phases = list(row.drawing(self, subjects).phases())
            found.units = sum(phase.evaluations for phase in phases) / UNIT_ROWS / len(subjects)
            found.textures += self.judged(phases[-1].latent[:, TEXTURE], subjects)
        return found

    def enlarged(self) -> Measured:
        """Base images alone, enlarged as a phase's beginning is."""
        found, row = Measured(units=1.0), GuidedRow("whole method", WINDOWS)
        for subjects in self.batches():
            base = next(iter(row.drawing(replace(self, scale=1), subjects).phases())).latent[:, TEXTURE]
            large = upsample(base, self.scale * base.shape[-2], self.scale * base.shape[-1])
            found.textures += self.judged(large, subjects)
        return found

    def true(self) -> Measured:
        found = Measured(units=0.0)
        for subjects in self.batches():
            found.textures += self.judged([s.true(self.scale, self.strength, self.shared) for s in subjects], subjects)
        return found

    def judged(self, textures: Iterable[torch.Tensor], subjects: Sequence[Subject2]) -> list[Texture]:
        return [judge_texture(one, self.scale, self.strength, s.kind) for one, s in zip(textures, subjects)]


def kept(row: Sequence[float], none: Sequence[float], full: Sequence[float]) -> tuple[float, float]:
    """Share of the gain from `none` to `full` that `row` has, and its standard error by leaving out each image in turn."""

    def ratio(left_out: int | None) -> float:
        chosen = [i for i in range(len(row)) if i != left_out]
        return sum(row[i] - none[i] for i in chosen) / sum(full[i] - none[i] for i in chosen)

    count = len(row)
    if count < 2:
        return ratio(None), math.nan
    parts = [ratio(i) for i in range(count)]
    mean = sum(parts) / count
    return ratio(None), math.sqrt((count - 1) / count * sum((part - mean) ** 2 for part in parts))


def is_rejected(share: float, error: float) -> bool:
    return share + 2 * error < LEAST_KEPT


def gains(values: Sequence[float], none: Sequence[float]) -> bool:
    """Whether there is a gain, paired, of LEAST_GAIN and two standard errors at least."""
    mean, error = mean_error([one - other for one, other in zip(values, none)])
    return mean >= LEAST_GAIN and not mean < 2 * error


def table(found: Mapping[tuple[str, str], Sequence[Measured]], levels_t: Sequence[float]) -> str:
    """By plan and way: units; at each level the share of the right texture, what is kept, and the contrast; and the share
    in what is no finer than the base, over all levels."""
    lines = [f"| plan | guidance | units | {' | '.join(f't = {t:g}' for t in levels_t)} | coarse | verdict |"]
    lines.append("|---" * (len(levels_t) + 5) + "|")
    for (plan, way), row in found.items():
        shares = {} if way in ENDS else kept_shares(row, found.get((plan, NONE)), found.get((plan, WINDOWS)))
        cells = [cell(measured, shares.get(i)) for i, measured in enumerate(row)]
        coarse, _ = mean_error([100 * texture.coarse for measured in row for texture in measured.textures])
        verdict = "" if not shares else "**rejected**" if any(is_rejected(*s) for s in shares.values()) else "stands"
        lines.append(f"| {plan} | {way} | {row[0].units:.2f} | {' | '.join(cells)} | {coarse:.1f}% | {verdict} |")
    return "\n".join(lines)


def kept_shares(
    row: Sequence[Measured], none: Sequence[Measured] | None, full: Sequence[Measured] | None
) -> dict[int, tuple[float, float]]:
    """By the number of the level: what `row` keeps and its error, where there is a gain to keep."""
    if none is None or full is None:
        return {}
    levels = enumerate(zip(row, none, full))
    return {i: kept(r.right, n.right, f.right) for i, (r, n, f) in levels if gains(f.right, n.right)}


def cell(measured: Measured, share: tuple[float, float] | None) -> str:
    """`right` in %, what is kept of the gain, and the contrast."""
    right, error = mean_error([100 * value for value in measured.right])
    contrast, _ = mean_error([texture.contrast_db for texture in measured.textures])
    kept_text = "" if share is None else f", kept {share[0]:.2f} ± {share[1]:.2f}"
    return f"{right:.1f} ± {error:.1f}%{kept_text}, {contrast:+.1f} dB"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.guidance_judge", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/guidance"))
    parser.add_argument("--images", type=int, default=8, help="a row (%(default)s)")
    parser.add_argument("--scales", type=int, nargs="+", default=(2, 4), help="(%(default)s)")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS_T, help="(%(default)s)")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS), help="(all)")
    parser.add_argument("--cfg", type=float, default=CFG, help="scale of guidance (%(default)s)")
    parser.add_argument("--shared", action="store_true", help="all cells of a picture are of one kind")
    parser.add_argument(
        "--row", type=GuidedRow.parse, action="append", default=[], help="PLAN: setting=value ..., again for more"
    )
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for scale in args.scales:
        trials = [Trial(scale, t, args.images, args.cfg, args.shared) for t in args.levels]
        found = {
            ("truth", ""): [trial.true() for trial in trials],
            ("base, enlarged", ""): [trial.enlarged() for trial in trials],
        }
        for plan in args.plans:
            for row in [*rows_of(plan), *(row for row in args.row if row.plan == plan)]:
                found[plan, row.way] = [trial.drawn(row) for trial in trials]
        kind = ", one kind a picture" if args.shared else ""
        text = f"{scale}x, {args.images} images, guidance {args.cfg:g}{kind}\n\n{table(found, args.levels)}\n"
        (args.out / f"guidance-{scale}x{'-shared' * args.shared}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)


if __name__ == "__main__":
    main()
