"""What the accordion of one tab has otherwise than the other's: its element ids, its words, what stands around it.

Everything that an API or an infotext calls a setting by is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..setting import Setting

PICTURE_HELP: Mapping[str, str] = {
    "enabled": "Enlarge the picture above in phases; the denoising strength says how far the result may depart from it.",
    "scale": "How many times the picture's own width and height to draw; 1 draws at the size that the tab is set to.",
    "target_height": "Height of the result in pixels instead of a scale; 0 follows the scale or the target width. A picture of another shape is fitted as the resize mode says.",
    "steps": "Sampling steps of each phase; 0 takes as many as the tab is set to.",
    "sdxl_size": "The image size that SDXL is told in every phase: of the final image (the authors'), of the phase, or of the windows.",
    "guidance": "How the phases are guided by the negative prompt: in every window, or by one pass of a window's size, which is cheap and guides what is coarse alone.",
    "phase_sampler": "The sampler of the phases; same takes the tab's.",
    "phase_scheduler": "The noise schedule of the phases; same takes the tab's, Automatic what the phases' sampler prefers. DDIM, PLMS and UniPC have a schedule of their own.",
    "phase_cfg": "How closely the phases follow their prompt; 0 takes the tab's CFG scale. At 1 the negative prompt has no say and is not asked, which saves half the time.",
    "phase_prompt": "What the phases draw; empty takes the tab's prompt. Styles are added, and extra networks that it names take the place of the tab's.",
    "phase_negative": "What the phases do not draw; empty takes the tab's negative prompt.",
}  # fmt: skip
"""In img2img, where nothing but phases is drawn, the settings' help that would tell of a base image."""
PICTURE_WORDS: Mapping[str, Mapping[str, str]] = {
    "sdxl_size": {"base": "the windows"},
    "guidance": {"low-pass": "one pass of a window's size"},
}
"""And the words of their choices."""


@dataclass(frozen=True)
class Tab:
    """name: as the host calls it. elements: what stands between `demofusion_` or `demofusion-` and a name in element ids.

    of_host: the host's own components that a forecast is made of, by their element ids. last: a component that the host
    makes when those are all there, wherever a user has put them. empty: what an empty prompt shows.
    """

    name: str
    elements: str
    of_host: Mapping[str, str]
    last: str
    empty: str
    help: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def kept(self) -> str:
        """What the webui's `ui-config.json` calls our components by."""
        return f"customscript/demofusion.py/{self.name}/"

    def elem_id(self, setting: Setting) -> str:
        return f"demofusion_{self.elements}{'_' if self.elements else ''}{setting.name}"

    def element(self, name: str) -> str:
        """The id of what is no setting."""
        return f"demofusion-{self.elements}{'-' if self.elements else ''}{name}"

    def help_of(self, setting: Setting) -> str:
        return self.help.get(setting.name, setting.help)

    def words_of(self, setting: Setting) -> tuple[str, ...]:
        """The choices as the page shows them, in their order."""
        other = self.words.get(setting.name, {})
        return tuple(other.get(choice, word) for choice, word in zip(setting.choices, setting.words or setting.choices))


def components(tab: str) -> dict[str, str]:
    """Those that both tabs have, by the names of `forecast`'s arguments."""
    return {
        "width": f"{tab}_width", "height": f"{tab}_height", "steps": f"{tab}_steps", "batch_size": f"{tab}_batch_size",
        "n_iter": f"{tab}_batch_count", "sampler": f"{tab}_sampling", "scheduler": f"{tab}_scheduler",
        "cfg_scale": f"{tab}_cfg_scale",
    }  # fmt: skip


TXT2IMG = Tab(
    "txt2img", "", {**components("txt2img"), "enable_hr": "txt2img_hr-checkbox"}, "txt2img_gallery",
    "empty: as the base image",
)  # fmt: skip
IMG2IMG = Tab(
    "img2img", "img2img",
    {
        **components("img2img"), "scale_by": "img2img_scale", "resize_mode": "resize_mode",
        "denoising_strength": "img2img_denoising_strength", "inpainting_fill": "img2img_inpainting_fill",
        "inpaint_full_res": "img2img_inpaint_full_res",
    },
    "img2img_gallery", "empty: as the tab's prompt", PICTURE_HELP, PICTURE_WORDS,
)  # fmt: skip
TABS = (TXT2IMG, IMG2IMG)


def tab_of(is_img2img: bool) -> Tab:
    return TABS[is_img2img]
