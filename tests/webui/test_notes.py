"""What is told on the page as comments reaches the API, too: in the infotext, as one key."""

import base64
import importlib
import io

import pytest
from PIL import Image

SIZE = {"width": 64, "height": 64, "steps": 4}
KEY = "DemoFusion note"


def note(host, text):
    return host.infotext_utils.parse_generation_parameters(text).get(KEY)


def noted(host, settings, **fields):
    outcome = host.txt2img(settings, **{**SIZE, **fields})
    found = note(host, outcome.infotext)
    for line in outcome.comments.splitlines():
        assert line.removeprefix("DemoFusion: ").removesuffix(".") in found
    return found


def test_a_run_that_nothing_has_to_be_told_of(host):
    assert note(host, host.txt2img({"scale": 2}, **SIZE).infotext) is None
    assert note(host, host.txt2img({"scale": 1}, **SIZE).infotext) is None
    assert note(host, host.txt2img(None, **SIZE).infotext) is None


def test_hires_fix(host):
    assert noted(host, {"scale": 2}, enable_hr=True) == "takes the place of Hires. fix, which is left out"


def test_a_refiner(host):
    for name in ("base", "refiner"):
        host.install(f"{name}.safetensors")
    text = noted(host, {"scale": 2}, refiner_checkpoint="refiner", refiner_switch_at=0.5)
    assert text == "the refiner draws in the base image only; the phases run on the base model"


def test_a_crop(host):
    text = noted(host, {"target_width": 256, "target_height": 128}, width=128, height=128)
    assert text == "the base image is cropped from 128x128 px to 128x64 px, the target's shape"


def test_a_base_image_between_two_sizes(host):
    """The host draws 1344 px where 1351 are asked for; here a smaller one."""
    text = noted(host, {"scale": 2}, width=71)
    assert text == "the webui draws 64x64 px for a base image of 71x64 px"


def test_a_scale_between_two_sizes(host):
    assert noted(host, {"scale": 1.4}) == "scale 1.4 of 64x64 px gives 88x88 px, the nearest size in steps of 8 px"
    assert noted(host, {"scale": 1.5}) is None


def test_a_scale_too_near_1(host):
    outcome = host.txt2img({"scale": 1.05}, **SIZE)
    assert outcome.sizes == [(64, 64)]
    text = note(host, outcome.infotext)
    assert text in outcome.comments
    assert "scale 1.05 of 64x64 px is 64x64 px again" in text and "72x72 px, at scale 1.1" in text
    assert host.txt2img({"scale": 1.1}, **SIZE).sizes == [(72, 72)]
    assert "DemoFusion enabled" not in outcome.infotext


def test_a_target_of_the_bases_own_size(host):
    outcome = host.txt2img({"target_width": 64}, **SIZE)
    assert note(host, outcome.infotext) == "the target is the base image's own size: nothing was enlarged"


def test_the_vaes_mode(host):
    host.opts.sd_vae_decode_method = "TAESD"
    assert "decoded by TAESD" in noted(host, {"scale": 2})


def test_a_stop_is_told_of_its_own_batch(host):
    host.model.hooks.on_call = lambda n: host.state.skip() if n == 5 else None
    first, second = host.txt2img({"scale": 1.4}, **SIZE, n_iter=2).processed.infotexts
    assert "image 1 of 2: skipped in phase 2 of 2; this is the image of phase 1" in note(host, first)
    assert "DemoFusion stopped: phase 1 of 2 - skipped" in first
    assert "scale 1.4" in note(host, first)
    assert note(host, second).startswith("scale 1.4") and "skipped" not in note(host, second)


def test_a_stop_names_the_images_of_its_batch(host):
    host.model.hooks.on_call = lambda n: host.state.interrupt() if n == 5 else None
    outcome = host.txt2img({"scale": 2}, **SIZE, n_iter=2, batch_size=2)
    assert "images 1 to 2 of 4: interrupted in phase 2 of 2" in note(host, outcome.processed.infotexts[0])


def test_a_fault(host):
    host.model.hooks.output = lambda n, output: output * float("nan") if n > 4 else output
    text = noted(host, {"scale": 2})
    assert text.startswith("NotFiniteError (") and "in phase 2 of 2; this is the image of phase 1" in text


def test_several(host):
    text = noted(host, {"scale": 1.4}, enable_hr=True)
    assert text.startswith("takes the place of Hires. fix, which is left out; scale 1.4")


def test_the_next_run_begins_without(host):
    p = host.generation({"scale": 2}, **SIZE, enable_hr=True)
    host.run(p)
    assert note(host, host.run(p).infotext) is None


def test_pasting_leaves_the_note_alone(host):
    text = host.txt2img({"scale": 3, "plan": "direct"}, **SIZE, enable_hr=True).infotext
    pasted = host.params.Params.from_infotext(host.infotext_utils.parse_generation_parameters(text))
    assert (pasted.scale, pasted.plan) == (3, "direct")


# Formats that can't hold the picture


def encoded(host, image):
    """As the host's API encodes an answer."""
    data = io.BytesIO()
    name = {"jpg": "JPEG"}.get(host.opts.samples_format, host.opts.samples_format.upper())
    image.save(data, format=name, quality=80)
    return Image.open(io.BytesIO(base64.b64decode(base64.b64encode(data.getvalue()))))


@pytest.fixture
def limits(host, monkeypatch):
    """Smaller ones, so that small pictures are too large."""
    formats = vars(importlib.import_module("demofusion_lib.webui.formats"))
    monkeypatch.setitem(formats["LIMITS_PX"], "webp", 127)
    monkeypatch.setitem(formats["LIMITS_PX"], "jpg", 127)
    monkeypatch.setitem(formats["LIMITS_PX"], "jpeg", 127)


@pytest.mark.filterwarnings("ignore")
def test_the_limits_are_the_formats_own():
    for name, limit in (("WEBP", 16383), ("JPEG", 65500)):
        line = Image.new("RGB", (limit, 1))
        line.save(io.BytesIO(), format=name)
        with pytest.raises((OSError, ValueError)):  # Pillow names it an encoder error
            Image.new("RGB", (limit + 1, 1)).save(io.BytesIO(), format=name)


@pytest.mark.parametrize("name", ["webp", "jpg"])
def test_a_picture_larger_than_its_format(host, limits, name):
    host.opts.samples_format = name
    outcome = host.txt2img({"scale": 2, "keep_phases": True}, **SIZE)
    large, small = (encoded(host, image) for image in outcome.processed.images)
    assert (large.format, large.size) == ("PNG", (128, 128))
    assert large.info["parameters"] == outcome.infotext
    assert (small.format, small.size) == ({"webp": "WEBP", "jpg": "JPEG"}[name], (64, 64))
    assert f"{name} holds 127 px a side at most: this picture of 128x128 px is a PNG" in note(host, outcome.infotext)


def test_a_picture_that_its_format_holds(host, limits):
    for name in ("png", "webp"):
        host.opts.samples_format = name
        (image,) = host.txt2img({"scale": 1.5}, **SIZE).processed.images
        assert encoded(host, image).format == name.upper()
        assert type(image) is Image.Image
