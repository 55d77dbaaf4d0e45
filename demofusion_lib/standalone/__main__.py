"""`demofusion`, from its first moment: a Ctrl-C while the libraries load, which takes seconds, is answered as any other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..setting import SettingsError
from .checks import check_early
from .errors import UserError
from .flags import parse
from .started import is_one_of_several
from .stops import Stops
from .telling import BAD_INPUT, INTERRUPTED, end_early, say_loading, wants_json


def main() -> int:
    stops = Stops()
    stops.__enter__()
    try:
        return command(sys.argv[1:], stops)
    except KeyboardInterrupt:
        stops.deaf = True
        return end_early(INTERRUPTED, "interrupted", wants_json(sys.argv[1:]))
    finally:
        stops.end()


def command(argv: Sequence[str], stops: Stops) -> int:
    """What is wrong with the flags is told before torch and diffusers are loaded, which takes seconds; by one of several
    processes, which know each other only then."""
    if is_one_of_several():
        return loaded(argv, stops)
    try:
        args = parse(argv)
        if not args.resume:
            check_early(args)
    except (UserError, SettingsError) as error:
        stops.deaf = True
        return end_early(BAD_INPUT, str(error).removeprefix("DemoFusion: "), wants_json(argv))
    say_loading(args.resume or args.model)
    return loaded(argv, stops)


def loaded(argv: Sequence[str], stops: Stops) -> int:
    from .cli import main as rest

    return rest(argv, stops)


if __name__ == "__main__":
    sys.exit(main())
