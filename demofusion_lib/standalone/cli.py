"""`demofusion`: a prompt in, a picture of every phase out."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence

import torch

from ..params import SettingsError, quoted
from .devices import check_dtype
from .drawing import Drawing, Finished, Order
from .errors import UserError, told
from .files import check_folder, reason
from .flags import params_of, parse
from .memory import keep_freed_memory
from .models import Model, choose_device, choose_dtype, load_model
from .output import Output
from .samplers import find_sampler
from .stops import Stops
from .telling import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain, end_early, progress_bar, say, say_json, wants_json


def order_of(args: argparse.Namespace, model: Model) -> Order:
    return Order(
        [args.prompt], [args.seed], args.width or model.native_px, args.height or model.native_px, params_of(args),
        args.negative, args.sampling_steps, args.sampler, args.scheduler, args.cfg_scale,
    )  # fmt: skip


def check_before_loading(args: argparse.Namespace) -> None:
    """What needs no model: a fault that shows at the end of an hour's drawing can mostly be seen before it."""
    params_of(args)
    for name in ("prompt", "negative"):
        text = getattr(args, name)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{name} is {quoted(text)}, allowed: text in UTF-8") from error
    find_sampler(args.sampler, args.scheduler)
    check_folder(args.out)


def prepare(args: argparse.Namespace) -> Output:
    """All that comes before the first step. Raises UserError and SettingsError for what can't be used."""
    check_before_loading(args)
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    check_dtype(device, dtype)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    model = load_model(
        args.model, device, dtype, variant=args.variant, config=args.config, prediction=args.prediction_type
    )
    drawing = Drawing(model, order_of(args, model))
    try:
        return Output(drawing, args.out)
    except OSError as error:
        raise UserError(f"out is {quoted(str(args.out))}, which can't be written to ({reason(error)})") from error


def draw(output: Output, stops: Stops, quiet: bool) -> int:
    """Runs the phases. Whatever ends them, the last finished one becomes the result. The exit code.

    The first signal stops the drawing behind the evaluation that is running, and interrupts nothing else: a finished
    phase is decoded and written. A second one stops that too.
    """
    drawing, done, code = output.drawing, list[Finished](), DONE
    bar = progress_bar(drawing.plan.total_evaluations, quiet)

    def advance(rows: int) -> None:
        bar.update(rows)
        stops.check()

    drawing.progress = advance
    stops.gentle = True
    try:
        bar.set_description("phase 1")
        for phase in drawing.phases():
            done.append(phase)
            bar.set_description(f"phase {phase.number + 1}" if len(done) <= len(drawing.plan.phases) else "decoding")
            output.add(phase)
            stops.check()
    except KeyboardInterrupt:
        code = INTERRUPTED
        output.stop("interrupted")
    except Exception as error:  # memory above all; the libraries raise whatever they please
        code = FAILED
        output.stop(told(error))
    bar.total = bar.n
    bar.close()
    output.finish(done, stops)
    if code == DONE and output.report["stopped"]:
        code = FAILED
    if code == DONE and stops.asked:
        code = INTERRUPTED
        output.stop("interrupted")
    return code


def tell(output: Output, code: int, as_json: bool) -> int:
    """The exit code again, or that of a fault where JSON is wanted and nobody takes it."""
    report = output.report
    report["error"] = report["stopped"] if code == FAILED else None
    if report["stopped"]:
        complain(f"stopped: {report['stopped']}")
    if as_json:
        return code if say_json(report) else code or FAILED
    for phase in report["phases"]:
        size = f"{phase['width']}x{phase['height']}"
        say(f"phase {phase['phase']}: {size}, {phase['evaluations']} evaluations, {phase['seconds']:.1f} s", sys.stdout)
    final = report["final"]
    say(f"picture: {final['file']}" if final else "no picture: " + why_none(report), sys.stdout)
    return code


def why_none(report: dict[str, list[object]]) -> str:
    return "none could be decoded and written" if report["phases"] else "not even the base image was finished"


def run(argv: Sequence[str], stops: Stops) -> int:
    as_json = wants_json(argv)
    quiet = as_json and not (sys.stderr is not None and sys.stderr.isatty())
    args = parse(argv)
    # where JSON is wanted, it is all there is on stdout
    with contextlib.redirect_stdout(sys.stderr or io.StringIO()) if as_json else contextlib.nullcontext():
        output = prepare(args)
        code = draw(output, stops, quiet)
    stops.deaf = True
    return tell(output, code, as_json)


def main(argv: Sequence[str] | None = None, stops: Stops | None = None) -> int:
    """The exit code. Bad input raises SystemExit, as argparse does. stops: given if it has been entered already."""
    given = sys.argv[1:] if argv is None else argv
    if stops is None:
        with Stops() as own:
            return main(given, own)
    as_json = wants_json(given)
    try:
        return run(given, stops)
    except (UserError, SettingsError) as error:
        stops.deaf = True
        sys.exit(end_early(BAD_INPUT, str(error).removeprefix("DemoFusion: "), as_json))
    except KeyboardInterrupt:
        stops.deaf = True
        return end_early(INTERRUPTED, "interrupted", as_json)
    except Exception as error:  # ours: its trace is wanted
        stops.deaf = True
        if as_json:
            say_json({"error": told(error)})
        raise
