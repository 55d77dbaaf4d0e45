"""The command line's flags: its own, and those of the table of settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..params import BY_NAME, SETTINGS, Params, preset_values
from ..presets import DEFAULT
from ..setting import SAME, Setting, SettingsError, quoted
from ..targets import LATENT_PX
from .configs import FAMILIES
from .errors import UserError
from .names import (
    AUTO,
    AUTOMATIC,
    DTYPES,
    HINTS,
    PREDICTIONS,
    SAMPLERS,
    SCHEDULERS,
    is_sampler,
    with_todays_names,
)
from .toy import TOY

OUT = Path("out/demofusion")
NOT_HERE = ("enabled", "resume", "tile_units")
"""Settings that are no flags like the others: of the webui alone, or of another kind."""
GIVEN = {"enabled": True, "keep_phases": True}
"""What the command line sets otherwise than the webui: it is there to enlarge, and it writes every phase."""
STRENGTH = 0.5
MOST = 10_000
"""Pictures of a prompt."""
NAMES = {"phase_sampler": (SAME, *SAMPLERS), "phase_scheduler": (SAME, *SCHEDULERS)}
"""What the settings can name here that name something of their host's."""


class Parser(argparse.ArgumentParser):
    """Raises UserError with what is wrong, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def digits(bound: float) -> str:
    """Every digit of a whole number."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def number(kind: type, low: float, high: float, multiple: int = 1) -> Callable[[str], Any]:
    """A parser that names what is allowed."""
    words = "whole numbers " if kind is int else ""
    behind = f", multiples of {multiple}" if multiple > 1 else ""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high or (kind is int and value % multiple):
            raise argparse.ArgumentTypeError(
                f"is {quoted(text)}, allowed: {words}{digits(low)} to {digits(high)}{behind}"
            )
        return value

    return parse


def one_of(*allowed: str, also: Callable[[str], bool] = lambda text: False) -> Callable[[str], str]:
    """also: what is taken without being named among the allowed."""

    def parse(text: str) -> str:
        if text not in allowed and not also(text):
            raise argparse.ArgumentTypeError(f"is {quoted(text)}, allowed: {', '.join(allowed)}")
        return text

    return parse


class Several(argparse.Action):
    """A list of what is given, in order."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else []), values])


def setting_type(setting: Setting) -> Callable[[str], Any]:
    if setting.name == "phase_sampler":
        return one_of(*NAMES[setting.name], also=is_sampler)
    if setting.name in NAMES:
        return one_of(*NAMES[setting.name])

    def parse(text: str) -> Any:
        try:
            return setting.from_text(text)
        except SettingsError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"DemoFusion: {setting.name} ")) from error

    return parse


def shown(setting: Setting) -> str:
    """What it is where nobody sets it."""
    value = GIVEN.get(setting.name, preset_values(DEFAULT)[setting.name])
    without = GIVEN.get(setting.name, setting.default)
    behind = "" if value == without or setting.name == "preset" else f"; {setting.to_text(without)} without a preset"
    return f"{setting.to_text(value)}{behind}"


def add_setting(group: Any, setting: Setting) -> None:
    flag = "--" + setting.name.replace("_", "-")
    # what is not said is not given: it may be a preset's
    common: dict[str, Any] = {"default": GIVEN.get(setting.name)}
    if setting.kind is bool:
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, help=f"{setting.help} ({shown(setting)})", **common
        )
    else:
        allowed = ", ".join(NAMES[setting.name]) if setting.name in NAMES else setting.allowed
        text = f"{setting.help} Allowed: {allowed} ({shown(setting)})".replace("%", "%%")
        group.add_argument(flag, type=setting_type(setting), metavar=setting.name.upper(), help=text, **common)


def parser() -> Parser:
    made = Parser(
        prog="demofusion",
        description="Draws an image at a model's native size, then climbs to a larger one.",
        allow_abbrev=False,
    )
    made.add_argument(
        "prompt", nargs="?", help="what to draw; the toy knows 'a red disc', green, blue, yellow, square, triangle"
    )
    made.add_argument(
        "--prompts", metavar="FILE", help="a text file with a prompt a line, - for standard input: a picture of each"
    )
    made.add_argument(
        "--count",
        type=number(int, 1, MOST),
        metavar="N",
        help="pictures of each prompt, the seeds one after the other (1)",
    )
    made.add_argument("--batch", type=number(int, 1, 64), metavar="N", help="pictures that are drawn at once (1)")
    made.add_argument(
        "--image",
        default=None,
        metavar="FILE",
        help="a picture to enlarge; the scale is its own, and the prompt says what it shows",
    )
    made.add_argument(
        "--strength",
        type=number(float, 0, 1),
        metavar="X",
        help=f"how far to depart from --image: 0 enlarges it and draws nothing, 1 draws as on a base image ({STRENGTH:g})",
    )
    add_controlnets(made)
    made.add_argument("--negative", default="", metavar="PROMPT", help="what not to draw")
    made.add_argument(
        "--model", default=TOY, help="toy, a diffusers folder or hub name, or a .safetensors file (%(default)s)"
    )
    made.add_argument(
        "--variant",
        default="",
        help="of a folder's weight files, fp16 say (the plain ones, or the only ones there are)",
    )
    made.add_argument(
        "--config",
        default="",
        help=f"of a .safetensors file: {', '.join(FAMILIES)} or a diffusers folder (what it holds)",
    )
    made.add_argument(
        "--prediction-type",
        type=one_of(AUTO, *PREDICTIONS),
        default=AUTO,
        metavar="NAME",
        help=f"what the UNet answers: {AUTO}, {', '.join(PREDICTIONS)} (what the model says)",
    )
    side = number(int, 64, 16384, LATENT_PX)
    made.add_argument("--width", type=side, help="of the base image in pixels (the model's native size)")
    made.add_argument("--height", type=side, help="of the base image in pixels (the model's native size)")
    made.add_argument(
        "--sampling-steps", type=number(int, 1, 150), default=20, metavar="N", help="of the base image (%(default)s)"
    )
    made.add_argument("--sampler", default="Euler", metavar="NAME", help=f"{', '.join(SAMPLERS)} (%(default)s)")
    made.add_argument("--scheduler", default=AUTOMATIC, metavar="NAME", help=f"{', '.join(SCHEDULERS)} (%(default)s)")
    made.add_argument(
        "--cfg-scale", type=number(float, 1, 30), default=5.0, metavar="X", help="guidance, 1 for none (%(default)s)"
    )
    made.add_argument("--seed", type=number(int, -1, 2**63 - 1), default=1, help="-1 for a random one (%(default)s)")
    made.add_argument("--out", type=Path, default=OUT, help="folder for the pictures (%(default)s)")
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="put the pictures in the place of earlier ones, whose phases are removed (they get a number of their own)",
    )
    made.add_argument("--device", default="auto", help="a torch device (%(default)s)")
    names = ("auto", *DTYPES)
    made.add_argument(
        "--dtype",
        type=one_of(*names),
        default="auto",
        metavar="NAME",
        help=f"precision: {', '.join(names)} (%(default)s)",
    )
    made.add_argument("--json", action="store_true", help="print what was drawn as JSON, a line a picture")
    made.add_argument("--plan-only", action="store_true", help="print what it would take, and draw nothing")
    made.add_argument(
        "--no-decode",
        action="store_true",
        help="write latents (safetensors) instead of pictures; the VAE is used where phases begin from pixels, if at all",
    )
    made.add_argument(
        "--resume",
        default="",
        metavar="FILE",
        help=f"{BY_NAME['resume'].help} Needs nothing else: all that a picture is made of is in it.",
    )
    group = made.add_argument_group("DemoFusion")
    for setting in SETTINGS:
        if setting.name not in NOT_HERE:
            add_setting(group, setting)
    return made


def add_controlnets(made: Parser) -> None:
    """One after the other, each of them with its own or all with the same."""
    made.add_argument(
        "--controlnet",
        action=Several,
        metavar="FOLDER",
        help=f"a ControlNet: {TOY}, or a diffusers folder; given several times, several",
    )
    made.add_argument("--hint", action=Several, metavar="FILE", help="what the --controlnet before is shown")
    made.add_argument(
        "--hint-kind",
        action=Several,
        type=one_of(AUTO, *HINTS),
        metavar="NAME",
        help=f"how the hint is enlarged: {AUTO}, {', '.join(HINTS)} ({AUTO}: as it looks)",
    )
    made.add_argument(
        "--controlnet-scale", action=Several, type=number(float, 0, 2), metavar="X", help="how much it counts (1)"
    )
    way = "of the way from noise, 0, to the picture, 1"
    made.add_argument(
        "--controlnet-start", action=Several, type=number(float, 0, 1), metavar="X", help=f"where it begins, {way} (0)"
    )
    made.add_argument(
        "--controlnet-end", action=Several, type=number(float, 0, 1), metavar="X", help=f"where it ends, {way} (1)"
    )


def params_of(args: argparse.Namespace) -> Params:
    """All but `resume`, which here may be a path that is no text."""
    named = {s.name: getattr(args, s.name) for s in SETTINGS if s.name not in NOT_HERE}
    said = {name: value for name, value in named.items() if value is not None}
    return with_todays_names(Params.from_names(said | {"enabled": True}))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UserError."""
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        raise UserError(f"unrecognized arguments: {quoted(' '.join(unknown))}")
    return args


def given(argv: Sequence[str]) -> set[str]:
    """The names of what `argv` itself says, its defaults left out. Raises UserError."""
    unsaid = object()
    args = parser().parse_known_args(argv, argparse.Namespace(**dict.fromkeys(vars(parse(argv)), unsaid)))[0]
    return {name for name, value in vars(args).items() if value is not unsaid and value is not None}
