"""Whether finished pictures can be written: the host raises where one can't, and then nobody sees any of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any

from modules import shared

PROBE = 2**16
"""Bytes that are written to see whether anything can be."""
SHARES = {"png": 1.0, "webp": 0.3, "jpg": 0.3, "jpeg": 0.3}
"""Of a picture's three bytes a pixel, what its file takes at most or nearly."""


def why_not(p: Any, pixels: int) -> str:
    """What keeps files of so many pixels in all from being written where the host puts them; empty if nothing does."""
    folder = p.outpath_samples or os.curdir
    need = int(3 * pixels * SHARES.get(shared.opts.samples_format.lower(), 1.0)) + PROBE
    made = [path for path in _upwards(os.path.abspath(folder)) if not os.path.exists(path)]
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # permissions say little: of root, of mounts, of quotas
            file.write(bytes(PROBE))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return "" if free >= need else f"{free / 2**20:.0f} MiB are free of {need / 2**20:.0f}"


def _upwards(path: str) -> list[str]:
    """The folder and all above it."""
    above = [path]
    while os.path.dirname(above[-1]) != above[-1]:
        above.append(os.path.dirname(above[-1]))
    return above
