"""Our words in other languages, and how they come to a user's own language pack."""

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "localizations"
LANGUAGES = ("zh_CN", "ja_JP", "de_DE")
ALIKE = {"DemoFusion", "VAE", "Skip-Residual"}


def words_of_ours(host):
    """All that the page shows of ours and that stands still: labels, tooltips, choices, headings, the Settings page."""
    ui, options, tabs = (importlib.import_module(f"demofusion_lib.webui.{name}") for name in ("ui", "options", "tabs"))
    shown = [(s, tab) for s in host.params.SETTINGS for tab in tabs.TABS]
    words = [word for s, tab in shown for word in (s.label, tab.help_of(s), *tab.words_of(s))]
    words += [*ui.GROUPS, *ui.TIPS.values(), *(tab.empty for tab in tabs.TABS)]
    words += [word for o in options.OPTIONS for word in (o.label, f"({o.info})" if o.info else o.label)]
    return set(words) - {"DemoFusion"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_is_missing_and_none_is_left_over(host, language):
    pairs = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    assert set(pairs) == words_of_ours(host)
    assert {key for key, value in pairs.items() if not value.strip() or value == key} <= ALIKE


def test_every_pack_of_a_language_gets_our_words_and_keeps_its_own(host):
    languages = importlib.import_module("demofusion_lib.webui.languages")
    ours = {language: str(FOLDER / f"{language}.json") for language in LANGUAGES}
    packs = {
        "zh-Hans (Stable)": ["a.json"], "zh_CN": [ours["zh_CN"], "b.json"], "ja_JP": ["c.json", ours["ja_JP"]],
        "de_DE": [ours["de_DE"]], "zh_TW": ["d.json"], "de": ["e.json"], "Delphi": ["f.json"],
    }  # fmt: skip
    host.localization.localizations.update(packs)
    (callback,) = host.script_callbacks.callback_map["callbacks_before_ui"]
    assert callback is languages.add_to_packs
    expected = {
        "zh-Hans (Stable)": [ours["zh_CN"], "a.json"], "zh_CN": [ours["zh_CN"], "b.json"],
        "ja_JP": [ours["ja_JP"], "c.json"], "de_DE": [ours["de_DE"]], "zh_TW": ["d.json"],
        "de": [ours["de_DE"], "e.json"], "Delphi": ["f.json"],
    }  # fmt: skip
    for _ in range(2):  # Reload UI
        callback()
        assert host.localization.localizations == expected
