"""The host's script: reads the settings and hands the run over to the phases."""

from __future__ import annotations

from typing import Any

from modules import scripts

from ..params import SETTINGS, TITLE, Params, SettingsError
from .kept import append_kept
from .processing import STOPPED_KEY, Run, attach, detach, latent_size
from .ui import accordion, paste_fields


class DemoFusionScript(scripts.Script):
    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> Any:
        return False if is_img2img else scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        components = accordion()
        self.infotext_fields = paste_fields(components)
        self.paste_field_names = [setting.key for setting in SETTINGS]
        return components

    def before_process(self, p: Any, *args: Any) -> None:
        """The host logs what is raised here and goes on, so that a bad setting is kept for `p.sample` to raise."""
        detach(p)
        for key in [STOPPED_KEY, *(setting.key for setting in SETTINGS)]:
            p.extra_generation_params.pop(key, None)
        try:
            params = Params.from_args(args)
            climbs = params.enabled and bool(params.phases(latent_size(p))[1])
        except SettingsError as error:
            attach(p, Run(None, error))
            return
        if not climbs or yields_to_gallery_button(p):
            return
        replace_hires_fix(p)
        p.extra_generation_params.update(params.to_infotext())
        attach(p, Run(params))

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        run = detach(p)
        if run is not None:
            append_kept(processed, run.kept)


def yields_to_gallery_button(p: Any) -> bool:
    """The gallery's upscale button asks for Hires. fix of one finished image, which leaves nothing to draw for us."""
    if not getattr(p, "txt2img_upscale", False):
        return False
    p.comment("DemoFusion: left out, the gallery's button asks for Hires. fix.")
    return True


def replace_hires_fix(p: Any) -> None:
    if getattr(p, "enable_hr", False):
        p.enable_hr = False
        p.comment("DemoFusion: takes the place of Hires. fix, which is left out.")
