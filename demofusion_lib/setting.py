"""What a setting is: one row of the table in `params.py`, and the error that tells what is wrong with a value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .regions import as_text

TEXT_CHARACTERS = 1000
PROMPT_CHARACTERS = 100_000
SAME = "same"
"""Of a sampler or scheduler of the phases: the base image's own."""
QUOTED_CHARACTERS = 80


def quoted(value: Any) -> str:
    """`value` for a message: its `repr`, which any encoding can carry, cut at 80 characters."""
    try:
        text = repr(value).encode("utf-8", "backslashreplace").decode()
    except Exception:  # a whole number of more digits than Python prints
        text = f"a {type(value).__name__} that can't be printed"
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[: QUOTED_CHARACTERS - 3]}..."


class SettingsError(ValueError):
    """A setting that can't be used, or several. The webui's API turns `status_code` and `detail` into its answer.

    name: the setting's, which the message begins with; empty where it is about something else.
    mistakes: `(name, message)` of each.
    """

    def __init__(self, message: str, name: str = ""):
        self.status_code = 422
        self.detail = f"DemoFusion: {message}"
        self.mistakes: tuple[tuple[str, str], ...] = ((name, message),)
        ValueError.__init__(self, self.detail)

    @classmethod
    def of_all(cls, errors: Sequence[SettingsError]) -> SettingsError:
        """One error that tells all of them."""
        told = cls("; ".join(str(error).removeprefix("DemoFusion: ") for error in errors))
        told.mistakes = tuple(mistake for error in errors for mistake in error.mistakes)
        return told


@dataclass(frozen=True)
class Setting:
    """One row of the table. `low`, `high`, `step` for numbers, `choices` for words; a text has neither.

    told: whether the infotext tells of it; what leaves the picture as it is and belongs to one run alone is not told.
    names: what a text names one of, a sampler say. Which there are is known to the host alone, which checks it.
    is_prompt: of a text that may be long and of several lines.
    words: the choices as a page shows them, in their order; everywhere else they are called what they are.
    reads: of a prompt that has a form, which is told as `form`: raises ValueError for another.
    """

    name: str
    label: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    told: bool = True
    names: str = ""
    is_prompt: bool = False
    words: tuple[str, ...] = ()
    reads: Callable[[str], object] | None = None
    form: str = ""

    @property
    def is_text(self) -> bool:
        return self.kind is str and not self.choices

    @property
    def kind(self) -> type:
        return type(self.default)

    @property
    def key(self) -> str:
        """The infotext key."""
        return f"DemoFusion {self.name.replace('_', ' ')}"

    @property
    def elem_id(self) -> str:
        return f"demofusion_{self.name}"

    @property
    def allowed(self) -> str:
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return ", ".join(self.choices)
        if self.names:
            return f"{SAME}, or the name of {self.names}"
        if self.reads:
            return self.form
        if self.is_prompt:
            return f"text of up to {PROMPT_CHARACTERS} characters, or nothing"
        if self.is_text:
            return f"one line of up to {TEXT_CHARACTERS} characters, or nothing"
        whole = "whole numbers " if self.kind is int else ""
        multiple = f", multiples of {self.step:g}" if self.kind is int and self.step != 1 else ""
        return f"{whole}{self.low:g} to {self.high:g}{multiple}"

    def check(self, value: Any) -> Any:
        """`value` as this setting's type. Raises SettingsError naming the setting, the value and what is allowed."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.reads:
            return self._check_form(value, self.reads)
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.choices and value in self.choices:
            return value
        if self.is_prompt and isinstance(value, str) and _is_prompt(value):
            return value.replace("\r\n", "\n").replace("\r", "\n").strip()
        if self.is_text and not self.is_prompt and isinstance(value, str) and self._is_line(value):
            return value.strip()
        if self.kind is int and number and value == value // 1 and self._within(value):
            return int(value)
        if self.kind is float and number and self._within(value):
            return float(value)
        raise SettingsError(f"{self.name} is {quoted(value)}, allowed: {self.allowed}{self._nearest(value)}", self.name)

    def _check_form(self, value: Any, reads: Callable[[str], object]) -> str:
        text, why = as_text(value), ""
        try:
            if isinstance(text, str) and _is_prompt(text):
                text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
                reads(text)
                return text
        except ValueError as error:
            why = f" ({error})"
        raise SettingsError(f"{self.name} is {quoted(value)}, allowed: {self.allowed}{why}", self.name)

    def _is_line(self, text: str) -> bool:
        """Which nothing is too, but no name."""
        printable = len(text) <= TEXT_CHARACTERS and (text + " ").isprintable()
        return printable and not (self.names and not text.strip())

    def _nearest(self, value: Any) -> str:
        """Of what is allowed, what is likely to be meant."""
        if self.choices and isinstance(value, str):
            alike = difflib.get_close_matches(value[:QUOTED_CHARACTERS].strip().lower(), self.choices, 1, 0.8)
            return f" (the nearest is {alike[0]})" if alike else ""
        if self.kind not in (int, float) or isinstance(value, bool) or not isinstance(value, (int, float)):
            return ""
        assert self.low is not None and self.high is not None and self.step is not None
        if value != value:
            return ""
        nearest = min(max(value, self.low), self.high)
        if self.kind is int:
            nearest = math.floor(nearest / self.step + 0.5) * int(self.step)
        return f" (the nearest is {nearest:g})"

    def _within(self, value: float) -> bool:
        assert self.low is not None and self.high is not None and self.step is not None
        on_grid = self.kind is float or int(value) % int(self.step) == 0
        return self.low <= value <= self.high and on_grid

    def to_text(self, value: Any) -> str:
        if self.is_prompt:
            return _kept_as_text(value)
        return repr(value).removesuffix(".0") if self.kind is float else str(value)

    def from_text(self, text: str) -> Any:
        """The value that `to_text` wrote. Raises SettingsError for a text it never writes."""
        if self.kind is str:
            return self.check(text)
        if self.kind is bool:
            return self.check({"True": True, "False": False}.get(text, text))
        try:
            return self.check(float(text))
        except ValueError as error:
            raise SettingsError(f"{self.name} is {quoted(text)}, allowed: {self.allowed}", self.name) from error


def _is_prompt(text: str) -> bool:
    """Whether a file can hold it, which no half of a surrogate pair can be in."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return len(text) <= PROMPT_CHARACTERS and "\0" not in text


def _kept_as_text(prompt: str) -> str:
    """As the host's infotext gives it back, which takes quotes around a value off and reads `2x3` as a size. A text with a
    line break it keeps as it is; at the beginning, reading takes it off again."""
    sides = prompt.split("x")
    is_size = len(sides) == 2 and all(side.isdecimal() for side in sides)
    return f"\n{prompt}" if prompt.startswith('"') or is_size else prompt
