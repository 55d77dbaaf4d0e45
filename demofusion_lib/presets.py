"""Named sets of settings. A preset sets what is listed here and leaves every other setting at its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NONE = "none"
DEFAULT = "fine"
"""Of whoever names settings, or opens the page; what was written down without a preset has none."""
FEW_STEPS: Mapping[str, Any] = {
    "plan": "doubling",
    "start": 601,
    "residual": "x0",
    "a1": 1.0,
    "dilated": False,
    "overlap": 0.25,
    "window_weight": "sin2",
    "enlarge": "pixels",
}
"""What the presets of few steps have in common: phases that begin late, held by their predictions."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    NONE: {},
    "paper": {"border": "paper", "step_normalised": False},
    "fine": {**FEW_STEPS, "steps": 5},
    "fast": {**FEW_STEPS, "steps": 2},
    "draft": {**FEW_STEPS, "steps": 2, "guidance": "low-pass", "guidance_until": 300},
}
