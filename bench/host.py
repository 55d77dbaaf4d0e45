"""What the phases cost in the real webui on top of its UNet, and how often they wait for a device.

    python -m bench.host --url http://127.0.0.1:7861 [--checkpoint demofusion-toy] [--repeats 3]

The webui has to be started with `--api --allow-code`, with a CPU alone for the times (`--use-cpu all --no-half`). Each
moment of the phases, from the base image to the decode, is the UNet's, the VAE's, the webui's or the extension's own, and the
table gives the last two as ratios to the UNet's in the same run; beside them what the webui itself adds to the base image, and
so to every picture. `thread` is the time of the thread that draws, which other programs don't lengthen, `wall` the
clock's. `+20 ms` lets the UNet take so much longer for every row of native size. The waits are counted in a run of their
own, where every tensor that a sampler works on stands for one on a device.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live.client import WebUI

SCRIPT = "custom code"
OURS = "demofusion_lib/"
"""In the path of a file of the extension."""
INSIDE = Path(__file__).with_name("inside.py")
RUN = """\
from modules.processing import Processed
names = {{"__name__": "inside"}}
exec(compile({source!r}, "inside.py", "exec"), names)
{call}
"""
ANSWER = 'return Processed(p, [], infotexts=[__import__("json").dumps(names["{function}"](p, *{arguments!r}))])'
PRESETS = ("fast", "draft", "fine", "paper")
SLOW_MS = 20.0
BOUNDS = {0.0: 1.05, SLOW_MS: 1.02}
"""Of the time of the phases over the UNet's, by how much the UNet is slowed."""
CLOCKS = {"thread": 1, "wall": 0}
"""Which of a row's two times."""
REQUEST = {
    "prompt": "a red disc", "negative_prompt": "", "seed": 5, "steps": 20, "sampler_name": "Euler",
    "scheduler": "Automatic", "cfg_scale": 3, "send_images": False, "save_images": False,
    "override_settings": {"demofusion_held_mb": 0},
}  # fmt: skip
"""Of the toy; width and height come with the command. Nothing is held, so that all is drawn each time."""


@dataclass(frozen=True)
class Shares:
    """Of a section's time, by one clock, over the UNet's."""

    ours: float
    host: float

    @property
    def whole(self) -> float:
        return 1 + self.ours + self.host


def code_for(call: str) -> str:
    """The script that the webui runs; `call` uses `names`, the names of inside.py, and returns."""
    return RUN.format(source=INSIDE.read_text(encoding="utf-8"), call=call)


def ask_inside(webui: WebUI, function: str, arguments: Sequence[Any], fields: Mapping[str, Any]) -> Any:
    """What a function of inside.py answers to a request."""
    code = code_for(ANSWER.format(function=function, arguments=tuple(arguments)))
    indent = 2
    answer = webui.draw(**{**fields, "script_name": SCRIPT, "script_args": [code, indent]})
    return json.loads(answer.infotexts[0])


def enlarging(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A request's field that turns the extension on."""
    return {"alwayson_scripts": {"DemoFusion Hires": {"args": [{"enabled": True, **settings}]}}}


def shares(seconds: Sequence[Sequence[Any]], section: str, clock: str) -> Shares:
    """From the rows of `inside.time_of`; the VAE between phases is neither's. Raises ValueError where the UNet had nothing to do."""
    by_party = {party: times[CLOCKS[clock]] for at, party, *times in seconds if at == section}
    unet = by_party.pop("unet", 0.0)
    if unet <= 0:
        raise ValueError(f"the UNet was not seen in {section!r}; sections: {sorted({row[0] for row in seconds})}")
    of = {name: sum(s for party, s in by_party.items() if party.startswith(name)) / unet for name in ("ours", "host")}
    return Shares(of["ours"], of["host"])


def median(runs: Sequence[Shares]) -> Shares:
    """Of each number by itself."""
    return Shares(statistics.median(run.ours for run in runs), statistics.median(run.host for run in runs))


def parties(runs: Sequence[Sequence[Sequence[Any]]], section: str, clock: str) -> dict[str, float]:
    """The median of each party's time over the UNet's, the largest first."""
    names = {row[1] for run in runs for row in run if row[0] == section}
    of: dict[str, list[float]] = {name: [] for name in names}
    for run in runs:
        times = {party: seconds[CLOCKS[clock]] for at, party, *seconds in run if at == section}
        for name in names:
            of[name].append(times.get(name, 0.0) / times["unet"])
    found = {name: statistics.median(values) for name, values in of.items() if name != "unet"}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def waits_of_ours(waits: Sequence[Sequence[Any]], evaluations: int) -> dict[str, float]:
    """How often an evaluation waits at each place of the extension's own code; 0 evaluations are an error."""
    return told_waits([row for row in waits if row[2] and OURS in row[0]], evaluations)


def waits_of_host(waits: Sequence[Sequence[Any]], evaluations: int) -> dict[str, float]:
    """The same of the webui's and its libraries', within a sampling."""
    return told_waits([row for row in waits if OURS not in row[0]], evaluations)


def told_waits(rows: Sequence[Sequence[Any]], evaluations: int) -> dict[str, float]:
    if evaluations < 1:
        raise ValueError("no evaluation of a phase was seen")
    told: dict[str, float] = {}
    for place, how, _, count in rows:
        path, _, line = place.rpartition(":")
        name = f"{'/'.join(path.split('/')[-2:])}:{line} ({how})"
        told[name] = told.get(name, 0.0) + count / evaluations
    return told


def report_times(webui: WebUI, args: argparse.Namespace, base: dict[str, Any]) -> None:
    print(
        "preset scale  UNet    | phases/UNet: ours  +host  whole (thread) | ours  +host  whole (wall) | plain picture"
    )
    kinds = [(preset, scale, slow) for slow in BOUNDS for scale in args.scales for preset in args.presets]
    runs: dict[tuple[str, int, float], list[Any]] = {kind: [] for kind in kinds}
    for _ in range(args.repeats):
        for kind in kinds:
            preset, scale, slow = kind
            fields = {**base, **enlarging({"preset": preset, "scale": scale})}
            runs[kind].append(ask_inside(webui, "time_of", (slow,), fields)["seconds"])
    for kind, seconds in runs.items():
        print(time_line(kind, seconds), flush=True)
        for party, share in parties(seconds, "phases", "thread").items():
            print(f"    {share:7.4f}  {party}")


def time_line(kind: tuple[str, int, float], runs: Sequence[Sequence[Sequence[Any]]]) -> str:
    """runs: the seconds of each repeat."""
    preset, scale, slow = kind
    cells = []
    for clock in CLOCKS:
        one = median([shares(run, "phases", clock) for run in runs])
        cells.append(f"{1 + one.ours:.3f}  {one.host:.3f}  {one.whole:.3f}")
    plain = [f"{median([shares(run, 'base', clock) for run in runs]).whole:.3f}" for clock in CLOCKS]
    unet = f"+{slow:.0f} ms" if slow else "as it is"
    return f"{preset:6} {scale}x {unet:9} | {' | '.join(cells)} | {' '.join(plain)} | bound {BOUNDS[slow]}"


def report_waits(webui: WebUI, args: argparse.Namespace, base: dict[str, Any]) -> None:
    for preset in args.presets:
        for sampler in args.samplers:
            fields = {**base, "sampler_name": sampler, "steps": 4, **enlarging({"preset": preset, "scale": 2})}
            answer = ask_inside(webui, "waits_of", (), fields)
            waits, evaluations = answer["waits"], answer["evaluations"]
            print(f"waits an evaluation, {preset}, {sampler}, {evaluations} evaluations")
            for whose, found in (("ours", waits_of_ours), ("the webui's", waits_of_host)):
                told = found(waits, evaluations)
                print(f"  {whose}: {sum(told.values()):.2f}", flush=True)
                for place, count in told.items():
                    print(f"    {count:5.2f}  {place}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.host", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7861")
    parser.add_argument("--checkpoint", default="demofusion-toy")
    parser.add_argument("--size", type=int, default=256, help="of the base image, px")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--samplers", nargs="+", default=["Euler", "DPM++ 2M", "DDIM", "LCM"], help="for the waits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("times", "waits"))
    args = parser.parse_args(argv)
    webui = WebUI(args.url)
    if SCRIPT not in (name.lower() for name in webui.ask("scripts")["txt2img"]):
        parser.error(f"the webui at {args.url!r} runs no code; start it with --allow-code")
    webui.set_options(sd_model_checkpoint=args.checkpoint)
    base = {**REQUEST, "width": args.size, "height": args.size}
    if args.only != "waits":
        report_times(webui, args, base)
    if args.only != "times":
        report_waits(webui, args, base)


if __name__ == "__main__":
    main()
