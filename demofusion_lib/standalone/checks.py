"""What can be said of a command before anything is loaded: a fault that shows at the end of an hour is mostly there to see."""

from __future__ import annotations

import argparse

from ..setting import quoted
from .asked_controlnets import asked_for
from .errors import UserError
from .flags import params_of
from .folders import check_folder
from .names import find_phase_sampler, find_sampler
from .series import check_series
from .sources import Source


def check_early(args: argparse.Namespace, writes: bool = True) -> None:
    """Needs neither the model nor torch. writes: whether this process is to. Raises UserError, SettingsError."""
    params = params_of(args)
    check_series(args)
    for name in ("prompt", "negative"):
        text = getattr(args, name) or ""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{name} is {quoted(text)}, allowed: text in UTF-8") from error
    if args.prompt is None and args.prompts is None and not args.plan_only:
        raise UserError("the following arguments are required: prompt")
    find_sampler(args.sampler, args.scheduler)
    find_phase_sampler(params, args.sampler, args.scheduler)
    Source(args.model, args.variant, args.config, args.prediction_type).check()
    asked_for(args)
    if writes and not args.plan_only:
        check_folder(args.out)
