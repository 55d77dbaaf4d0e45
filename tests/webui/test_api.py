"""The routes beside the webui's API, on an app of their own, against what txt2img does with the same body."""

import base64
import importlib
import io
import json
import shlex
import sys
from types import SimpleNamespace

import jsonschema
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from tests.core.test_params import BAD
from tests.reads_api import ADDRESS, blocks

from .test_planning import rows
from .test_settings import in_the_pages_words

SETTINGS, PLAN = "/demofusion/v1/settings", "/demofusion/v1/plan"
BODY = {"width": 128, "height": 128, "steps": 4, "cfg_scale": 3.0, "sampler_name": "Euler"}


def started(host, **flags):
    """As the host starts one app more: at its first start, and at every Reload UI."""
    vars(host.shared.cmd_opts).update(flags)
    app = FastAPI()
    for callback in host.script_callbacks.callback_map["callbacks_app_started"]:
        callback(None, app)
    return app


@pytest.fixture
def client(host):
    host.model  # noqa: B018
    return TestClient(started(host))


def asked(client, args, **body):
    return client.post(PLAN, json={**BODY, "alwayson_scripts": {"DemoFusion Hires": {"args": args}}, **body})


# The settings


def test_the_settings(host, client):
    told = client.get(SETTINGS).json()
    assert list(told["properties"]) == told["order"] == [s.name for s in host.params.SETTINGS]
    assert told["title"] == "DemoFusion Hires" and told["default_preset"] in told["presets"]
    assert told["properties"]["scale"] == {
        "type": "number", "title": "Scale", "description": host.params.BY_NAME["scale"].help, "default": 2.0,
        "infotext": "DemoFusion scale", "minimum": 1, "maximum": 8, "step": 0.05,
    }  # fmt: skip
    assert told["properties"]["phase_sampler"]["enum"] == ["same", *(s.name for s in host.sd_samplers.all_samplers)]
    assert told["properties"]["target_width"]["multipleOf"] == 8
    for name, values in told["presets"].items():
        sets = host.params.preset_values(name)
        assert values == {key: sets[key] for key in values}


def test_the_schema_takes_what_the_settings_take(host, client):
    """A reading of JSON schema that isn't ours."""
    schema = client.get(SETTINGS).json()
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert valid({s.name: s.default for s in host.params.SETTINGS}) and valid({})
    assert all(valid(values) for values in schema["presets"].values())
    texts = ("resume", "phase_prompt", "phase_negative_prompt")
    for name, values in BAD.items():
        for value in values:
            if name not in texts and value == value and abs(value if isinstance(value, (int, float)) else 0) < 10**300:
                assert not valid({name: value}), (name, value)
    assert not valid({"scael": 2})


# The plan


def test_what_txt2img_would_draw(host, client):
    settings = {"enabled": True, "preset": "none", "scale": 3, "vae": "host"}
    told = asked(client, [settings], n_iter=2).json()
    outcome = host.txt2img(settings, n_iter=2)
    drawn = [rows(sampling) for sampling in outcome.samplings]
    assert told["evaluations"] == sum(drawn) and [p["evaluations"] for p in told["phases"]] == drawn[:3]
    assert [(p["width"], p["height"]) for p in told["phases"]] == [(128, 128), (256, 256), (384, 384)]
    assert [p["windows"] for p in told["phases"]] == [1, 9, 25] and [p["sub_images"] for p in told["phases"]] == [
        0,
        4,
        9,
    ]
    assert told["images"] == 2 and told["enabled"] and told["exact"] and told["seconds"] is None
    assert told["memory_bytes"] > 0 and told["line"].startswith("128x128 -> 256x256 -> 384x384 · 3 phases")


def test_nothing_is_drawn(host, client):
    calls = host.model.calls
    before = dict(vars(host.state))
    assert asked(client, [{"enabled": True}]).status_code == 200
    assert host.model.calls == calls and vars(host.state) == before


def test_by_position(host, client):
    """What is left out is the accordion's, which begins with a preset."""
    named = asked(client, [{"enabled": True, "scale": 3}]).json()
    assert asked(client, [True, 3.0]).json() == named
    assert asked(client, [True, 3.0, *[None] * 200]).status_code == 422


@pytest.mark.parametrize("args", [[], [{}], [False, "nonsense"], [{"scael": 1}]], ids=str)
def test_what_is_off_says_nothing(client, args):
    told = asked(client, args).json()
    assert told["enabled"] is False and len(told["phases"]) == 1 and told["nothing"] == told["line"]
    assert "off" in told["nothing"]
    assert client.post(PLAN, json=BODY).json() == told


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 9, "plan": "fast"},
        {"scael": 2},
        {"target_width": 64, "blur": 9},
        {"phase_sampler": "Oiler"},
        {"scale": None},
    ],
    ids=str,
)
def test_mistakes_in_the_words_of_txt2img(host, client, settings):
    answer = asked(client, [{"enabled": True, **settings}])
    error = host.run(host.generation({**settings, "preset": "fine"})).error
    assert answer.status_code == error.status_code == 422
    assert answer.json()["detail"] == error.detail


@pytest.mark.parametrize("args", [None, 5, "text", True], ids=str)
def test_arguments_that_are_no_list(client, args):
    answer = asked(client, args)
    assert answer.status_code == 422 and answer.json()["detail"] == f"DemoFusion: args is {args!r}, allowed: a list"


def test_settings_that_are_not_in_a_list(client):
    assert asked(client, {"enabled": True, "scale": 3}).json() == asked(client, [{"enabled": True, "scale": 3}]).json()


@pytest.mark.parametrize("body", [{"width": "wide"}, {"steps": []}, {"alwayson_scripts": 5}], ids=str)
def test_a_body_that_is_none(client, body):
    answer = client.post(PLAN, json=body)
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", *body]
    assert client.post(PLAN, json=[1]).status_code == 422


@pytest.mark.parametrize(
    "alwayson", [{"DemoFusion Hires": None}, {"DemoFusion Hires": []}, {"other": {"args": 5}}, None]
)
def test_always_on_scripts_of_any_form(client, alwayson):
    assert client.post(PLAN, json={**BODY, "alwayson_scripts": alwayson}).json()["enabled"] is False


# The plan of an img2img request


def encoded(width=64, height=64, kind="PNG", turned=None):
    """A picture in base64, with EXIF's word on how to turn it."""
    image, file = Image.new("RGB", (width, height), "teal"), io.BytesIO()
    exif = Image.Exif()
    if turned is not None:
        exif[0x0112] = turned
    image.save(file, kind, exif=exif)
    return base64.b64encode(file.getvalue()).decode()


def of_picture(client, *pictures, settings=(), **body):
    args = [{"enabled": True, "preset": "none", "vae": "host", **dict(settings)}]
    given = {"init_images": list(pictures), "denoising_strength": 0.5, **body}
    return asked(client, args, **given)


def sizes(answer):
    return [(phase["width"], phase["height"]) for phase in answer.json()["phases"]]


def test_a_picture_of_ones_own(client):
    told = of_picture(client, encoded(512, 384), settings={"scale": 3})
    assert sizes(told) == [(512, 384), (1024, 768), (1536, 1152)] and told.json()["phases"][0]["evaluations"] == 0
    assert told.json()["line"].startswith("512x384 -> 1024x768 -> 1536x1152 · 3 phases · ")
    assert told.json()["evaluations"] > 0 and told.json()["warnings"] == []
    assert sizes(of_picture(client, "data:image/png;base64," + encoded(512, 512))) == [(512, 512), (1024, 1024)]
    by_tab = of_picture(client, encoded(64, 64), settings={"scale": 1}, width=512, height=512)
    assert sizes(by_tab)[-1] == (512, 512)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_as_its_exif_turns_it(client, kind, turned):
    first = sizes(of_picture(client, encoded(512, 384, kind, turned)))[0]
    assert first == ((384, 512) if turned > 4 else (512, 384))


def test_the_strength_and_the_resize_mode(client):
    less, more = (of_picture(client, encoded(512, 512), denoising_strength=s).json() for s in (0.0, 1.0))
    assert less["evaluations"] == 0 < more["evaluations"] and "strength is 0" in less["warnings"][0]
    target = {"target_width": 1024, "target_height": 1024}
    cropped = of_picture(client, encoded(768, 512), settings=target, resize_mode=1).json()
    assert "cropped from 768x512 to 512x512 px" in cropped["warnings"][0]
    assert of_picture(client, encoded(), denoising_strength=None).status_code == 200
    over = of_picture(client, encoded(), denoising_strength=2)
    assert over.status_code == 422 and over.json()["detail"] == "DemoFusion: denoising_strength is 2.0, allowed: 0 to 1"


def test_several_pictures_are_a_batch(client):
    told = of_picture(client, encoded(512, 512), encoded(512, 512), batch_size=4).json()
    assert told["images"] == 2
    assert told["evaluations"] == 2 * of_picture(client, encoded(512, 512)).json()["evaluations"]


@pytest.mark.parametrize(
    "picture", [None, 5, "", "no base64", "data:image/png;base64,", encoded()[:-80], encoded(kind="JPEG")[:60]], ids=str
)
def test_what_is_no_picture(client, picture):
    answer = of_picture(client, picture)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detail.startswith("DemoFusion: init_images holds ") and "\n" not in detail and len(detail) < 200
    assert detail.endswith("allowed: pictures in base64")


def masked(box=None, width=512, height=512):
    image, file = Image.new("L", (width, height)), io.BytesIO()
    if box:
        image.paste(255, box)
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_behind_a_mask(client):
    """Of a whole picture, and of the area that is masked alone."""
    fields = {"inpainting_fill": 1, "mask_blur_x": 0, "mask_blur_y": 0}
    mask = masked((128, 128, 384, 384))
    whole = of_picture(client, encoded(512, 512), mask=mask, inpaint_full_res=False, **fields)
    assert sizes(whole) == [(512, 512), (1024, 1024)] and whole.json()["phases"][0]["evaluations"] > 0
    area = of_picture(client, encoded(1024, 1024), mask=masked((256, 256, 768, 768), 1024, 1024), **fields)
    assert sizes(area) == [(512, 512), (1024, 1024)] and area.json()["warnings"] == [
        "the result is 2048x2048 px", "of the picture the 512x512 px around the mask are drawn"
    ]  # fmt: skip
    small = of_picture(client, encoded(64, 64), mask=masked((0, 0, 32, 32), 64, 64), inpaint_full_res=False, **fields)
    assert sizes(small) == [(128, 128)] and " · 1 phase · " in small.json()["line"]
    assert small.json()["warnings"] == ["the picture is below the model's size and is drawn at 128x128 px first"]
    noise = of_picture(client, encoded(512, 512), mask=mask, inpainting_fill=2)
    assert noise.status_code == 422 and "masked content is 'latent noise'" in noise.json()["detail"]
    answer = of_picture(client, encoded(512, 512), mask="no mask")
    assert answer.status_code == 422 and "mask holds 'no mask', which is no whole picture" in answer.json()["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "https://example.org/a.png"])
def test_no_address_is_asked_for_a_picture(client, url):
    answer = of_picture(client, url)
    assert answer.status_code == 422 and "which is not fetched here" in answer.json()["detail"]


@pytest.mark.parametrize("pictures", [None, []], ids=str)
def test_before_there_is_a_picture(client, pictures):
    told = asked(client, [{"enabled": True}], init_images=pictures).json()
    assert told["nothing"] == told["line"] == "no picture yet" and told["evaluations"] is None


def test_the_values_that_are_left_out_are_the_tabs_own(host, client, tmp_path, monkeypatch):
    """The page of a version without presets was kept for img2img alone."""
    kept = {"customscript/demofusion.py/img2img/Scale/value": 2.0}
    file = tmp_path / "ui-config.json"
    file.write_text(json.dumps(kept))
    monkeypatch.setattr(host.shared.cmd_opts, "ui_config_file", str(file), raising=False)
    every = asked(client, [True, 4.0], init_images=[encoded(512, 512)])
    assert len(sizes(every)) == 4
    assert len(sizes(asked(client, [True, 4.0]))) == 3  # the default preset's doublings


def test_a_checkpoint_that_the_request_names(host, client):
    from .test_forecast import info

    host.sd_models.checkpoint_aliases["sd_xl"] = info("sd_xl")
    told = asked(client, [{"enabled": True}], override_settings={"sd_model_checkpoint": "sd_xl"}).json()
    assert (told["family"], told["checkpoint"]) == ("SDXL", "sd_xl")


# Where and for whom


def test_what_a_picture_needs_is_loaded_with_the_first_one(host):
    """And not while the webui starts."""
    late = {f"demofusion_lib.webui.{name}" for name in ("climbing", "decoding", "resuming", "sampling", "needed")}
    started(host)
    for callback in host.script_callbacks.callback_map["callbacks_ui_settings"]:
        callback()
    assert not late & set(sys.modules)
    host.txt2img({"scale": 2})
    assert "demofusion_lib.webui.climbing" in sys.modules


def test_once_for_an_app(host):
    app = started(host)
    for callback in host.script_callbacks.callback_map["callbacks_app_started"]:
        callback(None, app)
    paths = [getattr(route, "path", "") for route in app.routes]
    assert paths.count(SETTINGS) == paths.count(PLAN) == 1


def test_the_hosts_password(host):
    client = TestClient(started(host, api_auth="anna:a:b,otto:c"))
    for credentials, status in (
        (None, 401),
        (("anna", "c"), 401),
        (("eve", ""), 401),
        (("anna", "a:b"), 200),
        (("otto", "c"), 200),
    ):
        answer = client.get(SETTINGS, auth=credentials)
        assert answer.status_code == status
        assert (answer.headers.get("www-authenticate", "").startswith("Basic")) == (status == 401)
    assert client.post(PLAN, json=BODY).status_code == 401


def test_the_pages_login_where_the_api_is_off(host):
    app = started(host, api=False, api_auth=None)
    client = TestClient(app)
    assert client.get(SETTINGS).status_code == 200
    app.auth, app.tokens = {"anna": "x"}, {"token": "anna"}
    assert client.get(SETTINGS).status_code == 401
    assert client.get(SETTINGS, cookies={"access-token": "token"}).status_code == 200
    client.cookies.clear()
    assert client.get(SETTINGS, cookies={"access-token": "other"}).status_code == 401


# The Settings page


def options(host):
    for callback in host.script_callbacks.callback_map["callbacks_ui_settings"]:
        callback()
    return importlib.import_module("demofusion_lib.webui.options")


def test_the_section(host):
    host.opts.data.pop("demofusion_held_mb")  # the fixture's
    ours = options(host)
    for option in ours.OPTIONS:
        made = host.opts.data_labels[option.name]
        assert (
            made.section == ("demofusion", "DemoFusion")
            and made.label
            and made.default == option.default == option.value
        )
        assert made.component_args.get("maximum", 0) == option.most
    assert {o.name for o in ours.OPTIONS if host.opts.data_labels[o.name].restrict_api} == {
        "demofusion_saved_dir", "demofusion_max_side"
    }  # fmt: skip


@pytest.mark.parametrize("value", [None, "", "x", -1, float("nan"), float("inf"), True, []], ids=str)
def test_an_option_of_any_value(host, value):
    """A `config.json` that somebody has written."""
    ours = options(host)
    host.opts.data["demofusion_max_side"] = host.opts.data["demofusion_native_sd1"] = value
    assert (ours.MAX_SIDE.value, ours.NATIVE_SD1.value) == (0, 512)
    host.opts.data["demofusion_saved_dir"] = value
    assert ours.SAVED_DIR.value == (value if isinstance(value, str) else "")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scale": 4}, "scale is 4, allowed: a result of up to 320 px a side here, and this would be 512x512 px (the nearest is 2.5)"),
        ({"target_width": 512}, "target_width is 512, allowed: a result of up to 320 px a side here"),
        ({"target_width": 512, "target_height": 384}, "px (the nearest is 320); target_height is 384"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("page", [False, True])
def test_a_side_above_the_cap(host, client, settings, told, page):
    host.opts.data["demofusion_max_side"] = 320
    outcome = host.run(host.generation(settings), page=page)
    assert outcome.calls == 0 and (in_the_pages_words(told) in outcome.comments if page else told in str(outcome.error))
    answer = asked(client, [{"enabled": True, **settings}])
    assert answer.status_code == 422 and told in answer.json()["detail"]
    assert host.txt2img({"scale": 2.5}).sizes == [(320, 320)]
    assert host.txt2img({"scale": 1}, width=512, height=512).sizes == [(512, 512)]  # the host's own business


def test_the_other_side_of_a_target(host, client):
    host.opts.data["demofusion_max_side"] = 320
    answer = asked(client, [{"enabled": True, "target_width": 256}], width=64)
    assert answer.json()["detail"].startswith("DemoFusion: target_width is 256, allowed: a result of up to 320 px")


def test_the_folder_of_saved_phases(host, monkeypatch, tmp_path):
    from .test_endings import at_call, calls_before

    monkeypatch.chdir(tmp_path)
    place = tmp_path / "phases"
    host.opts.data["demofusion_saved_dir"] = str(place)
    fields = {"width": 64, "height": 64, "steps": 4}
    number = calls_before(host, 2, 1)
    host.model.hooks.on_call = at_call(number, host.state.interrupt)
    host.txt2img({"scale": 3, "save_phases": True}, **fields)
    (file,) = place.glob("*.safetensors")
    host.model.hooks.on_call = lambda n: None
    resumed = host.txt2img({"scale": 3, "save_phases": True, "resume": file.name}, **fields)
    assert resumed.sizes == [(192, 192)] and len(resumed.samplings) == 2
    assert place.is_dir() and not list(place.iterdir())  # the user's own folder stays
    told = str(host.run(host.generation({"scale": 3, "resume": "last"}, **fields)).error)
    assert "in the folder of saved phases" in told and str(tmp_path) not in told


def test_who_ever_asks_for_nothing_is_not_warned(host, client):
    options(host)
    body = {"width": 64, "height": 64}
    assert "far from" in asked(client, [{"enabled": True}], **body).json()["warnings"][0]
    host.opts.data["demofusion_native_sd1"] = 0
    assert asked(client, [{"enabled": True}], **body).json()["warnings"] == []


# docs/api.md


class Routed:
    """`requests`, on the app: txt2img's own examples are run in a webui (tests/live)."""

    def __init__(self, client):
        self.client = client

    def post(self, url, json):
        return self.client.post(url.removeprefix(ADDRESS), json=json)

    def get(self, url):
        return self.client.get(url.removeprefix(ADDRESS))


def test_the_pages_examples_of_the_routes(client):
    """In Python, and curl's as its words say."""
    for block in blocks("python"):
        if "/demofusion/" in block:
            exec(block, {"requests": Routed(client), "webui": ADDRESS})
    for command in blocks("sh"):
        words = shlex.split(command)
        url = next(word for word in words if word.startswith(ADDRESS)).removeprefix(ADDRESS)
        body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        if url.startswith("/demofusion/"):
            answer = client.post(url, json=body) if body else client.get(url)
            assert answer.status_code == 200, url
        if url == PLAN:
            (example,) = map(json.loads, blocks("json"))
            told = answer.json()
            assert list(told) == list(example)
            same = ("phases", "evaluations", "times_base", "images", "exact", "family")
            assert {key: told[key] for key in same} == {key: example[key] for key in same}
            assert told["line"].rpartition(" · ")[0] == example["line"].rpartition(" · ")[0]


def test_an_infotext_where_the_webui_fails_at_fields_that_are_lists(client, monkeypatch):
    """As Forge does, unless the request has set them."""
    models = importlib.import_module("modules.api.models")

    class Asked(models.StableDiffusionTxt2ImgProcessingAPI):
        styles: list[str] | None = None

    class Api:
        def apply_infotext(self, asked, tabname, *, script_runner=None, mentioned_script_args=None):
            asked.width = 192
            if "styles" not in asked.dict(exclude_unset=True):
                isinstance([], list[str])
            asked.steps = 3

    monkeypatch.setattr(models, "StableDiffusionTxt2ImgProcessingAPI", Asked)
    monkeypatch.setitem(sys.modules, "modules.api.api", SimpleNamespace(Api=Api))
    fields = {**BODY, "alwayson_scripts": {"DemoFusion Hires": {"args": [{"enabled": True, "scale": 2}]}}}
    told = client.post(PLAN, json={**fields, "infotext": "read"}).json()
    assert told == client.post(PLAN, json={**fields, "width": 192, "steps": 3}).json()
