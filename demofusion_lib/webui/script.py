"""The host's script: its page, and its hooks, which are in `hooks` and come with the first picture."""

from __future__ import annotations

from typing import Any

from modules import errors, scripts

from ..params import SETTINGS, TITLE
from . import gallery
from .following import Following
from .tabs import tab_of
from .ui import accordion, paste_fields
from .xyz import add_axes


class DemoFusionScript(scripts.Script):
    def __init__(self) -> None:
        """The host makes its scripts when all are loaded, and before any makes its page: without a page too, where the
        callback before it comes too late."""
        self.following = Following()
        try:
            add_axes()
        except Exception:  # of another host's plot: its own axes are there still
            errors.report("DemoFusion: the X/Y/Z plot has none of its axes", exc_info=True)

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        self.following.tab = tab_of(is_img2img)
        components = accordion(self.following)
        self.infotext_fields = paste_fields(components, self.following.tab)
        self.paste_field_names = [setting.key for setting in SETTINGS]
        return components

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """Of every component of the page, in turn."""
        self.following.made(component)
        gallery.made(component)

    def before_process(self, p: Any, *args: Any) -> None:
        hooks().before_process(p, *args)

    def process(self, p: Any, *args: Any) -> None:
        hooks().process(p, *args)

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        hooks().process_before_every_sampling(p, *args, **kwargs)

    def post_sample(self, p: Any, ps: Any, *args: Any) -> None:
        hooks().post_sample(p, ps, *args)

    def postprocess_image_after_composite(self, p: Any, pp: Any, *args: Any) -> None:
        hooks().postprocess_image_after_composite(p, pp, *args)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        hooks().postprocess(p, processed, *args)


def hooks() -> Any:
    """With the engine and all that draws: a twentieth of a second that the start of the webui need not wait for."""
    from . import hooks

    return hooks


def before_image_saved(save: Any) -> None:
    hooks().before_image_saved(save)


def evaluated(params: Any) -> None:
    """The host's callback after every evaluation of its guided model."""
    from .progress import evaluated

    evaluated(params)
