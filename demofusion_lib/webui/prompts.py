"""What the phases are drawn from: their prompts, the times in them, and the extra networks that they name.

A prompt of the phases' own is treated as Hires. fix treats its second one (1.10.1): styles are added to it, the extra
networks of the first image's stand in for the base image's while it is drawn with, and an infotext tells it where it is
another than the image's.

Times, `[from:to:when]`: the host's first pass reads a `when` below 1 as a share of its steps and a whole number as a step;
its second pass counts on, so that 1.5 is the middle of the second pass. In every phase the picture is drawn anew from
noise, so here times that lie within the first pass mean the same in each phase as in the base image; later ones wait for
the phases, where they count from 1, or from the base image's number of steps, as in the second pass.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules import devices, extra_networks, shared

from ..params import BY_NAME, Params
from ..setting import SettingsError, quoted

TIME = re.compile(r"(?<=:)(\s*)([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=\s*\])")
"""A number between a colon and a closing bracket: in the prompt language it can be nothing else."""


AND = re.compile(r"\bAND\b")


def check_regions(params: Params) -> None:
    """Raises SettingsError for prompts that the host could not draw in one part of the picture alone."""
    for number, region in enumerate(params.placed_prompts, start=1):
        told = f"regions: the prompt of region {number} is {quoted(region.prompt)}, allowed:"
        if extra_networks.parse_prompt(region.prompt)[1]:
            whole = "extra networks hold for all of the picture: name them in its prompt"
            raise SettingsError(f"{told} text alone ({whole})", "regions")
        if AND.search(region.prompt):
            raise SettingsError(f"{told} one prompt, without AND", "regions")


def in_phases(prompt: str, base_steps: int) -> str:
    """The prompt with each time that lies behind the base image moved to the place in a phase that it means."""

    def moved(match: re.Match[str]) -> str:
        space, text = match.groups()
        time, start = float(text), 1 if "." in text else base_steps
        if time < start:
            return match[0]
        return f"{space}{time - start:.6f}" if "." in text else f"{space}{int(time) - start}"

    return TIME.sub(moved, prompt)


def may_change(prompts: Iterable[str]) -> bool:
    """Whether what is encoded may depend on the number of steps: all that switches or alternates stands in brackets."""
    return any("[" in prompt for prompt in prompts)


def styled_prompt(p: Any, params: Params) -> str:
    """The phases' own prompt, empty where they have none."""
    text = params.phase_prompt
    return text and shared.prompt_styles.apply_styles_to_prompt(text, p.styles)


def styled_negative(p: Any, params: Params) -> str:
    text = params.phase_negative
    return text and shared.prompt_styles.apply_negative_styles_to_prompt(text, p.styles)


@dataclass(frozen=True)
class Texts:
    """Of one batch in the phases, an image each. own: whether any are others than the base image's.

    networks: the extra networks that they name.
    """

    prompts: Sequence[str]
    negatives: Sequence[str]
    networks: Any
    own: bool

    @classmethod
    def of(cls, p: Any, params: Params) -> Texts:
        """p: within its batch, when the base image's prompts are without the names of their extra networks."""
        prompts, negatives, networks = p.prompts, p.negative_prompts, p.extra_network_data
        if params.phase_prompt:
            prompts, networks = extra_networks.parse_prompts([styled_prompt(p, params)] * len(prompts))
        if params.phase_negative:
            negatives = [styled_negative(p, params)] * len(negatives)
        own = list(prompts) != list(p.prompts) or list(negatives) != list(p.negative_prompts)
        return cls(prompts, negatives, networks, own)


@contextlib.contextmanager
def activated(p: Any, networks: Any) -> Iterator[None]:
    """The extra networks in the place of the base image's; those again afterwards."""
    if p.disable_extra_networks or networks == p.extra_network_data:
        yield
        return
    try:
        _activate(p, networks)
        yield
    finally:
        _activate(p, p.extra_network_data)


def _activate(p: Any, networks: Any) -> None:
    """As the host's second pass does it: what an infotext says of networks is of both passes then. One that a setting adds
    to every prompt is added once."""
    before = p.is_hr_pass, p.all_prompts
    p.is_hr_pass = True
    try:
        with devices.autocast():
            extra_networks.activate(p, networks)
    finally:
        p.is_hr_pass, p.all_prompts = before


def to_infotext(p: Any, params: Params) -> Mapping[str, Any]:
    """The settings as an infotext tells them. Each image's says whether the phases' prompts are others than its own."""
    told: dict[str, Any] = dict(params.to_infotext())
    own = {"phase_prompt": styled_prompt(p, params), "phase_negative": styled_negative(p, params)}
    for name, text in own.items():
        setting = BY_NAME[name]
        if setting.key in told:
            told[setting.key] = WhereAnother(setting.to_text(text), text, negative=name == "phase_negative")
    return told


class WhereAnother(str):
    """What is told of a prompt, called by the host for each image. A text too, as Forge Classic makes JSON of all that is told."""

    def __new__(cls, told: str, text: str, *, negative: bool) -> WhereAnother:
        made = super().__new__(cls, told)
        made.text, made.negative = text, negative
        return made

    text: str
    negative: bool

    def __call__(self, prompt_text: str = "", negative_prompt: str = "", **_: Any) -> str | None:
        return None if self.text == (negative_prompt if self.negative else prompt_text) else str(self)
