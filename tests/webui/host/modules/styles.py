"""Named additions to prompts."""

from typing import NamedTuple


class PromptStyle(NamedTuple):
    name: str
    prompt: str | None
    negative_prompt: str | None


class StyleDatabase:
    def __init__(self, paths):
        self.styles: dict[str, PromptStyle] = {}

    def apply_styles_to_prompt(self, prompt, styles):
        return self._added(prompt, styles, 1)

    def apply_negative_styles_to_prompt(self, prompt, styles):
        return self._added(prompt, styles, 2)

    def _added(self, prompt, styles, side):
        texts = (self.styles[name][side] for name in styles if name in self.styles)
        return ", ".join(filter(None, (prompt, *texts)))


def extract_style_text_from_prompt(style_text, prompt):
    text = prompt.strip().removesuffix(style_text)
    return text != prompt.strip(), text.removesuffix(", ")
