"""`demofusion`: a prompt in, a picture of every phase out."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..params import Params
from ..ranks import RankError, RankLost, Ranks
from ..saved import ResumeError, SavedPhase
from ..setting import SettingsError, quoted
from ..targets import LATENT_PX
from . import ranks as joining
from .checks import check_early
from .controlnets import load_controls, notes_of
from .devices import check_dtype
from .drawing import Drawing, Finished, Order
from .errors import UserError, told
from .flags import params_of
from .folders import numbers, reason
from .keeping import Keeper
from .memory import keep_freed_memory
from .models import Model, choose_device, choose_dtype, load_model
from .names import find_phase_sampler
from .output import Output
from .planned import plan_lines, plan_report
from .resuming import check_weights, made_of, number_of, read_arguments
from .road import Road
from .series import batches, chosen_seed, pictures, read_prompts
from .sources import native_px_of
from .stops import Stops
from .telling import (
    BAD_INPUT,
    DONE,
    FAILED,
    INTERRUPTED,
    complain,
    end_early,
    progress_bar,
    say,
    say_json,
    tile_teller,
    wants_json,
)


def order_of(args: argparse.Namespace, commands: Sequence[argparse.Namespace]) -> Order:
    """Of the pictures that are drawn at once."""
    return Order(
        [command.prompt for command in commands], [command.seed for command in commands],
        args.width, args.height, params_of(args),
        args.negative, args.sampling_steps, args.sampler, args.scheduler, args.cfg_scale,
        None if args.given is None else args.given.pixels, args.strength, args.controls,
    )  # fmt: skip


def check_before_loading(args: argparse.Namespace, writes: bool) -> None:
    """What needs torch, and no model. writes: whether this process is the one that does."""
    check_early(args, writes)
    params = params_of(args)
    sampler, _ = find_phase_sampler(params, args.sampler, args.scheduler)
    params.check_steps(args.sampling_steps, sampler.solver, sampler.name)
    check_target(args, params)


def check_target(args: argparse.Namespace, params: Params) -> None:
    """A size that can't be reached, where the picture's own is known without its model."""
    native_px = native_px_of(args.model)
    if native_px is None and not (args.width and args.height):
        return
    size_px = [side or native_px for side in (args.height, args.width)]
    if args.given is not None:
        params.target_lat(params.picture_lat(args.given.size_px))
    elif None not in size_px:
        height, width = (side // LATENT_PX for side in size_px if side)
        params.phases((height, width))


def load(args: argparse.Namespace, ranks: Ranks | None) -> Model:
    """The model, on this process's device. Raises UserError and SettingsError for what can't be used."""
    check_before_loading(args, ranks is None or ranks.is_first)
    device = choose_device(joining.device_of(args.device, ranks))
    dtype = choose_dtype(args.dtype, device)
    check_dtype(device, dtype)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    model = load_model(
        args.model, device, dtype, variant=args.variant, config=args.config, prediction=args.prediction_type
    )
    settle(args, model)
    args.controls = load_controls(args.wanted, model)
    return model


def prepare(
    args: argparse.Namespace,
    model: Model,
    commands: Sequence[argparse.Namespace],
    saved: SavedPhase | None,
    ranks: Ranks | None = None,
) -> Drawing:
    """Of the pictures that are drawn at once. Raises UserError and SettingsError for what the model can't draw."""
    drawing = Drawing(model, order_of(args, commands), saved=saved, ranks=ranks)
    joining.check_shared(ranks, {s.name: s.solver for s in (drawing.sampler, drawing.phase_sampler)})
    if saved is not None:
        check_weights(args.resume, saved, drawing.model, args.controls)
        if not drawing.fits(saved):
            raise ResumeError(args.resume, f"is damaged (phase {saved.number} has another size)")
        if saved.window_batch and args.keeps_batch:
            drawing.batch.size = saved.window_batch
    return drawing


def settle(args: argparse.Namespace, model: Model) -> None:
    """What was left to the model and the machine."""
    args.width, args.height = args.width or model.native_px, args.height or model.native_px
    args.dtype = str(model.dtype).removeprefix("torch.")


def open_output(args: argparse.Namespace, drawing: Drawing, commands: Sequence[argparse.Namespace]) -> Output:
    saved = drawing.saved
    source = None if saved is None else (Path(args.resume), saved.number)
    if drawing.ranks is not None and not drawing.ranks.is_first:
        source = None
    own = [made_of(command, drawing.model) for command in commands]
    keeper = Keeper(args.out, own[0], args.save_phases or drawing.ranks is not None, source)
    numbers = [command.number for command in commands]
    try:
        return Output(
            drawing, args.out, keeper, decodes=not args.no_decode, numbers=numbers, made_of=own,
            replaces=args.overwrite and saved is None,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"out is {quoted(str(args.out))}, which can't be written to ({reason(error)})") from error


def numbered(
    args: argparse.Namespace, commands: Sequence[argparse.Namespace], saved: SavedPhase | None, ranks: Ranks | None
) -> None:
    """Gives each picture the number of its files. One that is gone on with has the one that it had, where it was."""
    if saved is not None and os.path.abspath(args.out) == os.path.abspath(Path(args.resume).parent):
        commands[0].number = number_of(saved, args.resume)
        return
    free = joining.told(ranks, lambda: numbers(args.out, len(commands), overwrite=args.overwrite))
    for command, number in zip(commands, free):
        command.number = number


def tell_of_controls(args: argparse.Namespace, output: Output) -> None:
    order = output.drawing.order
    shape = (order.height_px, order.width_px) if args.given is None else args.given.size_px
    for note in (*args.hint_notes, *notes_of(args.wanted, shape)):
        output.note(note)
    for report in output.reports:
        report["controlnets"] = [one.report() for one in args.wanted]


def tell_of_image(args: argparse.Namespace, output: Output) -> None:
    """What is done with a given picture, said before it takes its time."""
    if args.given is None:
        return
    (height, width), plan = args.given.size_px, output.drawing.plan
    for note in (*args.given.notes, *plan.picture_notes((height, width))):
        output.note(note)
    for each in output.reports:
        each["image"] = {
            "file": str(args.image), "width": width, "height": height, "strength": args.strength,
            "digest": args.given.digest,
        }  # fmt: skip
    output.profile = args.given.profile


def draw(output: Output, stops: Stops, quiet: bool, title: str) -> int:
    """Runs the phases. Whatever ends them, the last finished one becomes the result. The exit code.

    The first signal stops the drawing behind the evaluation that is running, and interrupts nothing else: a finished
    phase is decoded and written. A second one stops that too.
    """
    drawing, done, code = output.drawing, list[Finished](), DONE
    ranks, saved = drawing.ranks, drawing.saved.number if drawing.saved else 0
    with progress_bar(0, quiet) as bar:
        road = Road(drawing.plan, bar, done=saved, decodes=output.decodes)

        def advance(rows: int) -> None:
            road.rows(rows)
            stops.check()

        drawing.progress = advance
        if ranks is not None:
            ranks.asked, ranks.on_others, ranks.heeds = lambda: stops.asked, road.rows, True
        tell_tile = tile_teller(bar)

        def shown(done: int, total: int) -> None:
            road.coded(done, total)
            tell_tile(done, total)

        def coded(done: int, total: int) -> None:
            shown(done, total)
            stops.check()  # between phases; at the end a decode is what a stopped run still gets

        output.on_tile = shown
        drawing.way = output.way(coded)
        stops.gentle = True
        try:
            bar.set_description(f"{title}phase {saved + 1}")
            for phase in joining.each(ranks, drawing.phases()):
                done.append(phase)
                ahead = f"phase {phase.number + 1}" if phase.number < drawing.last else "decoding"
                bar.set_description(f"{title}{ahead}")
                output.add(phase)
                joining.together(ranks, stops.check)
        except KeyboardInterrupt:
            code = INTERRUPTED
            output.stop("interrupted")
        except Exception as error:  # memory above all; the libraries raise whatever they please
            code = FAILED
            output.stop(told(error))
            output.given_up = output.given_up or isinstance(error, RankLost)  # who is left has no minutes for a decoder
        if ranks is not None:
            ranks.heeds = False
        output.finish(done, stops)
        if code == DONE and output.report["stopped"]:
            code = FAILED
        if code == DONE and stops.asked:
            code = INTERRUPTED
            output.stop("interrupted")
        if code == DONE:
            road.end()
    return code


def tell(output: Output, code: int, args: argparse.Namespace) -> int:
    """The exit code again, or that of a fault where JSON is wanted and nobody takes it."""
    ranks = output.drawing.ranks
    evaluated = [] if ranks is None else [rows - before for rows, before in zip(ranks.rows, output.rows_before)]
    if code == DONE:
        output.keeper.end_well()
    for report in output.reports:
        report["error"] = report["stopped"] if code == FAILED else None
        report["resume"] = output.keeper.report()
        if ranks is not None:
            report["rank_evaluations"] = evaluated
    if output.report["stopped"]:
        complain(f"stopped: {output.report['stopped']}")
    if output.report["resume"]:
        say(output.keeper.hint(), sys.stderr)
    if args.json:
        taken = [say_json(report) for report in output.reports]
        return code if all(taken) else code or FAILED
    for entry in output.report["phases"]:
        size = f"{entry['width']}x{entry['height']}"
        say(f"phase {entry['phase']}: {size}, {entry['evaluations']} evaluations, {entry['seconds']:.1f} s", sys.stdout)
    if ranks is not None:
        say(f"evaluations of each rank: {', '.join(map(str, evaluated))}", sys.stdout)
    kind = "picture" if output.decodes else "latent"
    for report in output.reports:
        if args.random:
            say(f"seed: {report['seed']}", sys.stdout)
        final = report["final"]
        say(f"{kind}: {final['file']}" if final else "no picture: " + why_none(report), sys.stdout)
    return code


def tell_plan(report: Mapping[str, Any], as_json: bool) -> int:
    if as_json:
        return DONE if say_json(report) else FAILED
    for line in plan_lines(report):
        say(line, sys.stdout)
    return DONE


def why_none(report: dict[str, list[object]]) -> str:
    return "none could be decoded and written" if report["phases"] else "not even the base image was finished"


def run(argv: Sequence[str], stops: Stops, ranks: Ranks | None = None) -> int:
    args, saved = joining.together(ranks, lambda: read_arguments(argv))
    commands = listed(args, ranks)
    # where JSON is wanted, it is all there is on stdout
    with aside(args.json):
        model = joining.together(ranks, lambda: load(args, ranks))
        joining.use(ranks, model.device)
        for command in commands:
            settle(command, model)
            command.controls = args.controls
        if args.plan_only:
            drawing = prepare(args, model, commands[: args.batch or 1], saved, ranks)
            report = plan_report(drawing, decodes=not args.no_decode)
    if args.plan_only:
        return tell_plan(report, args.json)
    if saved is None and len(commands) == 1:
        left = joining.left_behind(ranks, args.out, lambda: made_of(commands[0], model))
        if left is not None:
            (args.resume, saved), args.keeps_batch = left, args.window_batch is None
    numbered(args, commands, saved, ranks)
    code, done = DONE, 0
    for batch in batches(commands, args.batch or 1):
        title = f"{done + len(batch)}/{len(commands)} " if len(commands) > 1 else ""
        code = one_batch(args, model, batch, saved, stops, title, ranks)
        if code != DONE:
            return code
        done += len(batch)
    return code


def listed(args: argparse.Namespace, ranks: Ranks | None) -> list[argparse.Namespace]:
    """A command for each picture. Standard input and chance are the first process's."""
    prompts, seed = joining.told(ranks, lambda: (read_prompts(args), chosen_seed(args)))
    args.random, args.seed = args.seed < 0, seed
    return pictures(args, prompts)


def one_batch(
    args: argparse.Namespace, model: Model, commands: Sequence[argparse.Namespace], saved: SavedPhase | None,
    stops: Stops, title: str, ranks: Ranks | None,
) -> int:  # fmt: skip
    """Draws and tells of those that are drawn at once. The exit code."""
    quiet = args.json and not (sys.stderr is not None and sys.stderr.isatty())
    stops.deaf = False
    with aside(args.json):
        drawing = joining.together(ranks, lambda: prepare(args, model, commands, saved, ranks))
        output = joining.together(ranks, lambda: open_output(args, drawing, commands))
        tell_of_image(args, output)
        tell_of_controls(args, output)
        code = draw(output, stops, quiet, title)
    stops.deaf = True
    return tell(output, code, args)


def aside(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """Whatever else is printed goes to stderr where JSON is wanted."""
    return contextlib.redirect_stdout(sys.stderr or io.StringIO()) if as_json else contextlib.nullcontext()


def main(argv: Sequence[str] | None = None, stops: Stops | None = None) -> int:
    """The exit code. Bad input raises SystemExit, as argparse does. stops: given if it has been entered already."""
    given = sys.argv[1:] if argv is None else argv
    if stops is None:
        with Stops() as own:
            return main(given, own)
    as_json = wants_json(given)
    try:
        return joining.run_joined(lambda ranks: answered(given, stops, ranks))
    except UserError as error:
        sys.exit(end_early(BAD_INPUT, str(error), as_json))


def answered(given: Sequence[str], stops: Stops, ranks: Ranks | None) -> int:
    as_json = wants_json(given)
    try:
        return run(given, stops, ranks)
    except (UserError, SettingsError) as error:
        stops.deaf = True
        sys.exit(end_early(BAD_INPUT, str(error).removeprefix("DemoFusion: "), as_json))
    except KeyboardInterrupt:
        stops.deaf = True
        return end_early(INTERRUPTED, "interrupted", as_json)
    except (RankError, RankLost) as error:
        stops.deaf = True
        return end_early(FAILED, str(error), as_json)
    except Exception as error:  # ours: its trace is wanted
        stops.deaf = True
        if as_json:
            say_json({"error": told(error)})
        raise
