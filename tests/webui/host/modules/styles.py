"""Named additions to prompts."""


class StyleDatabase:
    def __init__(self):
        self.styles: dict[str, tuple[str, str]] = {}

    def apply_styles_to_prompt(self, prompt, styles):
        return self._added(prompt, styles, 0)

    def apply_negative_styles_to_prompt(self, prompt, styles):
        return self._added(prompt, styles, 1)

    def _added(self, prompt, styles, side):
        texts = (self.styles.get(name, ("", ""))[side] for name in styles)
        return ", ".join(filter(None, (prompt, *texts)))
