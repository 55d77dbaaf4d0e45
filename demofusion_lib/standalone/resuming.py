"""What a run is made of, in the words of its flags: written beside a finished phase, and read by a run that goes on from it."""

from __future__ import annotations

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..params import SETTINGS
from ..saved import ResumeError, SavedPhase, check_made_of, differences, read
from ..setting import quoted
from .asked_controlnets import FLAGS
from .configs import FAMILIES
from .controlnets import Wanted, read_wanted
from .controls import Control
from .errors import UserError
from .flags import NOT_HERE, STRENGTH, given, params_of, parse
from .given import read_picture
from .models import Model
from .names import find_sampler
from .series import check_series
from .sources import is_there
from .toy import TOY

FILE = "resume.safetensors"
HOST = {"host": "command line"}
WEIGHTS = "model's weights"
NUMBER = "number"
"""Of the picture in its folder, where it is not the first: a run that goes on writes the same files."""
OWN = (
    "prompt", "negative", "seed", "model", "variant", "config", "prediction_type", "width", "height", "sampling_steps",
    "sampler", "scheduler", "cfg_scale", "dtype",
)  # fmt: skip
FREE = ("window_batch", "keep_phases", "vae", "save_phases", "preset")
"""Settings that may be others: they leave the latents as they are. A preset is no more than the values it sets."""
PICTURE = "picture"
OF_IMAGE = ("image", "strength", PICTURE)
"""Of a run with a picture alone; the last is its values, whatever the file is called."""
HINTED = "hints' values"
OF_CONTROLS = (*FLAGS, HINTED)
"""Of a run with ControlNets alone, each a list; the last is the hints' values."""
BY_CONTENT = ("image", "controlnet", "hint")
"""Files that may have been moved: what is in them tells whether they are the same."""
TABLE = {s.name: s for s in SETTINGS if s.name not in NOT_HERE}
SAMPLE = 8  # values from a tensor's beginning and from its end


def read_arguments(argv: Sequence[str]) -> tuple[Namespace, SavedPhase | None]:
    """What is given, and what it goes on from. Raises UserError, ResumeError."""
    args = parse(argv)
    for name in ("width", "height"):
        if args.image is not None and getattr(args, name) is not None:
            raise UserError(f"{name} is {getattr(args, name)}, allowed without image alone: a picture has its own size")
    args.random, args.number = False, 1
    check_series(args)
    if not args.resume:
        if args.prompt is None and args.prompts is None and not args.plan_only:
            raise UserError("the following arguments are required: prompt")
        args.prompt = args.prompt or ""
        _look_at_image(args)
        return args, None
    saved = read(args.resume)
    _check_known(args.resume, saved.made_of)
    return _completed(argv, args, saved), saved


def _look_at_image(args: Namespace) -> None:
    """`args.given` is the picture, None without one. Raises UserError."""
    if args.strength is not None and args.image is None:
        raise UserError(f"strength is {args.strength:g}, allowed with image alone")
    args.given = None if args.image is None else read_picture(args.image)
    args.wanted, args.hint_notes = read_wanted(args)
    if args.strength == 0 and args.wanted:
        raise UserError(
            f"controlnet is {quoted(args.controlnet[0])}, allowed with a strength above 0 alone: 0 draws nothing"
        )
    if args.strength is None:
        args.strength = 1.0 if args.image is None else STRENGTH
    if args.strength == 0 and args.no_decode:
        raise UserError("no_decode is given, allowed with a strength above 0 alone: 0 draws no latent")


def _completed(argv: Sequence[str], args: Namespace, saved: SavedPhase) -> Namespace:
    """The flags that the file stands for, and behind them those given: they may say the same, and what is free to be another."""
    own = given(argv)
    try:
        lists = own.intersection(FLAGS)  # else they would be given twice
        whole = parse([*_flags({name: text for name, text in saved.made_of.items() if name not in lists}), *argv])
    except UserError as error:  # what is given has been read before
        raise ResumeError(args.resume, f"is damaged ({error})") from error
    if whole.dtype == "auto":
        whole.dtype = saved.made_of["dtype"]
    whole.prompt = saved.made_of["prompt"] if args.prompt is None else args.prompt
    whole.out = args.out if "out" in own else Path(args.resume).parent
    whole.keeps_batch = "window_batch" not in own
    whole.random, whole.number = False, number_of(saved, args.resume)
    _look_at_image(whole)
    later = {name: s.to_text(s.default) for name, s in TABLE.items() if name not in saved.made_of}
    theirs = {**saved.made_of, **later}
    check_made_of(args.resume, differences(_comparable(theirs), _comparable({**theirs, **texts(whole)})))
    return whole


def number_of(saved: SavedPhase, path: str | os.PathLike[str]) -> int:
    """Raises ResumeError."""
    text = saved.made_of.get(NUMBER, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ResumeError(os.fspath(path), f"is damaged ({NUMBER} is {quoted(text)})")
    return int(text)


def _check_known(path: str, made_of: Mapping[str, str]) -> None:
    if made_of.get("host") != HOST["host"] or not {*OWN, WEIGHTS} <= made_of.keys():
        raise ResumeError(path, "was not made by the command line, allowed: a file that this one has saved")
    unknown = sorted(made_of.keys() - {*HOST, *OWN, *OF_IMAGE, *OF_CONTROLS, *TABLE, WEIGHTS, NUMBER})
    if unknown:
        raise ResumeError(path, f"has settings that this version lacks: {quoted(unknown)}")


def _flags(made_of: Mapping[str, str]) -> list[str]:
    """Settings that the file doesn't know have come later, and leave a picture as it was where nobody sets them."""
    flags = []
    for name, text in made_of.items():
        flag = name.replace("_", "-")
        if name in TABLE and TABLE[name].kind is bool:
            flags.append(f"--{flag}" if text == "True" else f"--no-{flag}")
        elif name in FLAGS:
            flags += [f"--{flag}={value}" for value in json.loads(text)]
        elif name in TABLE or (name in (*OWN, *OF_IMAGE) and name not in ("prompt", PICTURE)):
            flags.append(f"--{flag}={text}")
    return flags


def texts(args: Namespace) -> dict[str, str]:
    """What `args` say, once they are settled (`settle`)."""
    sampler, scheduler = find_sampler(args.sampler, args.scheduler)
    own: dict[str, Any] = {name: getattr(args, name) for name in OWN}
    own |= {
        "sampler": sampler.name,
        "scheduler": scheduler,
        "model": _located(args.model),
        "config": _located(args.config),
    }
    if args.given is not None:
        own |= {"image": str(Path(args.image).absolute()), "strength": args.strength, PICTURE: args.given.digest}
    if args.number > 1:
        own[NUMBER] = args.number
    if args.wanted:
        own |= of_controls(args.wanted)
    params = params_of(args)
    table = {name: setting.to_text(getattr(params, name)) for name, setting in TABLE.items()}
    return {**HOST, **{name: str(value) for name, value in own.items()}, **table}


def of_controls(wanted: Sequence[Wanted]) -> dict[str, str]:
    named = {
        "controlnet": [_located(one.name) for one in wanted], "hint": [str(Path(one.path).absolute()) for one in wanted],
        "hint_kind": [one.kind for one in wanted], "controlnet_scale": [one.scale for one in wanted],
        "controlnet_start": [one.start for one in wanted], "controlnet_end": [one.end for one in wanted],
        HINTED: [one.digest for one in wanted],
    }  # fmt: skip
    return {name: json.dumps(values) for name, values in named.items()}


def made_of(args: Namespace, model: Model) -> dict[str, str]:
    return {**texts(args), WEIGHTS: fingerprint(model, args.controls)}


def check_weights(path: str, saved: SavedPhase, model: Model, controls: Sequence[Control] = ()) -> None:
    """Raises ResumeError for another model of the same name."""
    if saved.made_of[WEIGHTS] != fingerprint(model, controls):
        check_made_of(path, [WEIGHTS])


def _located(name: str) -> str:
    """A path from wherever the command is given next time."""
    named = name == TOY or name in FAMILIES
    return str(Path(name).absolute()) if not named and is_there(name, Path.exists) else name


def _comparable(made_of: Mapping[str, str]) -> dict[str, str]:
    """A model may have been moved; its weights tell whether it is the same."""
    compared = {name: text for name, text in made_of.items() if name not in (*FREE, NUMBER, *BY_CONTENT)}
    return {**compared, **{name: Path(made_of[name]).name for name in ("model", "config")}}


def is_same_run(theirs: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Whether the one can go on from the other's file. Their weights tell whether their models are the same."""
    aside = {*FREE, NUMBER, "model", "config", *BY_CONTENT}
    return not set(differences(theirs, ours)) - aside


def fingerprint(model: Model, controls: Sequence[Control] = ()) -> str:
    """Of some values of every tensor: a model trained further, or another of its kind, has others in all of them."""
    digest, nets = hashlib.blake2b(digest_size=16), [control.net for control in controls]
    for part in (model.unet, model.vae, *(encoder for _, encoder in model.text), *nets):
        for name, tensor in part.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            rows = [tensor[(end,) * (tensor.ndim - 1)] if tensor.ndim > 1 else tensor.view(-1) for end in (0, -1)]
            for values in (rows[0][:SAMPLE], rows[1][-SAMPLE:]):
                digest.update(values.cpu().double().numpy().tobytes())
    return digest.hexdigest()
