"""A client of the webui's HTTP API, and what the tests ask of pictures. Standard library, Pillow and pytest."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from time import monotonic, sleep
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

SCRIPT = "DemoFusion Hires"
REQUEST = {
    "prompt": "a red disc", "negative_prompt": "bad", "seed": 5, "steps": 3, "width": 64, "height": 64,
    "sampler_name": "Euler", "scheduler": "Automatic", "cfg_scale": 5,
}  # fmt: skip
"""A small picture; every test says what it wants otherwise."""
SETTINGS = {"enabled": True, "preset": "none", "scale": 2, "window_batch": 16}
"""Twice the size, by the whole method. Many windows at once, because what a tiny model costs is calls."""
ROUNDING = 2
"""Grey levels that another grouping of the same rows may cost: float32 sums are not associative."""
FAINT = 0.1
"""A mean difference in grey levels that rounding stays far below."""


@dataclass(frozen=True)
class Answer:
    """What the webui said to one request."""

    status: int
    body: dict[str, Any]

    @property
    def images(self) -> list[str]:
        """The PNG files, infotext and all, as the API's base64 texts: equal texts are equal bytes."""
        return self.body["images"]

    @cached_property
    def pictures(self) -> list[Image.Image]:
        return [Image.open(io.BytesIO(base64.b64decode(image))) for image in self.images]

    @property
    def picture(self) -> Image.Image:
        return self.pictures[0]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """`(width, height)` of every picture."""
        return [picture.size for picture in self.pictures]

    @cached_property
    def infotexts(self) -> list[str]:
        return json.loads(self.body["info"])["infotexts"]

    @property
    def detail(self) -> str:
        """What an error answer tells its reader, wherever the webui puts it."""
        return str(self.body.get("detail") or self.body.get("errors") or self.body)


class WebUI:
    """A running webui. Errors of the connection are raised; errors that the webui answers are answers."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    @cached_property
    def is_forge(self) -> bool:
        """Whether it is one of Forge's family, by the version that it writes into its pictures."""
        return self.is_classic or self.is_neo or "Version: f" in self.version

    @cached_property
    def is_classic(self) -> bool:
        return "Version: classic" in self.version

    @cached_property
    def is_neo(self) -> bool:
        return "Version: neo" in self.version

    @cached_property
    def version(self) -> str:
        """The infotext that tells it."""
        return self.draw(steps=1).infotexts[0]

    @cached_property
    def takes_infotexts(self) -> bool:
        """By the API. Forge asks there whether a number is a `list[str]`."""
        plain = "a red disc\nSteps: 1, Sampler: Euler, CFG scale: 5, Seed: 1, Size: 64x64"
        return self.request("txt2img", {"infotext": plain}).status == 200

    @property
    def for_hires_fix(self) -> dict[str, Any]:
        """What its own Hires. fix wants said: Forge's fails by the API without."""
        return {"hr_additional_modules": ["Use same choices"]} if self.is_forge else {}

    @cached_property
    def known_options(self) -> frozenset[str]:
        return frozenset(self.options())

    def request(self, path: str, body: Mapping[str, Any] | None = None, timeout: float = 600) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/sdapi/v1/{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return Answer(reply.status, json.load(reply))
        except urllib.error.HTTPError as error:
            return Answer(error.code, json.loads(error.read()))

    def ask(self, path: str, body: Mapping[str, Any] | None = None, timeout: float = 600) -> Any:
        """The body of an answer that has to be a good one."""
        answer = self.request(path, body, timeout)
        assert answer.status == 200, f"{path}: HTTP {answer.status}, {answer.detail}"
        return answer.body

    def try_draw(self, settings: Mapping[str, Any] | Sequence[Any] | None = None, **fields: Any) -> Answer:
        """txt2img, good or bad. `settings` by name or by position; None leaves the extension's arguments out."""
        body = {**REQUEST, **fields}
        for name in fields.get("override_settings", {}):
            if name not in self.known_options and not name.startswith("demofusion"):  # Forge lists no extension's
                pytest.skip(f"the webui has no setting {name}")
        if settings is not None:
            args = [settings] if isinstance(settings, Mapping) else list(settings)
            body["alwayson_scripts"] = {SCRIPT: {"args": args}}
        return self.request("txt2img", body)

    def try_redraw(
        self, picture: Image.Image, settings: Mapping[str, Any] | Sequence[Any] | None = None, **fields: Any
    ) -> Answer:
        """img2img of a picture, good or bad; `settings` as of `try_draw`. Fields may name other pictures."""
        body = {**REQUEST, "denoising_strength": 0.5, "init_images": [as_base64(picture)], **fields}
        if settings is not None:
            args = [settings] if isinstance(settings, Mapping) else list(settings)
            body["alwayson_scripts"] = {SCRIPT: {"args": args}}
        return self.request("img2img", body)

    def redraw(
        self, picture: Image.Image, settings: Mapping[str, Any] | Sequence[Any] | None = None, **fields: Any
    ) -> Answer:
        """img2img that has to succeed."""
        answer = self.try_redraw(picture, settings, **fields)
        assert answer.status == 200, f"HTTP {answer.status}: {answer.detail}"
        return answer

    def draw(self, settings: Mapping[str, Any] | Sequence[Any] | None = None, **fields: Any) -> Answer:
        """txt2img that has to succeed."""
        answer = self.try_draw(settings, **fields)
        assert answer.status == 200, f"HTTP {answer.status}: {answer.detail}"
        return answer

    def enlarge(self, fields: Mapping[str, Any] | None = None, **settings: Any) -> Answer:
        """txt2img with DemoFusion on, `settings` by name."""
        return self.draw({**SETTINGS, **settings}, **(fields or {}))

    def paste(self, infotext: str) -> Answer:
        """txt2img with nothing but a picture's infotext, and the emphasis that is set.

        The webui writes no emphasis beside `[a:b:0.5]`, and reads it back as its default, which conftest keeps out.
        """
        emphasis = {"emphasis": self.options()["emphasis"]}
        if not self.takes_infotexts:
            pytest.skip("the webui's API fails at any infotext, ours or not")
        return Answer(200, self.ask("txt2img", {"infotext": infotext, "override_settings": emphasis}))

    def options(self) -> dict[str, Any]:
        return self.ask("options")

    def set_options(self, **values: Any) -> None:
        self.ask("options", values)

    def progress(self) -> dict[str, Any]:
        return self.ask("progress?skip_current_image=true")


def as_base64(picture: Image.Image) -> str:
    """Of its PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Drawing:
    """A txt2img request under way in another thread."""

    def __init__(self, webui: WebUI, settings: Mapping[str, Any], **fields: Any):
        self.webui = webui
        pool = ThreadPoolExecutor(1)
        self.future: Future[Answer] = pool.submit(webui.draw, {**SETTINGS, **settings}, **fields)
        pool.shutdown(wait=False)

    def wait_for(self, phase: int, picture: int = 0, timeout: float = 120) -> None:
        """Returns when the webui has taken the first step of a phase (1: the base image) of a picture of the run."""
        end, sought = monotonic() + timeout, (picture, phase)
        while monotonic() < end:
            assert not self.future.done(), f"finished before {sought} was seen; give it more steps"
            progress = self.webui.progress()
            text = (progress["textinfo"] or "").split()
            state = progress["state"]
            if text[:2] == ["DemoFusion", "phase"] and state["sampling_step"] >= 1:
                found = state["job_no"], int(text[2])
                assert found <= sought, f"{sought} went by unseen; give it more steps"
                if found == sought:
                    return
            sleep(0.02)
        raise AssertionError(f"{sought} has not begun within {timeout} s")

    def stop(self, how: str) -> tuple[Answer, float]:
        """Presses Interrupt or Skip. The answer, and the seconds until it came."""
        began = monotonic()
        self.webui.ask(how, {})
        return self.future.result(600), monotonic() - began


def apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures in grey levels, over all pixels and channels."""
    assert one.size == other.size, f"{one.size} against {other.size}"
    return max(high for _, high in ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema())


def mean_apart(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures in grey levels."""
    assert one.size == other.size, f"{one.size} against {other.size}"
    means = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean
    return sum(means) / len(means)


def assert_drawn(picture: Image.Image, size: tuple[int, int]) -> None:
    """Of this size, and nowhere flat: a NaN, an uncovered latent cell or a padded border would show as a flat tile."""
    assert picture.size == size
    for left in range(0, size[0], 32):
        for top in range(0, size[1], 32):
            tile = picture.convert("L").crop((left, top, min(left + 32, size[0]), min(top + 32, size[1])))
            assert ImageStat.Stat(tile).stddev[0] > 0.5, f"flat at {left}, {top}"


def scaled(width: int, height: int, scale: float) -> tuple[int, int]:
    """The size in whole latent cells of 8 px that is nearest to `scale` times the given one."""
    return int(width / 8 * scale + 0.5) * 8, int(height / 8 * scale + 0.5) * 8


def choice_index(webui: WebUI, script: str, argument: int, choice: str) -> int:
    """The number of a choice in one of a script's dropdowns; scripts are handed numbers."""
    info: list[dict[str, Any]] = webui.ask("script-info")
    arguments = next(s["args"] for s in info if s["name"] == script and not s["is_img2img"])
    return [str(name) for name in arguments[argument]["choices"]].index(choice)
