"""A running webui at WEBUI_URL, its options kept safe, each of LIVE_CHECKPOINTS in turn.

LIVE_CHECKPOINTS: checkpoint names, comma between them; without it tiny-sd1 and tiny-sdxl where the webui has them,
else the one that is loaded. WEBUI_DIR: the webui's folder, to install the toy there. LIVE_FULL=1: every sampler with
every scheduler instead of four of them, and every test with every checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lab.install import NAME, install

from .client import SCRIPT, WebUI, mean_apart

FULL = os.environ.get("LIVE_FULL") == "1"
URL = os.environ.get("WEBUI_URL", "http://127.0.0.1:7861")
SCHEDULED = ("Euler", "Euler a", "DPM++ 2M", "DPM++ SDE")
TINY = ("tiny-sd1", "tiny-sdxl")
OPTIONS = {
    "demofusion_held_mb": 0,  # a test that draws the same twice means it
    "show_progress_type": "Approx cheap",  # the default preview needs a model of its own
    "emphasis": "No norm",  # the default divides by the encoded prompt's mean, which is 0 in an untrained encoder
    "CLIP_stop_at_last_layers": 1, "always_discard_next_to_last_sigma": False, "batch_cond_uncond": True,
    "eta_ancestral": 1.0, "eta_ddim": 0.0, "eta_noise_seed_delta": 0, "pad_cond_uncond": False, "randn_source": "GPU",
    "rho": 0, "s_churn": 0, "s_min_uncond": 0, "s_min_uncond_all": False, "s_noise": 1, "sd_noise_schedule": "Default",
    "sdxl_crop_left": 0, "sdxl_crop_top": 0, "sgm_noise_multiplier": False, "sigma_max": 0, "sigma_min": 0,
    "skip_early_cond": 0, "token_merging_ratio": 0, "uni_pc_lower_order_final": True, "uni_pc_order": 3,
    "uni_pc_skip_type": "time_uniform", "uni_pc_variant": "bh1", "use_old_scheduling": False,
}  # fmt: skip
"""Every option that a test overrides has to be set once: the webui restores none that is still at its default."""


@cache
def host() -> WebUI:
    """Ends the session if there is no webui, or none with the extension: whoever asks for these tests has one."""
    webui = WebUI(URL)
    try:
        listed = webui.ask("scripts", timeout=20)["txt2img"]
    except (OSError, ValueError, AssertionError) as error:
        pytest.exit(f"no webui answers at WEBUI_URL={URL}: {error}. Start one with --api.", returncode=1)
    if SCRIPT.lower() not in (name.lower() for name in listed):
        pytest.exit(f"the webui at {URL} has no script {SCRIPT!r}, only {', '.join(listed)}", returncode=1)
    return webui


@cache
def checkpoints() -> dict[str, str]:
    """The checkpoints to test: names, and the titles that the webui knows them by."""
    models = host().ask("sd-models")
    titles = {model["model_name"]: model["title"] for model in models}
    wanted = [name.strip() for name in os.environ.get("LIVE_CHECKPOINTS", "").split(",") if name.strip()]
    missing = [name for name in wanted if name not in titles]
    if missing:
        pytest.exit(f"LIVE_CHECKPOINTS: {', '.join(missing)} is not among {', '.join(titles)}", returncode=1)
    names = wanted or [name for name in TINY if name in titles]
    if names:
        return {name: titles[name] for name in names}
    loaded = host().options()["sd_model_checkpoint"]
    return {loaded: loaded}


@cache
def toy_title() -> str | None:
    """What the webui calls the toy checkpoint, which is installed if WEBUI_DIR names its folder; None if it has none."""
    if "WEBUI_DIR" in os.environ:
        install(Path(os.environ["WEBUI_DIR"]))
        host().ask("refresh-checkpoints", {})
    return next((model["title"] for model in host().ask("sd-models") if model["model_name"] == NAME), None)


@cache
def sampler_names() -> list[str]:
    return [sampler["name"] for sampler in host().ask("samplers")]


@cache
def scheduler_names() -> list[str]:
    answer = host().request("schedulers")  # before webui 1.9 they were part of samplers' names
    return ["Automatic"] if answer.status == 404 else [scheduler["label"] for scheduler in answer.body]  # type: ignore[union-attr]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "once: what no model family has a part in; with the first checkpoint only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # the session's scope makes pytest run all tests of one checkpoint in a row
    if "checkpoint" in metafunc.fixturenames:
        names = list(checkpoints())
        once = metafunc.definition.get_closest_marker("once") is not None and not FULL
        metafunc.parametrize("checkpoint", names[:1] if once else names, indirect=True, scope="session")
    if "sampler" in metafunc.fixturenames and not has_values(metafunc):
        metafunc.parametrize("sampler", sampler_names())
    if "scheduler" in metafunc.fixturenames:
        metafunc.parametrize("scheduler", scheduler_names())
    if "scheduled_sampler" in metafunc.fixturenames:
        metafunc.parametrize("scheduled_sampler", sampler_names() if FULL else SCHEDULED)


def has_values(metafunc: pytest.Metafunc) -> bool:
    """Whether the test names samplers of its own choice."""
    return any("sampler" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))


@pytest.fixture(scope="session")
def options() -> Iterator[None]:
    """A known start; what the user had comes back at the end."""
    before = host().options()
    there = {name: value for name, value in OPTIONS.items() if name in before or name.startswith("demofusion")}
    if host().is_neo:
        there["show_progress_type"] = "RGB"  # its name for the cheap ones
    host().set_options(**there)
    yield
    # where an extension has loaded the API's models early, those of other extensions aren't listed
    listed = [name for name in ("sd_model_checkpoint", *OPTIONS) if name in before]
    host().set_options(**{name: as_set(before[name]) for name in listed})


def as_set(value: Any) -> Any:
    """The webui lists whole numbers as floats, and stumbles over them if they come back so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest, options: None) -> str:
    host().set_options(sd_model_checkpoint=checkpoints()[request.param])
    return request.param


@pytest.fixture(scope="session")
def webui(checkpoint: str) -> WebUI:
    """The webui, with one of the checkpoints loaded."""
    return host()


@pytest.fixture(scope="session")
def responsive(webui: WebUI) -> bool:
    """Whether the loaded checkpoint draws different pictures for different prompts; an untrained one does not."""
    one, other = (webui.draw(prompt=prompt).picture for prompt in ("a red disc", "blue house"))
    return mean_apart(one, other) > 2


@pytest.fixture
def needs_response(responsive: bool, checkpoint: str) -> None:
    if not responsive:
        pytest.skip(f"{checkpoint} draws the same picture whatever the prompt")
