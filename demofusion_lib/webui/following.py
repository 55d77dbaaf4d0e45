"""What the page says while somebody types: it asks `forecast`, and `javascript/demofusion.js` shows the answer.

Whatever changes calls the browser's part, which presses a hidden button once it has been quiet for a moment, if the box is
ticked. The press takes the page's own way, so that a login counts, and no queue, so that a running picture does not stand
in its way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from modules import errors

from ..params import SETTINGS
from .tabs import IMG2IMG, TABS, TXT2IMG, Tab

if TYPE_CHECKING:
    from .forecast import Forecast

NAMES = {element: name for tab in TABS for name, element in tab.of_host.items()}
LAST = {tab.last for tab in TABS}

LABELS = {
    "width": "Width", "height": "Height", "steps": "Sampling steps", "batch_size": "Batch size", "n_iter": "Batch count",
    "denoising_strength": "Denoising strength",
}  # fmt: skip
"""Of the host's own fields, as its page has them."""
OF_HOST = re.compile(rf"(^|; )({'|'.join(LABELS)})(?= is )")


class Following:
    """Collects what a forecast is made of while the host makes a tab, and lets the page ask for one."""

    def __init__(self, tab: Tab = TXT2IMG) -> None:
        """tab: to be set before `place`, which is when the host has told it."""
        self.tab = tab
        self.of_host: dict[str, Any] = {}
        self.ours: Sequence[Any] = ()
        self.ask: Any = None
        self.told: Any = None
        self.seen: Any = None

    def place(self, components: Sequence[Any]) -> None:
        """components: ours, in the table's order. To be called where they stand."""
        self.ours = components
        self.ask = gr.Button("DemoFusion", visible=False, elem_id=self.tab.element("ask"))
        self.told = gr.JSON(visible=False, elem_id=self.tab.element("told"))
        self.seen = gr.JSON(visible=False, elem_id=self.tab.element("seen"))

    def made(self, component: Any) -> None:
        """To be told of every component that the host makes in the tab."""
        if component.elem_id in NAMES:
            self.of_host[NAMES[component.elem_id]] = component
        elif component.elem_id in LAST and self.ours:
            self._wire(list(self.of_host), [*self.ours, *self.of_host.values()])

    def _wire(self, names: Sequence[str], parts: Sequence[Any]) -> None:
        page = f"demofusionPage.{self.tab.name}"

        def told(*values: Any) -> dict[str, Any]:
            from .seen import read

            *values, seen = values
            of_host = dict(zip(names, values[len(SETTINGS) :]))
            return answer(values[: len(SETTINGS)], read(of_host, seen) if self.tab is IMG2IMG else of_host)

        for part in parts:
            part.change(fn=None, _js=f"() => {page}.changed()")
        asked = self.ask.click(
            told, inputs=[*parts, self.seen], outputs=[self.told], queue=False, show_progress="hidden",
            _js=f"(...values) => {page}.asking(values)",
        )  # fmt: skip
        asked.then(fn=None, _js=f"told => {page}.told(told)", inputs=[self.told])


def answer(values: Sequence[Any], of_host: dict[str, Any]) -> dict[str, Any]:
    """For the browser. A fault of ours is reported once a press, and must not throw messages at somebody who types."""
    from .forecast import forecast  # not before somebody asks: the engine comes with it

    try:
        return shown(forecast(values, **of_host))
    except Exception:
        errors.report("DemoFusion: what the run will cost can't be told", exc_info=True)
        return {}


def shown(told: Forecast) -> dict[str, Any]:
    """`line` and what is to be said below it; `mistakes` by setting, to be said beside its field."""
    from .forecast import BASE

    words = {name: text.replace(" is None,", " is empty,") for name, text in told.mistakes.items()}
    if BASE in words:
        words[BASE] = OF_HOST.sub(lambda found: found[1] + LABELS[found[2]], words[BASE])
    said = [text for name, text in words.items() if name == BASE] + told.warnings
    if told.cropped and not any("crop" in text for text in said):
        said.append(told.cropped)
    return {
        "line": told.line(),
        "amber": told.far or told.fits is False,
        "said": said,
        "mistakes": {name: text for name, text in words.items() if name != BASE},
        "sdxl": told.family in ("", "SDXL"),
    }
