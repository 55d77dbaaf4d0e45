"""However a generation ends: what the user gets, and that nothing of ours stays behind in the webui."""

import sys

import numpy as np
import pytest
import torch

SETTINGS = {"scale": 3}  # each evaluation asks for windows, then for sub-images
SIDE = 64
SIZE = {"width": SIDE, "height": SIDE, "steps": 4}


def square(scale):
    return SIDE * scale, SIDE * scale


def calls_before(host, phase, evaluation, call=0, **fields):
    """How many times the model is called before a place in the run: phase 1 is the base image."""
    samplings = host.txt2img({"scale": phase}, **SIZE, **fields).samplings
    earlier = sum(len(sampling.calls) for sampling in samplings[: phase - 1])
    evaluations = samplings[phase - 1].evaluations
    assert call < len(evaluations[evaluation].calls)
    return earlier + sum(len(e.calls) for e in evaluations[:evaluation]) + call


def at_call(number, action):
    def hook(n):
        if n == number:
            action()

    return hook


def from_call(number, action):
    """What lasts: a fault of memory is tried again with fewer windows."""
    return lambda n: action() if n >= number else None


def raise_error(error):
    raise error


def nan_from(number):
    return lambda n, output: output * float("nan") if n >= number else output


WORDS = {"interrupt": "interrupted", "skip": "skipped"}
PLACES = [(2, 0, 0), (2, 2, 1), (3, 0, 0), (3, 1, 1)]


@pytest.mark.parametrize("press", ["interrupt", "skip"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_interrupt_and_skip(host, place, press):
    number = calls_before(host, *place)
    host.model.hooks.on_call = at_call(number, getattr(host.state, press))
    outcome = host.txt2img(SETTINGS, **SIZE)
    complete = place[0] - 1
    assert outcome.sizes == [square(complete)]
    assert outcome.calls == number + 1
    assert f"{WORDS[press]} in phase {place[0]} of 3; this is the image of phase {complete}" in outcome.comments
    assert f"DemoFusion stopped: phase {complete} of 3" in outcome.infotext
    assert len(outcome.latents) == 1
    assert not host.swallowed


@pytest.mark.parametrize("press", ["interrupt", "skip"])
def test_pressed_in_the_last_call_of_a_phase(host, press):
    """That phase is complete."""
    number = calls_before(host, 2, 3)
    host.model.hooks.on_call = at_call(number, getattr(host.state, press))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert (outcome.sizes, outcome.calls) == ([square(2)], number + 1)
    assert f"{WORDS[press]} in phase 3 of 3; this is the image of phase 2" in outcome.comments


@pytest.mark.parametrize("press", ["interrupt", "skip"])
def test_pressed_in_the_last_call_of_all(host, press):
    number = calls_before(host, 3, 3)
    host.model.hooks.on_call = at_call(number, getattr(host.state, press))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert (outcome.sizes, outcome.calls) == ([square(3)], number + 1)
    assert not outcome.comments


@pytest.mark.parametrize(
    "sampler", ["Euler a", "Heun", "DPM++ 2M SDE", "DPM adaptive", "Restart", "DDIM", "PLMS", "UniPC", "LCM"]
)
def test_interrupt_in_every_kind_of_solver(host, sampler):
    host.install(spread=0.0, texture=0.0)  # DPM adaptive needs few steps there
    number = calls_before(host, 2, 1, sampler_name=sampler)
    host.model.hooks.on_call = at_call(number, host.state.interrupt)
    outcome = host.txt2img(SETTINGS, **SIZE, sampler_name=sampler)
    assert (outcome.sizes, outcome.calls) == ([square(1)], number + 1)


def test_the_image_of_an_interrupted_run_is_that_of_a_shorter_one(host):
    number = calls_before(host, 3, 1)
    host.model.hooks.on_call = at_call(number, host.state.interrupt)
    interrupted = host.txt2img(SETTINGS, **SIZE)
    shorter = host.txt2img({"scale": 2}, **SIZE)
    assert np.array_equal(interrupted.images[0], shorter.images[0])


@pytest.mark.parametrize("press", ["interrupt", "skip"])
def test_pressed_in_the_base_image_it_is_the_hosts(host, press):
    """The picture is; that it was stopped is said."""
    host.model.hooks.on_call = at_call(2, getattr(host.state, press))
    with_phases = host.txt2img(SETTINGS, **SIZE)
    alone = host.txt2img(None, **SIZE)
    assert with_phases.calls == 3
    assert np.array_equal(with_phases.images[0], alone.images[0])
    assert with_phases.comments == f"DemoFusion: {WORDS[press]} in phase 1 of 3; the unfinished base image.\n"
    assert f"DemoFusion stopped: phase 0 of 3 - {WORDS[press]}" in with_phases.infotext


@pytest.mark.parametrize("press", ["interrupt", "skip"])
def test_pressed_in_the_last_call_of_the_base_image(host, press):
    """It is finished."""
    host.model.hooks.on_call = at_call(SIZE["steps"] - 1, getattr(host.state, press))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.calls == SIZE["steps"]
    assert np.array_equal(outcome.images[0], host.txt2img(None, **SIZE).images[0])
    assert f"{WORDS[press]} in phase 2 of 3; this is the image of phase 1" in outcome.comments


def test_interrupt_between_two_phases(host):
    """Pressed while a phase is decoded to be kept."""
    host.model.hooks.decoded = lambda image: host.state.interrupt() or image
    outcome = host.txt2img({**SETTINGS, "keep_phases": True}, **SIZE)
    assert outcome.calls == SIZE["steps"]
    assert outcome.sizes[0] == square(1)


def test_skip_goes_on_with_the_next_image(host):
    host.model.hooks.on_call = at_call(calls_before(host, 2, 1), host.state.skip)
    outcome = host.txt2img(SETTINGS, **SIZE, n_iter=2)
    assert outcome.sizes == [square(1), square(3)]
    assert ["DemoFusion stopped" in text for text in outcome.processed.infotexts] == [True, False]


def test_interrupt_leaves_out_the_next_image(host):
    host.model.hooks.on_call = at_call(calls_before(host, 3, 1), host.state.interrupt)
    assert host.txt2img(SETTINGS, **SIZE, n_iter=2).sizes == [square(2)]


FAULTS = {
    "error": RuntimeError("mat1 and mat2 shapes cannot be multiplied\nsecond line"),
    "memory": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "no message": ValueError(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", [(2, 0, 0), (3, 2, 1)], ids=str)
def test_fault_in_the_model(host, place, fault):
    error = FAULTS[fault]
    host.model.hooks.on_call = from_call(calls_before(host, *place), lambda: raise_error(error))
    outcome = host.txt2img(SETTINGS, **SIZE)
    complete = place[0] - 1
    assert outcome.sizes == [square(complete)]
    assert type(error).__name__ in outcome.comments
    assert (str(error).splitlines() or ["no message"])[0] in outcome.comments
    assert f"in phase {place[0]} of 3; this is the image of phase {complete}" in outcome.comments
    assert f"DemoFusion stopped: phase {complete} of 3" in outcome.infotext
    assert [raised for _, raised in host.swallowed] == [error]  # reported in the console, with its traceback


OUT_OF_MEMORY = [
    FAULTS["memory"],
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", [(2, 0, 0), (2, 2, 1), (3, 1, 0)], ids=str)
def test_memory_that_runs_out_once_costs_nothing(host, place, error):
    """The step goes on with half as many windows, and so does the rest of the run, which is told of."""
    undisturbed = host.txt2img(SETTINGS, **SIZE)
    host.model.hooks.on_call = at_call(calls_before(host, *place), lambda: raise_error(error))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(3)] and not host.swallowed
    assert float((outcome.latents[-1] - undisturbed.latents[-1]).abs().max()) < 1e-5
    tried = {(2, 0): 18, (2, 1): 8, (3, 0): 50}[place[0], place[2]]
    assert f"memory ran out with {tried} windows at once, {tried // 2} since" in outcome.comments
    assert "DemoFusion stopped" not in outcome.infotext


def test_what_was_learnt_of_memory_holds_for_the_next_image(host):
    host.model.hooks.on_call = at_call(calls_before(host, 2, 0), lambda: raise_error(FAULTS["memory"]))
    outcome = host.txt2img({"scale": 2}, **SIZE, n_iter=2)
    assert max(len(call.x) for call in outcome.samplings[3].calls) == 9


def test_memory_that_runs_out_in_every_call(host):
    """No batch is small enough: the phase before is delivered."""
    number = calls_before(host, 2, 1)
    host.model.hooks.on_call = from_call(number, lambda: raise_error(FAULTS["memory"]))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(1)] and "OutOfMemoryError" in outcome.comments
    assert outcome.calls == number + 5  # 18, 9, 4, 2 and 1 at once


def nan_in(number, patch):
    """One patch of one call."""

    def hook(n, output):
        if n == number:
            output[patch] = float("nan")
        return output

    return hook


@pytest.mark.parametrize(("place", "patch"), [((2, 0, 0), 0), ((2, 1, 1), 7), ((3, 3, 0), 30)], ids=str)
def test_a_window_of_nan_is_drawn_again_alone(host, place, patch):
    undisturbed = host.txt2img(SETTINGS, **SIZE)
    number = calls_before(host, *place)
    host.model.hooks.output = nan_in(number, patch)
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(3)] and outcome.calls == undisturbed.calls + 1
    assert float((outcome.latents[-1] - undisturbed.latents[-1]).abs().max()) < 1e-5
    assert f"1 window was NaN and drawn again in 32-bit in phase {place[0]}" in outcome.comments


def test_not_a_number(host):
    """The window is named, in pixels."""
    host.model.hooks.output = nan_from(calls_before(host, 3, 3))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(2)]
    assert "NotFiniteError (the model answered NaN or infinity in the window at (0, 0) of 64x64 px" in outcome.comments
    assert outcome.images[0].std() > 0


def test_a_sub_image_that_is_not_a_number(host):
    host.model.hooks.output = lambda n, output: output * float("nan") if n >= 5 else output
    outcome = host.txt2img({"scale": 2}, **SIZE)
    assert outcome.sizes == [square(1)] and "in the dilated sub-image 0, 0" in outcome.comments


def test_no_phase_climbs_from_what_is_not_a_number(host):
    host.model.hooks.output = nan_from(calls_before(host, 2, 3))
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(1)]
    assert len(outcome.phases) == 1
    assert "NotFiniteError" in outcome.comments and "in phase 2 of 3" in outcome.comments


def test_fault_in_the_base_image_reaches_the_user(host):
    host.model.hooks.on_call = at_call(1, lambda: raise_error(FAULTS["error"]))
    outcome = host.run(host.generation(SETTINGS, **SIZE))
    assert outcome.error is FAULTS["error"]


def test_fault_while_prompts_are_encoded(host):
    model = host.install(sdxl=True)
    encode = model.get_learned_conditioning
    model.get_learned_conditioning = (
        lambda batch: encode(batch) if batch.width == SIDE else raise_error(FAULTS["error"])
    )
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(1)]
    assert "RuntimeError" in outcome.comments
    assert (outcome.p.width, outcome.p.height) == square(1)


def larger_than(width, action):
    return lambda image: action(image) if image.shape[-1] > width else image


@pytest.mark.parametrize("complete", [2, 1])
@pytest.mark.parametrize("fault", ["memory", "not a number"])
def test_fault_in_the_vae(host, complete, fault):
    action = (
        (lambda image: image * float("nan"))
        if fault == "not a number"
        else (lambda image: raise_error(FAULTS["memory"]))
    )
    host.model.hooks.decoded = larger_than(SIDE * complete, action)
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [square(complete)]
    name = "NansException" if fault == "not a number" else "OutOfMemoryError"
    assert name in outcome.comments
    assert f"this is the image of phase {complete}." in outcome.comments
    assert f"DemoFusion stopped: phase {complete} of 3" in outcome.infotext


def test_fault_in_the_vae_of_a_kept_phase(host):
    """It ends the run no worse than one in the last phase: what can be decoded is delivered."""
    host.model.hooks.decoded = larger_than(SIDE, lambda image: raise_error(FAULTS["memory"]))
    outcome = host.txt2img({**SETTINGS, "keep_phases": True}, **SIZE)
    assert outcome.sizes[0] == square(1)
    assert "OutOfMemoryError" in outcome.comments


def test_fault_in_the_vae_of_every_phase_reaches_the_user(host):
    host.model.hooks.decoded = lambda image: raise_error(FAULTS["memory"])
    assert host.run(host.generation(SETTINGS, **SIZE)).error is FAULTS["memory"]


# What stays behind


def globals_of_the_host():
    """Every function, class, and member of a class of the host and of the solvers, by identity; every option.

    Left out: `k_diffusion.sampling.torch`, which the host itself sets in every sampling.
    """
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in ("modules", "k_diffusion"):
            continue
        for key, value in vars(module).items():
            if callable(value) and (name, key) != ("k_diffusion.sampling", "torch"):
                found[name, key] = id(value)
            if isinstance(value, type) and value.__module__ == name:
                found.update({(name, key, member): id(v) for member, v in vars(value).items() if callable(v)})
    callbacks = sys.modules["modules.script_callbacks"].callback_map
    found |= {key: [id(getattr(each, "callback", each)) for each in value] for key, value in callbacks.items()}
    return found | sys.modules["modules.shared"].opts.data


def press(what):
    def arrange(hooks, host, number):
        hooks.on_call = at_call(number, getattr(host.state, what))

    return arrange


def break_model(hooks, host, number):
    hooks.on_call = from_call(number, lambda: raise_error(FAULTS["memory"]))


def break_base(hooks, host, number):
    hooks.on_call = at_call(1, lambda: raise_error(FAULTS["error"]))


def break_vae(hooks, host, number):
    hooks.decoded = larger_than(SIDE, lambda image: raise_error(FAULTS["memory"]))


def break_vae_entirely(hooks, host, number):
    hooks.decoded = lambda image: raise_error(FAULTS["memory"])


ENDS = {
    "done": (lambda hooks, host, number: None, 3),
    "interrupt": (press("interrupt"), 2),
    "skip": (press("skip"), 2),
    "fault in the model": (break_model, 2),
    "fault in the VAE": (break_vae, 1),
    "fault in the base image": (break_base, None),
    "fault in the VAE of every phase": (break_vae_entirely, None),
}
"""How each is brought about, given a call of the model within phase 3, and the scale of the image that is left."""


def ended(host, end, **fields):
    arrange, scale = ENDS[end]
    number = calls_before(host, 3, 1, 1, **fields)
    arrange(host.model.hooks, host, number)
    outcome = host.run(host.generation(SETTINGS, **SIZE, **fields))
    host.model.hooks = host.models.Hooks()
    host.errors._reports.clear()
    assert (outcome.error is None) == (scale is not None)
    assert scale is None or outcome.sizes == [square(scale)] * len(outcome.sizes)
    return outcome


@pytest.mark.parametrize(("end", "sdxl"), [*((end, False) for end in ENDS), ("done", True), ("interrupt", True)])
def test_off_is_bit_identical_after(host, end, sdxl):
    host.install(sdxl=sdxl)
    fields = {"sampler_name": "Euler a", "batch_size": 2}
    before = host.txt2img(None, **SIZE, **fields)
    before_globals = globals_of_the_host()
    ended(host, end, **fields)
    assert globals_of_the_host() == before_globals
    after = host.txt2img(None, **SIZE, **fields)
    assert all(np.array_equal(*pair) for pair in zip(before.images, after.images, strict=True))
    assert before.processed.infotexts == after.processed.infotexts
    assert before.comments == after.comments


@pytest.mark.parametrize("end", ENDS)
def test_the_processing_object_is_the_hosts_again(host, end):
    """Everything on it is what a generation without us leaves, but for comments and infotext."""
    host.install(sdxl=True)  # whose prompts are encoded anew for the phases
    p = ended(host, end, sampler_name="DDIM").p
    assert type(p) is host.processing.StableDiffusionProcessingTxt2Img
    alone = host.txt2img(None, **SIZE, sampler_name="DDIM").p
    assert p.__dict__.keys() | {"batch_index"} == alone.__dict__.keys()  # one that was not finished has none
    for name in ("steps", "width", "height", "step_multiplier", "refiner_checkpoint_info", "sampler_name", "seeds"):
        assert getattr(p, name) == getattr(alone, name), name
    assert p.rng.shape == (4, 8, 8)
    assert p.cached_c is host.processing.StableDiffusionProcessing.cached_c
    assert p.cached_uc is host.processing.StableDiffusionProcessing.cached_uc
    assert (p.c, p.uc) == (alone.c, alone.uc)  # out of the same cache
    sampler = p.sampler
    assert type(sampler.model_wrap_cfg.inner_model) is type(alone.sampler.model_wrap_cfg.inner_model)
    assert "forward" not in sampler.model_wrap_cfg.__dict__
    assert "callback_state" not in sampler.__dict__


@pytest.mark.parametrize("settings", [SETTINGS, {"scale": 2, "steps": 6}], ids=str)
@pytest.mark.parametrize("sdxl", [False, True])
def test_cached_conditions_are_the_base_images(host, settings, sdxl):
    host.install(sdxl=sdxl)
    host.txt2img(settings, **SIZE)
    cache = host.processing.StableDiffusionProcessing.cached_c
    encoded = len(host.model.encoded)
    again = host.txt2img(None, **SIZE)
    assert len(host.model.encoded) == encoded  # nothing new to encode
    assert again.p.c is cache[1]


@pytest.mark.parametrize("end", ENDS)
def test_the_same_object_again_without_us(host, end):
    """As the X/Y/Z plot does, which switches a setting on one object or on copies of it."""
    expected = host.txt2img(None, **SIZE, seed=9)
    p = ended(host, end).p
    p.seed = 9
    p.script_args = (p.script_args[0], {"enabled": False}, *p.script_args[2:])
    p.comments.clear()
    after = host.run(p)
    assert np.array_equal(after.images[0], expected.images[0])
    assert after.infotext == expected.infotext


@pytest.mark.parametrize("settings", [None, {"enabled": False, "scale": 4}, {"scale": 1}], ids=str)
def test_off_and_scale_1_are_the_host_alone(host, settings):
    """Not even the class of the processing object is ours while the host samples."""
    kinds = []

    class Looks(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process_before_every_sampling(self, p, *args, **kwargs):
            kinds.append(type(p))

    outcome = host.txt2img(settings, **SIZE, scripts=(Looks(),))
    alone = host.txt2img(None, **SIZE)
    assert kinds == [host.processing.StableDiffusionProcessingTxt2Img]
    assert np.array_equal(outcome.images[0], alone.images[0])
    assert outcome.infotext == alone.infotext
