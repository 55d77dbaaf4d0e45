"""What the command line says, on streams that may be closed, full, or of another encoding."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm

from ..setting import quoted

NAME = "demofusion"
BETWEEN = 0.5  # seconds from one news of a picture's tiles to the next
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


def say(text: str, stream: TextIO | None) -> bool:
    """One line. False where nobody can read it, which is no reason to lose a picture."""
    if stream is None:
        return False
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: closed by its owner
        _silence(stream)
        return False
    return True


def _silence(stream: TextIO) -> None:
    """What stays in its buffer would fail once more when Python ends, and change the exit code."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def complain(message: str) -> None:
    say(f"{NAME}: {' '.join(message.splitlines())}", sys.stderr)


def say_json(report: Mapping[str, Any]) -> bool:
    return say(json.dumps(report), sys.stdout)


def wants_json(argv: Sequence[str]) -> bool:
    """Whether `--json` is given: asked before the flags are read, since they may be what is wrong."""
    given = list(argv)
    return "--json" in (given[: given.index("--")] if "--" in given else given)


def end_early(code: int, message: str, as_json: bool) -> int:
    """Tells why nothing was drawn; `code` again."""
    complain(message)
    if as_json:
        say_json({"error": message})
    return code


class Unfailing:
    """A stream whose readers may have gone: what they don't take is left out."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, method: Callable[..., object], *given: str) -> None:
        try:
            method(*given)
        except (OSError, ValueError):
            _silence(self._stream)


def progress_bar(rows: int, quiet: bool) -> Any:
    """On stderr, if that is a terminal: in a file a bar is hundreds of lines."""
    if sys.stderr is None:
        return tqdm(disable=True)
    hidden = quiet or not is_terminal(sys.stderr)
    return tqdm(total=rows, unit="row", disable=hidden, file=Unfailing(sys.stderr), dynamic_ncols=True)


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed by its owner
        return False


def say_loading(model: str) -> None:
    """One line, to somebody who waits."""
    if is_terminal(sys.stderr):
        complain(f"loading {quoted(model)}")


def tile_teller(bar: Any) -> Callable[[int, int], None]:
    """Told `(done, total)` after each tile of a picture, it shows how far that is, now and then."""
    shown = [monotonic()]

    def tell(done: int, total: int) -> None:
        if monotonic() - shown[0] >= BETWEEN or done == total:
            shown[0] = monotonic()
            bar.set_postfix_str(f"picture {100 * done // total} %" if done < total else "", refresh=done < total)

    return tell
