"""Our words in the language that the user has chosen on the Settings page.

The host merges the files of one name over all extensions, and language packs are called as their makers pleased: ours is
added to each pack of its language, before it, so that a pack's own words count.
"""

from __future__ import annotations

import re
from pathlib import Path

from modules import localization

FOLDER = Path(__file__).parents[2] / "localizations"
NAMED = {
    "zh_CN": re.compile(r"zh[-_ ]?(cn|hans|sg)|simplified|简体", re.I),
    "ja_JP": re.compile(r"^ja([-_ ]|$)|japanese|日本語", re.I),
    "de_DE": re.compile(r"^de([-_ ]|$)|german|deutsch", re.I),
}
"""How packs of a language are called."""


def add_to_packs() -> None:
    """The host's callback `on_before_ui`: it has listed the packs, and reads the chosen one while it makes its page."""
    for name, files in localization.localizations.items():
        for language, pattern in NAMED.items():
            ours = str(FOLDER / f"{language}.json")
            if pattern.search(name):
                files[:] = [ours, *(file for file in files if Path(file) != Path(ours))]
