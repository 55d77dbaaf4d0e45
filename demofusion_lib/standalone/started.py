"""How this process was started."""

from __future__ import annotations

import os
from collections.abc import Mapping

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process that it starts."""


def is_one_of_several(told: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or what does as it does, has started others beside it."""
    return all(told.get(name) for name in NEEDED) and told["WORLD_SIZE"] != "1"
