"""`demofusion`, from its first moment: a Ctrl-C while the libraries load, which takes seconds, is answered as any other."""

from __future__ import annotations

import sys

from .stops import Stops
from .telling import INTERRUPTED, end_early, wants_json


def main() -> int:
    stops = Stops()
    stops.__enter__()
    try:
        from .cli import main as command

        return command(sys.argv[1:], stops)
    except KeyboardInterrupt:
        stops.deaf = True
        return end_early(INTERRUPTED, "interrupted", wants_json(sys.argv[1:]))
    finally:
        stops.end()


if __name__ == "__main__":
    sys.exit(main())
