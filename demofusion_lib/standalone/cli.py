"""`demofusion`: a prompt in, a picture of every phase out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from tqdm import tqdm

from ..params import SettingsError
from .drawing import Drawing, Finished, Order
from .errors import UserError
from .files import decode, save
from .flags import params_of, parse
from .memory import keep_freed_memory
from .models import Model, choose_device, choose_dtype, first_line, load_model

INTERRUPTED, FAILED, BAD_INPUT = 130, 1, 2


def order_of(args: argparse.Namespace, model: Model) -> Order:
    return Order(
        [args.prompt], [args.seed], args.width or model.native_px, args.height or model.native_px, params_of(args),
        args.negative, args.sampling_steps, args.sampler, args.scheduler, args.cfg_scale,
    )  # fmt: skip


class Output:
    """The files of one run, and what `--json` prints of them."""

    def __init__(self, drawing: Drawing, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.drawing, self.folder = drawing, folder
        self.decoded: tuple[int, list[Image]] | None = None
        self.report: dict[str, Any] = {
            "prompt": drawing.order.prompts[0], "seed": drawing.order.seeds[0], "model": drawing.model.name,
            "device": str(drawing.model.device), "dtype": str(drawing.model.dtype).removeprefix("torch."),
            "settings": vars(drawing.order.params), "phases": [], "final": None, "stopped": None,
        }  # fmt: skip

    def write(self, phase: Finished, name: str) -> Path:
        """Decodes a phase once: the last one is both its own picture and the final one."""
        if self.decoded is None or self.decoded[0] != phase.number:
            self.decoded = phase.number, decode(self.drawing.model, phase.latent)
        path = self.folder / name
        save(self.decoded[1], [path], self.drawing)
        return path

    def add(self, phase: Finished) -> None:
        """A finished phase: its picture, unless only the last is wanted."""
        file = str(self.write(phase, f"phase{phase.number}.png")) if self.drawing.order.params.keep_phases else None
        self.report["phases"].append({
            "phase": phase.number, "width": phase.size_px[0], "height": phase.size_px[1],
            "evaluations": phase.evaluations, "seconds": round(phase.seconds, 3), "file": file,
        })  # fmt: skip

    def finish(self, phases: Sequence[Finished]) -> None:
        """`final.png` is the last phase that can be decoded."""
        for phase in reversed(phases):
            try:
                path = self.write(phase, "final.png")
            except (RuntimeError, ValueError) as error:
                self.stop(f"decoding phase {phase.number} failed: {first_line(error)}")
                continue
            width, height = phase.size_px
            self.report["final"] = {"file": str(path), "width": width, "height": height, "phase": phase.number}
            return

    def stop(self, reason: str) -> None:
        self.report["stopped"] = self.report["stopped"] or reason


def draw(drawing: Drawing, output: Output, quiet: bool) -> int:
    """Runs the phases. Whatever ends them, the last finished one becomes the result. The exit code."""
    done: list[Finished] = []
    code = 0
    bar = tqdm(total=drawing.planned_rows(), unit="row", disable=quiet, file=sys.stderr, dynamic_ncols=True)
    drawing.progress = bar.update
    try:
        bar.set_description("phase 1")
        for phase in drawing.phases():
            done.append(phase)
            bar.set_description(f"phase {phase.number + 1}" if len(done) <= len(drawing.climb) else "decoding")
            output.add(phase)
    except KeyboardInterrupt:
        code = INTERRUPTED
        output.stop("interrupted")
    except (RuntimeError, ValueError) as error:  # memory above all: torch raises subclasses of RuntimeError
        code = FAILED
        output.stop(first_line(error))
    bar.total = bar.n
    bar.close()
    output.finish(done)
    return code if code or output.report["stopped"] is None else FAILED


def tell(output: Output, as_json: bool) -> None:
    report = output.report
    if report["stopped"]:
        print(f"demofusion: stopped: {report['stopped']}", file=sys.stderr)
    if as_json:
        print(json.dumps(report))
        return
    for phase in report["phases"]:
        size = f"{phase['width']}x{phase['height']}"
        print(f"phase {phase['phase']}: {size}, {phase['evaluations']} evaluations, {phase['seconds']:.1f} s")
    print(
        f"picture: {report['final']['file']}" if report["final"] else "no picture: not even the base image was finished"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser, args = parse(argv)
    try:
        params_of(args)
        device = choose_device(args.device)
        if device.type == "cpu":
            keep_freed_memory()
        model = load_model(
            args.model, device, choose_dtype(args.dtype, device),
            variant=args.variant, config=args.config, prediction=args.prediction_type,
        )  # fmt: skip
        drawing = Drawing(model, order_of(args, model))
    except (UserError, SettingsError) as error:
        parser.error(str(error).removeprefix("DemoFusion: "))
    try:
        output = Output(drawing, args.out)
    except OSError as error:
        parser.error(f"out is {str(args.out)!r}, which can't be written to ({error.strerror})")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    code = draw(drawing, output, args.json and not sys.stderr.isatty())
    tell(output, args.json)
    return code
