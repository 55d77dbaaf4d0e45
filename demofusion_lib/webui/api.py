"""Two routes beside the host's API: what the settings are, and what a request would come to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import scripts, shared

from .. import __version__
from ..params import SETTINGS, TITLE, preset_values
from ..presets import DEFAULT, PRESETS
from ..setting import Setting, SettingsError, quoted
from .choices import THERE, offered
from .pasting import take_unread
from .refusal import refusal
from .tabs import IMG2IMG, TXT2IMG, Tab

if TYPE_CHECKING:
    from .forecast import Forecast

PREFIX = "/demofusion/v1"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
FIELDS = {
    "width": "width", "height": "height", "steps": "steps", "batch_size": "batch_size", "n_iter": "n_iter",
    "scheduler": "scheduler", "cfg_scale": "cfg_scale", "eta": "eta", "tiling": "tiling", "enable_hr": "enable_hr",
    "refiner_checkpoint": "refiner", "s_churn": "s_churn", "s_noise": "s_noise", "s_tmin": "s_tmin", "s_tmax": "s_tmax",
}  # fmt: skip
"""Of a request, what a forecast asks for, and under which name."""
OF_MASK = {
    "inpainting_fill": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0, "mask_round": True,
}  # fmt: skip
"""Of an img2img request, and what they are where it doesn't say."""
BODY, CREDENTIALS = Body(...), Depends(HTTPBasic())


def add_routes(demo: Any, app: FastAPI) -> None:
    """The host's callback `on_app_started`: with `--api`, without it and with `--nowebui`. Once for an app."""
    paths = {getattr(route, "path", None) for route in app.routes}
    for path, endpoint, method in (("/settings", get_settings, "GET"), ("/plan", post_plan, "POST")):
        if PREFIX + path not in paths:
            app.add_api_route(
                PREFIX + path, endpoint, methods=[method], dependencies=guards(), tags=["DemoFusion"],
                summary=(endpoint.__doc__ or "").partition("\n")[0],
            )  # fmt: skip


# Who may ask: whoever may ask the host's own API, or, where that is off, who has logged into the page


def guards() -> list[Any]:
    if getattr(shared.cmd_opts, "api_auth", None):
        return [Depends(by_password(shared.cmd_opts.api_auth))]
    if getattr(shared.cmd_opts, "api", False) or getattr(shared.cmd_opts, "nowebui", False):
        return []
    return [Depends(by_login)]


def by_password(pairs: str) -> Callable[..., None]:
    """pairs: `user:password`, comma between them, as the host's `--api-auth` has it."""
    known: dict[str, str] = dict(pair.split(":", 1) for pair in pairs.split(","))  # type: ignore[misc]

    def check(credentials: HTTPBasicCredentials = CREDENTIALS) -> None:
        wanted = known.get(credentials.username)
        given = credentials.password.encode()
        if wanted is None or not secrets.compare_digest(given, wanted.encode()):
            raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})

    return check


def by_login(request: Request) -> None:
    """As gradio's own `login_check`: a token in a cookie, where the page asks for a password at all."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return
    tokens = getattr(app, "tokens", {})
    names = [name for name in request.cookies if name.startswith("access-token")]
    if not any(tokens.get(request.cookies[name]) for name in names):
        raise HTTPException(401, "Not authenticated")


# The settings


def get_settings() -> dict[str, Any]:
    """The settings as a JSON schema, and what the presets set."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "description": "The first of the always-on arguments of this script: an object with any of these names.",
        "version": __version__,
        "type": "object",
        "additionalProperties": False,
        "properties": {setting.name: schema(setting) for setting in SETTINGS},
        "order": [setting.name for setting in SETTINGS],
        "default_preset": DEFAULT,
        "presets": {name: dict(values) for name, values in PRESETS.items()},
    }


def schema(setting: Setting) -> dict[str, Any]:
    """Of one setting. `default` is what it is without a preset."""
    told: dict[str, Any] = {
        "type": TYPES[setting.kind], "title": setting.label, "description": setting.help, "default": setting.default,
        "infotext": setting.key,
    }  # fmt: skip
    if setting.choices:
        told["enum"] = list(setting.choices)
    elif setting.names:
        told["enum"] = [offered(setting)[0], *THERE[setting.name]()]
    if setting.low is not None:
        told |= {"minimum": setting.low, "maximum": setting.high, "step": setting.step}
        if setting.kind is int and setting.step != 1:
            told["multipleOf"] = setting.step
    return told


# The plan


def post_plan(request: dict[str, Any] = BODY) -> dict[str, Any]:
    """What a txt2img or img2img request with the same body would draw and cost; nothing is drawn, loaded or waited for.

    A body with `init_images` is one of img2img. Mistakes are answered with 422, in the words of the run.
    """
    try:
        told = forecast_of(request)
    except SettingsError as error:
        raise refusal(error) from None
    if told.error is not None:
        raise refusal(told.error)
    return told.report()


def forecast_of(body: Mapping[str, Any]) -> Forecast:
    """Raises SettingsError, or HTTPException for a body that the host would refuse too."""
    from .forecast import forecast  # not before somebody asks: the engine comes with it

    tab = IMG2IMG if "init_images" in body else TXT2IMG
    asked, args = read(body, tab)
    values = {name: getattr(asked, field, None) for field, name in FIELDS.items()}
    if tab is IMG2IMG:
        values |= of_img2img(asked)
    override = getattr(asked, "override_settings", None) or {}
    off = not switched_on(args)
    told = forecast(
        [False, 1.0] if off else args,
        sampler=asked.sampler_name or asked.sampler_index,
        wanted_checkpoint=str(override.get("sd_model_checkpoint") or ""),
        **values,
    )
    unread = take_unread()
    if unread:
        told.warnings.append(unread)
    if off and told.nothing:
        told.nothing = "DemoFusion is off: the webui draws its own picture"
    return told


def of_img2img(asked: Any) -> dict[str, Any]:
    """What a forecast asks for of such a request alone. Raises SettingsError."""
    from .seen import Picture, mask_in, size_in

    given = asked.init_images or []
    strength = 0.75 if asked.denoising_strength is None else asked.denoising_strength
    mask = mask_in(asked.mask) if asked.mask else None
    blur = getattr(asked, "mask_blur", None)
    told = {name: getattr(asked, name, default) for name, default in OF_MASK.items()}
    told |= {
        f"mask_blur_{axis}": getattr(asked, f"mask_blur_{axis}", 4) if not isinstance(blur, int) else blur
        for axis in "xy"
    }
    return {
        **told, "enable_hr": False, "batch_size": len(given) if len(given) > 1 else asked.batch_size,
        "picture": Picture(
            [size_in(each) for each in given], asked.resize_mode or 0, denoising_strength=strength, mask=mask
        ),
    }  # fmt: skip


def switched_on(args: Sequence[Any]) -> bool:
    """What is off says nothing, whatever else is wrong with it (`hooks.switched_off`)."""
    from .hooks import switched_off

    return not switched_off(args)


def read(body: Mapping[str, Any], tab: Tab = TXT2IMG) -> tuple[Any, list[Any]]:
    """The host's own request with its defaults, an infotext read into it, and our arguments."""
    from modules.api import models  # with the API switched off it is imported by nobody else
    from pydantic import ValidationError

    kind = models.StableDiffusionTxt2ImgProcessingAPI
    if tab is IMG2IMG:
        kind = models.StableDiffusionImg2ImgProcessingAPI
    try:
        asked = kind(**body)
    except ValidationError as error:
        told = [{**each, "loc": ["body", *each["loc"]]} for each in error.errors()]
        raise HTTPException(422, [{k: each[k] for k in ("loc", "msg", "type")} for each in told]) from None
    return asked, arguments(body.get("alwayson_scripts"), pasted(asked, tab), tab)


def pasted(asked: Any, tab: Tab) -> dict[int, Any]:
    """Fills in what the request's infotext says, as the host does; of the scripts' arguments, by index."""
    if not asked.infotext:
        return {}
    from modules.api.api import Api

    mentioned: dict[int, Any] = {}
    try:
        Api.apply_infotext(None, asked, tab.name, script_runner=runner(tab), mentioned_script_args=mentioned)
    except TypeError:
        # Forge asks whether a value is a `list[str]`, which nothing can be asked; what a request has set it leaves alone
        asked.styles = asked.styles
        Api.apply_infotext(None, asked, tab.name, script_runner=runner(tab), mentioned_script_args=mentioned)
    return mentioned


def runner(tab: Tab) -> Any:
    """The host's, of the tab's scripts."""
    return getattr(scripts, f"scripts_{tab.name}")


def arguments(alwayson: Any, mentioned: Mapping[int, Any], tab: Tab) -> list[Any]:
    """Ours among a request's always-on scripts; what it leaves out is the accordion's, as the host has it."""
    args = accordion_values(mentioned, tab)
    given = next((each for name, each in (alwayson or {}).items() if str(name).lower() == TITLE.lower()), {})
    wanted = given.get("args", []) if isinstance(given, Mapping) else []
    if isinstance(wanted, Mapping):
        wanted = [wanted] if wanted else []
    if not isinstance(wanted, (list, tuple)):
        raise refusal(SettingsError(f"args is {quoted(wanted)}, allowed: a list"))
    return [*wanted[: len(args)], *args[len(wanted) :]]


def accordion_values(mentioned: Mapping[int, Any], tab: Tab) -> list[Any]:
    from .ui import first_preset

    values = list(preset_values(first_preset(tab)).values())
    for script in getattr(runner(tab), "alwayson_scripts", None) or []:
        if script.title() == TITLE:
            values = [mentioned.get(script.args_from + i, value) for i, value in enumerate(values)]
    return values
