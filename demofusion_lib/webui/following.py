"""What the page says while somebody types: it asks `forecast`, and `javascript/demofusion.js` shows the answer.

Whatever changes calls the browser's part, which presses a hidden button once it has been quiet for a moment, if the box is
ticked. The press takes the page's own way, so that a login counts, and no queue, so that a running picture does not stand
in its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from modules import errors

from ..params import SETTINGS
from .forecast import BASE, Forecast, forecast

OF_HOST = {
    "width": "txt2img_width",
    "height": "txt2img_height",
    "steps": "txt2img_steps",
    "batch_size": "txt2img_batch_size",
    "n_iter": "txt2img_batch_count",
    "sampler": "txt2img_sampling",
    "scheduler": "txt2img_scheduler",
    "cfg_scale": "txt2img_cfg_scale",
    "enable_hr": "txt2img_hr-checkbox",
}
"""The host's own components that a forecast is made of, by their element ids."""
LAST = "txt2img_gallery"
"""A component that the host makes when those are all there, wherever a user has put them."""
CHANGED = "() => demofusionPage.changed()"


class Following:
    """Collects what a forecast is made of while the host makes its page, and lets the page ask for one."""

    def __init__(self) -> None:
        self.of_host: dict[str, Any] = {}
        self.ours: Sequence[Any] = ()
        self.ask: Any = None
        self.told: Any = None

    def place(self, components: Sequence[Any]) -> None:
        """components: ours, in the table's order. To be called where they stand."""
        self.ours = components
        self.ask = gr.Button("DemoFusion", visible=False, elem_id="demofusion-ask")
        self.told = gr.JSON(visible=False, elem_id="demofusion-told")

    def made(self, component: Any) -> None:
        """To be told of every component that the host makes."""
        name = next((name for name, element in OF_HOST.items() if element == component.elem_id), "")
        if name:
            self.of_host[name] = component
        elif component.elem_id == LAST and self.ours:
            self._wire(list(self.of_host), [*self.ours, *self.of_host.values()])

    def _wire(self, names: Sequence[str], parts: Sequence[Any]) -> None:
        def told(*values: Any) -> dict[str, Any]:
            return answer(values[: len(SETTINGS)], dict(zip(names, values[len(SETTINGS) :])))

        for part in parts:
            part.change(fn=None, _js=CHANGED)
        asked = self.ask.click(told, inputs=parts, outputs=[self.told], queue=False, show_progress="hidden")
        asked.then(fn=None, _js="told => demofusionPage.told(told)", inputs=[self.told])


def answer(values: Sequence[Any], of_host: dict[str, Any]) -> dict[str, Any]:
    """For the browser. A fault of ours is reported once a press, and must not throw messages at somebody who types."""
    try:
        return shown(forecast(values, **of_host))
    except Exception:
        errors.report("DemoFusion: what the run will cost can't be told", exc_info=True)
        return {}


def shown(told: Forecast) -> dict[str, Any]:
    """`line` and what is to be said below it; `mistakes` by setting, to be said beside its field."""
    words = {name: text.replace(" is None,", " is empty,") for name, text in told.mistakes.items()}
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
