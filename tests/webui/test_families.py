"""Every sampler family through the adapter, against the same phases drawn by hand from the core."""

import importlib

import pytest
import torch

SOLVERS = {
    "Euler": "sample_euler",
    "Euler a": "sample_euler_ancestral",
    "DPM++ 2M": "sample_dpmpp_2m",
    "Heun": "sample_heun",
    "DDIM": "ddim",
    "PLMS": "plms",
    "UniPC": "unipc",
    "LCM": "sample_lcm",
}
CASES = [(sampler, kind) for sampler in SOLVERS for kind in ("eps", "v") if (sampler, kind) != ("LCM", "v")]


def drawn_by_hand(host, settings, solver=None, **fields):
    """The phases that the core makes of the base that the host draws alone; the last of them."""
    fields = {"steps": 4, "batch_size": 1, "sampler_name": "Euler", "scheduler": "Uniform", **fields}
    base = torch.cat(host.txt2img(None, **fields).latents)
    params = host.params.Params.from_names({"preset": "none", **settings})
    seeds = list(range(5, 5 + fields["batch_size"]))
    texts = [("cat", "dog")] * len(seeds)
    steps = params.steps or fields["steps"]
    draw = importlib.import_module("by_hand").draw
    return draw(host.model, base, params, SOLVERS[fields["sampler_name"]], seeds, texts, steps, **(solver or {}))[-1]


def assert_close(actual, expected, tolerance=1e-5):
    difference = float((actual - expected).abs().max())
    assert difference <= tolerance * float(expected.abs().max()), difference


FIELDS = {"steps": 5, "width": 96, "height": 128, "scheduler": "Uniform", "batch_size": 2}


@pytest.mark.parametrize(("sampler", "parameterization"), CASES)
def test_phases_equal_those_of_the_core(host, sampler, parameterization):
    host.install(parameterization=parameterization)
    outcome = host.txt2img({"scale": 2.5}, sampler_name=sampler, **FIELDS)
    assert outcome.sizes == [(240, 320)] * 2
    solver = {"eta": 1.0} if sampler == "Euler a" else {}
    expected = drawn_by_hand(host, {"scale": 2.5}, solver, sampler_name=sampler, **FIELDS)
    assert_close(torch.cat(outcome.latents), expected)


@pytest.mark.parametrize(
    ("sampler", "solver", "request_fields", "options"),
    [
        ("Euler a", {"eta": 0.5}, {"eta": 0.5}, {}),
        ("Euler a", {"eta": 0.0}, {"eta": 0.0}, {}),
        ("Euler a", {"eta": 0.5}, {}, {"eta_ancestral": 0.5}),
        ("DDIM", {"eta": 0.7}, {}, {"eta_ddim": 0.7}),
        ("Euler", {"s_churn": 2.0}, {}, {"s_churn": 2.0}),
        ("Heun", {"s_churn": 2.0}, {}, {"s_churn": 2.0}),
        ("Euler", {"s_churn": 2.0}, {"s_churn": 2.0}, {}),
    ],
    ids=str,
)
def test_noise_of_the_solvers_own(host, sampler, solver, request_fields, options):
    """As much as the options say, or the request."""
    for name, value in options.items():
        setattr(host.opts, name, value)
    settings = {"scale": 2.5, "a1": 1.0, "step_normalised": False}  # too weak a pull to hide the solver's noise
    fields = {**FIELDS, **request_fields, "sampler_name": sampler}
    outcome = host.txt2img(settings, **fields)
    assert_close(torch.cat(outcome.latents), drawn_by_hand(host, settings, solver, **fields))


@pytest.mark.parametrize(
    "setting",
    [
        {"a1": 0.5}, {"a2": 4.0}, {"a3": 4.0}, {"blur": 3.0}, {"blur": 0.0}, {"overlap": 0.2}, {"jitter": False},
        {"border": "paper"}, {"step_normalised": False}, {"steps": 7}, {"plan": "direct", "scale": 3},
        {"target_height": 320}, {"target_width": 192, "target_height": 256},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_reaches_the_phases(host, setting):
    settings = {"scale": 2, **setting}
    latent = host.txt2img(settings).latents[-1]
    default = host.txt2img({"scale": settings["scale"]}).latents[-1]
    assert latent.shape != default.shape or float((latent - default).abs().max()) > 1e-3
    assert_close(latent, drawn_by_hand(host, settings))


FEW_STEPS = {
    "scale": 2, "start": 601, "residual": "x0", "a1": 1.0, "dilated": False, "window_weight": "sin2", "overlap": 0.25, "steps": 3,
    "guidance": "low-pass", "guidance_until": 300,
}  # fmt: skip


@pytest.mark.parametrize(("sampler", "parameterization"), CASES)
def test_few_steps_from_a_late_start_equal_those_of_the_core(host, sampler, parameterization):
    host.install(parameterization=parameterization)
    fields = {**FIELDS, "sampler_name": sampler}
    outcome = host.txt2img(FEW_STEPS, **fields)
    solver = {"eta": 1.0} if sampler == "Euler a" else {}
    assert_close(torch.cat(outcome.latents), drawn_by_hand(host, FEW_STEPS, solver, **fields))


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
@pytest.mark.parametrize(
    "setting",
    [
        {"start": 700}, {"start": 0}, {"residual": "x0"}, {"residual": "x0", "start": 0}, {"gate": 0.3}, {"window_weight": "sin2"},
        {"window_weight": "gaussian", "overlap": 0.1}, {"guidance": "low-pass"}, {"guidance_until": 400},
        {"guidance": "low-pass", "guidance_until": 400, "scale": 3},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_few_steps_reaches_the_phases(host, setting, sampler):
    settings = {"scale": 2, "a1": 1.0, **setting}
    latent = host.txt2img(settings, sampler_name=sampler).latents[-1]
    default = host.txt2img({"scale": settings["scale"], "a1": 1.0}, sampler_name=sampler).latents[-1]
    assert float((latent - default).abs().max()) > 1e-3
    started = {
        **settings,
        "start": round(host.params.Params.from_names({"preset": "none", **settings}).start_t or 1000),
    }
    assert_close(latent, drawn_by_hand(host, started, sampler_name=sampler))


@pytest.mark.parametrize(("sampler", "first"), [("Euler", 4518.6), ("DDIM", 751)])
def test_zero_terminal_snr(host, sampler, first):
    """There sigma begins at 4500: the phases begin at nothing but noise, as the base does."""
    host.install(parameterization="v")
    host.opts.sd_noise_schedule = "Zero Terminal SNR"
    outcome = host.txt2img({"scale": 2}, sampler_name=sampler, scheduler="Uniform")
    assert float(outcome.phases[0].evaluations[0].sigma[0]) == pytest.approx(first, 1e-3)
    assert_close(outcome.latents[-1], drawn_by_hand(host, {"scale": 2}, sampler_name=sampler), 1e-4)


@pytest.mark.parametrize(
    ("sampler", "parameterization", "levels"),
    [
        ("Euler", "eps", (0.03, 1.0, 14.0)),
        ("Euler", "v", (0.03, 1.0, 14.0)),
        ("LCM", "eps", (0.03, 0.06, 1.0, 14.0)),
        ("DDIM", "eps", (0, 1, 400, 999)),
        ("DDIM", "v", (0, 1, 400, 999)),
    ],
)
def test_what_an_answer_holds_beside_the_networks_output(host, sampler, parameterization, levels):
    """The output being the same, the answer moves with the input by `skip` times as much."""
    model = host.install(parameterization=parameterization)
    model.watch = lambda call: None
    model.hooks.output = lambda number, output: torch.full_like(output, 0.3)
    made = host.sd_samplers.create_sampler(sampler, model)
    family = importlib.import_module("demofusion_lib.webui.families").family_of(made)
    cond = {"c_crossattn": [model.encode("cat")[None]], "c_concat": [torch.zeros(1, 5, 1, 1)]}
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for level in levels:
        at = torch.tensor([level], dtype=torch.float32 if sampler != "DDIM" else torch.long)
        moved, still = (family.base(value, at, cond=cond) for value in (2 * x, x))
        assert_close(moved - still, family.skip(at) * x, 1e-5 * float(1 + 10 * at[0]))


class OneDevice(torch.Tensor):
    """A level that says when it is read, and all that is reckoned with it."""

    reads = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.reads += func in (
            torch.Tensor.cpu,
            torch.Tensor.item,
            torch.Tensor.tolist,
            torch.Tensor.__float__,
            torch.Tensor.__bool__,
        )
        answer = super().__torch_function__(func, types, args, kwargs or {})
        return answer.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else answer


@pytest.mark.parametrize("sampler", ["Euler", "LCM", "DDIM"])
@pytest.mark.parametrize("settings", [{"scale": 2}, {"scale": 2, "preset": "draft"}], ids=str)
def test_two_numbers_are_read_an_evaluation(host, monkeypatch, sampler, settings):
    """A device is waited for whenever a number is read from it."""
    denoiser = importlib.import_module("demofusion_lib.webui.denoiser")
    forward, reads = denoiser.InstalledEngine.forward, []

    def told(self, x, level, *args, **kwargs):
        OneDevice.reads, self.engine.fusion.looks_at_once = 0, False
        answer = forward(self, x, level.as_subclass(OneDevice), *args, **kwargs)
        reads.append(OneDevice.reads)
        return answer.as_subclass(torch.Tensor)

    plain = host.txt2img(settings, sampler_name=sampler).latents[-1]
    monkeypatch.setattr(denoiser.InstalledEngine, "forward", told)
    assert torch.equal(host.txt2img(settings, sampler_name=sampler).latents[-1].as_subclass(torch.Tensor), plain)
    assert reads and set(reads) == {2}  # the level, and whether all answers are finite


@pytest.mark.parametrize("sampler", [name for name in SOLVERS if name != "LCM"])
@pytest.mark.parametrize("settings", [{"scale": 2.5}, {"scale": 3, "preset": "fast"}], ids=["paper", "fast"])
def test_phases_that_begin_from_pixels_equal_those_of_the_core(host, sampler, settings):
    settings = {**settings, "enlarge": "pixels"}
    outcome = host.txt2img(settings, sampler_name=sampler, **FIELDS)
    solver = {"eta": 1.0} if sampler == "Euler a" else {}
    assert importlib.import_module("modules.shared").opts.uni_pc_order == 3
    expected, other = (
        drawn_by_hand(host, {**settings, "enlarge": kind}, solver, sampler_name=sampler, **FIELDS)
        for kind in ("pixels", "latent")
    )
    assert_close(torch.cat(outcome.latents[-FIELDS["batch_size"] :]), expected)
    assert not torch.allclose(expected, other, rtol=0.01)
