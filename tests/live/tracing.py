"""What the host's bar shows while a job runs, against the clock."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic, sleep
from typing import Any

from .client import Answer, Drawing, WebUI

EVERY_S, SOON_S = 0.1, 0.5
SEEN_FROM = 0.1
"""The share of a run after which its bar has to be right."""
LAST = (0.04, 0.15)
"""Of a run, from where on what is left is not judged: a tenth of a second is much of it then; and the host's API adds a
hundredth to the share, which is a tenth of the last tenth's. The page's route, the API's."""
TASK = "task(demofusion-trace)"


@dataclass(frozen=True)
class Look:
    """At both of the host's progress routes. shares, left_s: the page's, the API's."""

    passed_s: float
    shares: tuple[float, float]
    left_s: tuple[float, float]
    text: str


@dataclass
class Trace:
    """Of one job. seconds: from its beginning to the last tile of its last picture, half a look more or less."""

    looks: list[Look]
    seconds: float
    answer: Answer
    pressed_s: float = 0.0
    """When something was pressed, and had been answered."""
    after: list[Look] = field(init=False)
    """Those that are judged."""

    def __post_init__(self) -> None:
        begin = max(self.seconds * SEEN_FROM, self.pressed_s)
        self.after = [look for look in self.looks if look.passed_s >= begin]

    @property
    def share_off(self) -> float:
        """The worst that a share is off the time that has passed, over all that passes."""
        return max(abs(share - look.passed_s / self.seconds) for look in self.after for share in look.shares)

    @property
    def left_off(self) -> float:
        """The worst that what is said to be left is off by, but for the time from one look to the next, over what is left."""
        return max(
            max(0.0, abs(look.left_s[n] - (self.seconds - look.passed_s)) - EVERY_S) / (self.seconds - look.passed_s)
            for n, last in enumerate(LAST)
            for look in self.after
            if self.seconds - look.passed_s > last * self.seconds
        )

    @property
    def falls(self) -> float:
        """The most that a share fell from one look to the next."""
        return max((a - b for n in (0, 1) for a, b in pairwise(look.shares[n] for look in self.looks)), default=0.0)

    def told(self) -> str:
        return (
            f"{self.seconds:.1f} s, {len(self.looks)} looks: the share off by {self.share_off:.1%}, "
            f"what is left by {self.left_off:.0%}, falls by {self.falls:.2%}"
        )


def trace(
    webui: WebUI, settings: Mapping[str, Any], press: tuple[str, Callable[[str], bool]] | None = None, **fields: Any
) -> Trace:
    """press: `skip` or `interrupt`, and at which of the texts it is pressed, once."""
    drawing = Drawing(webui, settings, force_task_id=TASK, **fields)
    looks, begun, pressed = [], 0.0, 0.0
    while not drawing.future.done():
        page, api = progress(webui), webui.progress()
        now = monotonic()
        if page["active"] and api["state"]["job_count"]:
            begun = begun or now
            if page["progress"] and api["textinfo"]:
                shares, left = (page["progress"], api["progress"]), (page["eta"], api["eta_relative"])
                looks.append(Look(now - begun, shares, left, api["textinfo"]))
            if press and not pressed and press[1](api["textinfo"] or ""):
                webui.ask(press[0], {})
                pressed = monotonic() - begun + SOON_S
        sleep(EVERY_S)
    return Trace(looks, looks[-1].passed_s + EVERY_S / 2, drawing.future.result(), pressed)


def progress(webui: WebUI) -> dict[str, Any]:
    """As the page asks for it."""
    body = json.dumps({"id_task": TASK, "live_preview": False}).encode()
    request = urllib.request.Request(f"{webui.url}/internal/progress", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)
