"""The settings, in one table: it drives the accordion, the API, the infotext and docs/settings.md.

The order of the table is the order of the API's positional arguments; labels, infotext keys and element ids are
public too. Append, never reorder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .presets import DEFAULT, NONE, PRESETS
from .regions import FORM, read_regions, regions_of
from .setting import SAME, Setting, SettingsError, quoted
from .targets import LATENT_PX, MAX_BASE_PX, MAX_SCALE, SCALE_STEP, check_target, rounding_of

if TYPE_CHECKING:  # the core needs torch, which takes seconds to load: the table alone is read without it
    from .core import Guidance, Phase, Region, Weights

TITLE = "DemoFusion Hires"
"""The script's name in the API, which is public. The accordion is labelled DemoFusion, as the method is called; another
extension has a script of that very title, and the host knows scripts by their titles."""
FULL_START = 1000
"""Of the sampler's own schedule from its highest level, whatever that is."""
SIZE_CONDITIONS = ("final", "phase", "base")
VAES = ("auto", "exact", "estimated", "host")

SETTINGS: tuple[Setting, ...] = (
    Setting("enabled", "DemoFusion", False, "Draw the image at its own size, then climb to a larger one in phases."),
    Setting("scale", "Scale", 2.0, "How many times the base image's width and height to draw; 1 leaves the image as it is.", 1, MAX_SCALE, SCALE_STEP),
    Setting("target_width", "Target width", 0, "Width of the result in pixels instead of a scale; 0 follows the scale or the target height.", 0, 16384, 8),
    Setting("target_height", "Target height", 0, "Height of the result in pixels instead of a scale; 0 follows the scale or the target width. A target of another shape crops the base image.", 0, 16384, 8),
    Setting("plan", "Plan", "every", "Which sizes to stop at: every whole scale in turn (the paper's), doublings only, or direct to the target.", choices=("every", "doubling", "direct"), words=("every whole scale (paper)", "doublings", "one jump")),
    Setting("steps", "Steps per phase", 0, "Sampling steps of each phase; 0 takes as many as the base image.", 0, 150, 1),
    Setting("a1", "Skip residual decay", 3.0, "How early a phase lets go of the phase before; larger values let go sooner.", 0, 10, 0.1),
    Setting("a2", "Dilation decay", 1.0, "How early the global path hands over to the windows; larger values hand over sooner.", 0, 10, 0.1),
    Setting("a3", "Blur decay", 1.0, "How early the global path's blur fades; larger values fade it sooner.", 0, 10, 0.1),
    Setting("step_normalised", "Step-normalised residual", True, "Keep the residual's strength the same at any number of steps; off applies it once a step as the authors do at 50."),
    Setting("blur", "Blur", 0.8, "Standard deviation of the global path's Gaussian at full noise, in latent cells; 0 turns it off.", 0, 5, 0.05),
    Setting("overlap", "Window overlap", 0.5, "Share of a window that its neighbour covers too; less is faster and shows seams.", 0, 0.9, 0.05),
    Setting("jitter", "Window jitter", True, "Shift the windows at random in every step, so that no seam stays in one place."),
    Setting("border", "Window border", "inside", "Keep every window inside the image, or let edge windows overhang it into zeros as the paper's code does.", choices=("inside", "paper"), words=("inside the picture", "over its edges (paper)")),
    Setting("window_batch", "Window batch", 0, "Windows the model gets at once, each prompt and negative prompt counted; 0 takes as many as fit and pay. Where memory runs out, the batch is halved and the step goes on.", 0, 64, 1),
    Setting("sdxl_size", "SDXL size conditioning", "final", "The image size that SDXL is told in every phase: of the final image (the authors'), of the phase, or of the base.", choices=SIZE_CONDITIONS, words=("final picture (paper)", "each phase", "base image")),
    Setting("keep_phases", "Keep phases", False, "Decode, show and save the image of every phase, not only of the last."),
    Setting("skip_residual", "Skip residual", True, "Pull every step towards the phase before; off lets each window draw on its own, and objects repeat."),
    Setting("dilated", "Dilated sampling", True, "Denoise the whole image as interleaved small ones too, for the global layout; off leaves the windows alone."),
    Setting("vae", "VAE", "auto", "How the phases' pictures are decoded: exact by tiles where its planes fit, estimated by tiles where they don't; exact or estimated in any case; or by the host in one piece.", choices=VAES, words=("automatic", "exact tiles", "estimated tiles", "the webui's own")),
    Setting("save_phases", "Save latents", False, "Write the latent of every finished phase to a file, from which a run that was ended goes on; it is removed when the run ends well.", told=False),
    Setting("resume", "Resume", "", "The file that an ended run has saved, to go on from its last finished phase with the same settings.", told=False),
    Setting("start", "Start timestep", FULL_START, "The training timestep at which a phase begins: below 1000 its steps are spread evenly from there down, and no step is spent on noise that the residual would take back; 0 finds it from the residual's decay.", 0, FULL_START, 1),
    Setting("residual", "Residual", "blend", "What a phase is held by: blend pulls the noised latent towards the phase before (the paper's), x0 pulls the low frequencies of each prediction, and suits few steps.", choices=("blend", "x0"), words=("blend of the noisy pictures (paper)", "low frequencies of each prediction")),
    Setting("gate", "Path threshold", 0.0, "The windows or the dilated sub-images are left out of steps in which their share is smaller than this.", 0, 0.5, 0.01),
    Setting("window_weight", "Window weight", "flat", "How a window's cells count where windows overlap: all alike (the paper's), or falling towards its ends, which shows fewer seams at little overlap.", choices=("flat", "sin2", "gaussian"), words=("all alike (paper)", "fading out (sine)", "fading out (Gaussian)")),
    Setting("guidance", "Guidance", "windows", "How the phases are guided by the negative prompt: in every window, or by one pass of the base image's size, which is cheap and guides what is coarse alone.", choices=("windows", "low-pass"), words=("in every window (paper)", "one pass of the base's size")),
    Setting("guidance_until", "Guidance ends", 0, "The timestep below which the phases follow the prompt alone, without guidance; 0 guides to the end.", 0, 1000, 1),
    Setting("preset", "Preset", DEFAULT, "Sets other settings at once: paper is the whole method; fine, fast and draft take few steps; none sets nothing. What is set besides counts before it.", choices=tuple(PRESETS), words=("none", "paper", "fine (few steps)", "fast", "draft")),
    Setting("phase_sampler", "Phase sampler", SAME, "The sampler of the phases; same takes the base image's.", names="a sampler"),
    Setting("phase_scheduler", "Phase scheduler", SAME, "The noise schedule of the phases; same takes the base image's, Automatic what the phases' sampler prefers. DDIM, PLMS and UniPC have a schedule of their own.", names="a scheduler"),
    Setting("enlarge", "Enlarge", "latent", "What a phase begins from: the latent of the phase before, enlarged (the paper's), or its picture, which is decoded, enlarged and encoded again: edges keep their shape, for the time that the VAE takes.", choices=("latent", "pixels"), words=("latent (paper)", "finished picture")),
    Setting("phase_cfg", "Phase CFG scale", 0.0, "How closely the phases follow their prompt; 0 takes the base image's CFG scale. At 1 the negative prompt has no say and is not asked, which saves half the time.", 0, 30, 0.5),
    Setting("phase_prompt", "Phase prompt", "", "What the phases draw; empty takes the base image's prompt. Styles are added, and extra networks that it names take the place of the base image's, as in Hires. fix.", is_prompt=True),
    Setting("phase_negative", "Phase negative prompt", "", "What the phases do not draw; empty takes the base image's negative prompt.", is_prompt=True),
    Setting("regions", "Regions", "", "Prompts for parts of the picture, which the phases draw there in place of theirs: a JSON list of boxes or masks, or prompts parted by ADDCOL and ADDROW (docs/prompts.md).", is_prompt=True, reads=read_regions, form=FORM),
    Setting("tile_units", "Tile units follow", False, "ControlNet's tile units get the picture of the phase before as their map, so that a phase keeps to it; off leaves them their own. It takes a decode a phase."),
)  # fmt: skip

BY_NAME = {setting.name: setting for setting in SETTINGS}
TOLD_NAMES = 5


def read_each(
    values: Mapping[str, Any], read: Callable[[Setting, Any], Any], preset: str
) -> tuple[dict[str, Any], list[SettingsError]]:
    """Every setting's value, read from those given; else, and where it can't be read, the preset's, else its default. And
    what could not be read. preset: where they name none."""
    read_values, errors = preset_values(values.get("preset", preset), read), []
    for setting in SETTINGS:
        if setting.name in values:
            try:
                read_values[setting.name] = read(setting, values[setting.name])
            except SettingsError as error:
                errors.append(error)
    unknown = [quoted(name) for name in values if name not in BY_NAME]
    if unknown:
        more = f" and {len(unknown) - TOLD_NAMES} more" if len(unknown) > TOLD_NAMES else ""
        names = f"{', '.join(unknown[:TOLD_NAMES])}{more}"
        errors.insert(0, SettingsError(f"unknown setting {names}; the settings are {', '.join(BY_NAME)}"))
    return read_values, errors


def _each(values: Mapping[str, Any], read: Callable[[Setting, Any], Any], preset: str) -> dict[str, Any]:
    """Raises SettingsError of all mistakes at once."""
    read_values, errors = read_each(values, read, preset)
    if errors:
        raise SettingsError.of_all(errors)
    return read_values


def preset_values(preset: Any, read: Callable[[Setting, Any], Any] = Setting.check) -> dict[str, Any]:
    """Every setting as a preset has it; one that is unknown sets nothing."""
    try:
        name = read(BY_NAME["preset"], preset)
    except SettingsError:
        name = NONE
    return {s.name: s.default for s in SETTINGS} | dict(PRESETS[name]) | {"preset": name}


def named(args: Sequence[Any]) -> Mapping[str, Any]:
    """What the API's or the accordion's arguments say, by name and unchecked (see `Params.from_args`). By position each
    stands for itself: those that are left out are at their defaults, without a preset.

    Raises SettingsError for more of them than there are settings.
    """
    if args and isinstance(args[0], Mapping):
        return args[0]
    if len(args) > len(SETTINGS):
        raise SettingsError(f"{len(args)} arguments, allowed: at most {len(SETTINGS)}, or one dictionary of names")
    return {"preset": NONE} | {s.name: value for s, value in zip(SETTINGS, args)}


def by_label(error: SettingsError) -> dict[str, str]:
    """What is told of each setting, in the page's words: with its label for its name."""
    told: dict[str, str] = {}
    for name, message in error.mistakes:
        words = f"{BY_NAME[name].label}{message.removeprefix(name)}" if name in BY_NAME else message
        told[name] = f"{told[name]}; {words}" if name in told else words
    return told


@dataclass(frozen=True)
class Params:
    """Checked settings, by name. Build it with `from_args`, `from_names` or `from_infotext`."""

    enabled: bool
    scale: float
    target_width: int
    target_height: int
    plan: str
    steps: int
    a1: float
    a2: float
    a3: float
    step_normalised: bool
    blur: float
    overlap: float
    jitter: bool
    border: str
    window_batch: int
    sdxl_size: str
    keep_phases: bool
    skip_residual: bool
    dilated: bool
    vae: str
    save_phases: bool
    resume: str
    start: int
    residual: str
    gate: float
    window_weight: str
    guidance: str
    guidance_until: int
    preset: str
    phase_sampler: str
    phase_scheduler: str
    enlarge: str
    phase_cfg: float
    phase_prompt: str
    phase_negative: str
    regions: str
    tile_units: bool

    @classmethod
    def from_names(cls, values: Mapping[str, Any]) -> Params:
        """Missing names are the preset's, or their defaults. Raises one SettingsError for all unknown names and values not allowed."""
        return cls(**_each(values, Setting.check, DEFAULT))

    @classmethod
    def readable(cls, args: Sequence[Any]) -> tuple[Params, SettingsError | None]:
        """As `from_args`, but for what can't be read, which is at the preset's values or the defaults. And why it can't."""
        try:
            values, errors = read_each(named(args), Setting.check, DEFAULT)
        except SettingsError as error:
            values, errors = preset_values(NONE), [error]
        return cls(**values), SettingsError.of_all(errors) if errors else None

    @classmethod
    def from_args(cls, args: Sequence[Any]) -> Params:
        """From the API's or the accordion's arguments: one mapping of names first, or values in the table's order.

        Behind a mapping the host fills up with the accordion's values, which say nothing then.
        """
        return cls.from_names(named(args))

    @classmethod
    def from_infotext(cls, texts: Mapping[str, str]) -> Params:
        """Of one that names no preset, what it doesn't tell was at its default: so all did before there were presets."""
        return cls(**_each({s.name: texts[s.key] for s in SETTINGS if s.key in texts}, Setting.from_text, NONE))

    def to_infotext(self) -> dict[str, str]:
        """The preset, and what differs from it, by infotext key."""
        expected = preset_values(self.preset) | {"preset": NONE}
        values = {s: getattr(self, s.name) for s in SETTINGS}
        return {s.key: s.to_text(value) for s, value in values.items() if s.told and value != expected[s.name]}

    @property
    def weights(self) -> Weights:
        """An infinite exponent leaves a mechanism out: its cosine factor is below 1 at every timestep of a model."""
        a1, a2 = self.a1 if self.skip_residual else math.inf, self.a2 if self.dilated else math.inf
        from .core import Weights

        return Weights(a1, a2, self.a3, self.gate)

    @property
    def start_t(self) -> float | None:
        """The timestep that the phases begin at; None for the sampler's own whole schedule."""
        start = self.start or round(self.weights.start)
        return None if start >= FULL_START else float(max(start, 1))

    def in_phases(self, sampler: str, scheduler: str) -> tuple[str, str]:
        """The names of the phases' sampler and scheduler, from those of the base image."""
        own = ((self.phase_sampler, sampler), (self.phase_scheduler, scheduler))
        chosen = [base if name == SAME else name for name, base in own]
        return chosen[0], chosen[1]

    def cfg_in_phases(self, cfg: float) -> float:
        """The phases' CFG scale, from that of the base image."""
        return self.phase_cfg or cfg

    def check_steps(self, base_steps: int, solver: str, sampler: str) -> None:
        """Raises SettingsError for fewer steps than a phase's solver can do with. sampler: its name."""
        from .core.solvers import LEAST_STEPS

        least = LEAST_STEPS.get(solver, 1)
        if (self.steps or base_steps) < least:
            told = f"steps is {self.steps}{'' if self.steps else f' (the base image has {base_steps})'}"
            raise SettingsError(f"{told}, allowed in phases with {sampler}: {least} or more", "steps")

    @property
    def placed_prompts(self) -> tuple[Region, ...]:
        """Those of parts of the picture."""
        return regions_of(self.regions)

    @property
    def guiding(self) -> Guidance:
        from .core import Guidance

        return Guidance(self.guidance, self.guidance_until)

    def target_lat(self, base_lat: tuple[int, int]) -> tuple[int, int]:
        """The size to reach from a base latent, `(height, width)`. Raises SettingsError for a target below or far above it."""
        height, width = self.target_height // LATENT_PX, self.target_width // LATENT_PX
        if height and width:
            target = height, width
        elif height:
            target = height, round(base_lat[1] * height / base_lat[0])
        elif width:
            target = round(base_lat[0] * width / base_lat[1]), width
        else:
            from .core import scaled_size

            return scaled_size(*base_lat, self.scale)
        check_target(base_lat, target, (self.target_height, self.target_width))
        return target

    def phases(self, base_lat: tuple[int, int]) -> tuple[tuple[int, int], list[Phase]]:
        """The part of the base latent `(height, width)` to climb from, and the phases; none at scale 1.

        Raises SettingsError for a base without a cell and for a target that can't be reached.
        """
        small = [name for name, size in zip(("height", "width"), base_lat) if size < 1]
        if small:
            names = f"{' and '.join(small)} {'are' if len(small) > 1 else 'is'}"
            raise SettingsError(f"the base image's {names} below {LATENT_PX} px, allowed: {LATENT_PX} px or more")
        large = [name for name, size in zip(("height", "width"), base_lat) if size * LATENT_PX > MAX_BASE_PX]
        if large:
            names = f"{' and '.join(large)} {'are' if len(large) > 1 else 'is'}"
            raise SettingsError(f"the base image's {names} above {MAX_BASE_PX} px, allowed: {MAX_BASE_PX} px or less")
        target = self.target_lat(base_lat)
        from .core import cropped_size, plan_phases

        base = cropped_size(base_lat, target) if self.target_height and self.target_width else base_lat
        return base, plan_phases(base, target, self.plan)

    def picture_lat(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """The cells of a given picture of `(height, width)` that are enlarged: it is cropped to them."""
        both = self.target_height and self.target_width
        target = (self.target_height // LATENT_PX, self.target_width // LATENT_PX) if both else None
        from .core import picture_part

        return picture_part(size_px, target, LATENT_PX)

    def picture_phases(self, picture_lat: tuple[int, int], native_lat: int) -> tuple[tuple[int, int], list[Phase]]:
        """The windows' size and the phases of a given picture, as `picture_lat` tells; scales and targets are the picture's.

        Raises SettingsError for a target that can't be reached.
        """
        target = self.target_lat(picture_lat)
        from .core import plan_picture, window_size

        window = window_size(picture_lat, target, native_lat)
        return window, plan_picture(picture_lat, window, target, self.plan)

    def rounding(self, base_lat: tuple[int, int]) -> str:
        """What to tell where the scale asks for a size between two possible ones; empty where it does not."""
        return "" if self.target_height or self.target_width else rounding_of(self.scale, base_lat)


assert [f.name for f in fields(Params)] == [s.name for s in SETTINGS]


def markdown_table() -> str:
    """For docs/settings.md."""
    rows = ["| name | label | default | allowed | what it does |", "|---|---|---|---|---|"]
    rows += [f"| `{s.name}` | {s.label} | {s.to_text(s.default)} | {s.allowed} | {s.help} |" for s in SETTINGS]
    return "\n".join(rows)


def presets_table() -> str:
    """For docs/settings.md: what each preset sets."""
    rows = ["| preset | sets |", "|---|---|"]
    for name, values in PRESETS.items():
        told = ", ".join(f"`{key}` {BY_NAME[key].to_text(value)}" for key, value in values.items())
        rows.append(f"| `{name}` | {told or 'nothing'} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(f"{markdown_table()}\n\n{presets_table()}")
