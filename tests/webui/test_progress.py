"""The host's bar and the page's Interrupt, which both read `job_no` and `job_count`."""

import importlib
import itertools
import json
from types import SimpleNamespace

import pytest

SIZE = {"width": 64, "height": 64, "steps": 4}


def host_progress(state):
    """As the host's `progressapi` and `/sdapi/v1/progress` reckon it."""
    progress = state.job_no / state.job_count
    if state.sampling_steps > 0:
        progress += 1 / state.job_count * state.sampling_step / state.sampling_steps
    return min(progress, 1)


def watch(host, settings, **fields):
    """At every model call: the share that the bar shows, and what it says."""
    seen = []

    def look(n):
        seen.append((host_progress(host.state), host.state.textinfo, host.state.job_count, host.state.job_no))

    host.model.hooks.on_call = look
    host.txt2img(settings, **{**SIZE, **fields})
    return seen


def test_job_count_stays_the_number_of_pictures(host):
    """At 1 the page's button stops the run at once; above it, it lets the picture end."""
    assert {count for _, _, count, _ in watch(host, {"scale": 3})} == {1}
    assert {count for _, _, count, _ in watch(host, {"scale": 3}, n_iter=2)} == {2}


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM", "DPM fast"])
@pytest.mark.parametrize("n_iter", [1, 2])
def test_the_bar_only_grows(host, n_iter, sampler):
    shares = [share for share, *_ in watch(host, {"scale": 3, "window_batch": 4}, n_iter=n_iter, sampler_name=sampler)]
    assert all(0 <= a <= b + 1e-9 <= 1 + 1e-9 for a, b in itertools.pairwise(shares))
    assert len(set(shares)) > 20


class Clock:
    """The time, which passes by the rows and pixels that the doubles are given, and by nothing else."""

    def __init__(self, host, monkeypatch, *, row, decoded_px, encoded_px, base_row=None):
        self.host, self.now, self.seen = host, 1000.0, []
        self.base_row, self.row = base_row or row, row
        progress, coder = (
            importlib.import_module(f"demofusion_lib.webui.{name}") for name in ("progress", "enlarging")
        )
        monkeypatch.setattr(progress, "time", lambda: self.now)
        monkeypatch.setattr(host.shared_state, "time", SimpleNamespace(time=lambda: self.now))
        model = host.model
        monkeypatch.setattr(host.witness, "model_called", self.called)
        model.watch = self.called
        model.hooks.decoded = lambda image: self.passes(decoded_px * image.shape[-1] * image.shape[-2], image)
        moments = coder.Coder._host_moments
        monkeypatch.setattr(
            coder.Coder, "_host_moments",
            lambda own, px: self.passes(encoded_px * px.shape[-1] * px.shape[-2], moments(own, px)),
        )  # fmt: skip

    def called(self, call):
        phase_1 = (self.host.state.textinfo or "").startswith("DemoFusion phase 1")
        self.passes((self.base_row if phase_1 else self.row) * len(call.x))

    def passes(self, seconds, result=None):
        """In ten looks at the bar, and a last one when it is over."""
        for _ in range(10):
            self.look()
            self.now += seconds / 10
        return result

    def look(self):
        state = self.host.state
        if state.job_count > 0:
            self.seen.append((self.now - state.time_start, host_progress(state), state.textinfo))

    def judge(self, end=None):
        """The worst that the share is off after a tenth of the time, and the worst that what is left is, over itself."""
        end = end or self.now - self.host.state.time_start
        late = [(passed, share) for passed, share, _ in self.seen if passed >= end / 10]
        assert len(late) > 50
        left = [(passed / share - passed, end - passed) for passed, share in late if end - passed > 0.04 * end]
        return max(abs(share - passed / end) for passed, share in late), max(abs(a - b) / b for a, b in left)


LIKE_SD1 = {"row": 1.0, "decoded_px": 3.6 / 64**2, "encoded_px": 1.6 / 64**2}
"""As it is taken to be before anything is known."""
LIKE_THE_TOY = {"row": 1.0, "base_row": 1.7, "decoded_px": 30 / 64**2, "encoded_px": 14 / 64**2}
"""A VAE that takes as long as the UNet, which gains from many windows at once."""
RUNS = [
    {"scale": 2}, {"scale": 3, "enlarge": "pixels", "keep_phases": True},
    {"scale": 4, "plan": "doubling", "start": 601, "steps": 2, "enlarge": "pixels"},
]  # fmt: skip


@pytest.mark.parametrize("settings", RUNS, ids=str)
def test_the_first_run_of_a_usual_model(host, monkeypatch, settings):
    """By the default weights, from the base image's own speed."""
    clock = Clock(host, monkeypatch, **LIKE_SD1)
    host.txt2img({"window_batch": 4, **settings}, **{**SIZE, "steps": 10})
    share_off, left_off = clock.judge()
    assert share_off < 0.05 and left_off < 0.2


@pytest.mark.parametrize(("settings", "n_iter"), list(zip(RUNS, (2, 1, 2))), ids=str)
def test_the_second_run_of_any_model(host, monkeypatch, settings, n_iter):
    """By what the first one took; which was another one."""
    clock = Clock(host, monkeypatch, **LIKE_THE_TOY)
    host.txt2img({"window_batch": 4, "scale": 2, "enlarge": "pixels"}, **{**SIZE, "steps": 10})
    clock.seen.clear()
    host.txt2img({"window_batch": 4, **settings}, **{**SIZE, "steps": 10}, n_iter=n_iter)
    share_off, left_off = clock.judge()
    assert share_off < 0.05 and left_off < 0.2
    assert all(a <= b + 1e-9 for (_, a, _), (_, b, _) in itertools.pairwise(clock.seen))


def test_a_pixel_of_a_small_picture_takes_less(host, monkeypatch):
    """Half as long, as where a cache holds it: what the base image's decode shows is not what the large one's takes."""
    clock = Clock(host, monkeypatch, **LIKE_THE_TOY)
    fields, each = {**SIZE, "steps": 10}, LIKE_THE_TOY["decoded_px"]

    def decoded(image):
        pixels = image.shape[-1] * image.shape[-2]
        return clock.passes(each * pixels * (0.5 if pixels == 64**2 else 1), image)

    host.model.hooks.decoded = decoded
    for _ in range(2):
        clock.seen.clear()
        host.txt2img({"window_batch": 4, "scale": 2, "enlarge": "pixels", "steps": 3}, **fields)
    share_off, _ = (
        clock.judge()
    )  # the double's VAE shows no tiles: of a last stretch without a sign much is off at its end
    assert share_off < 0.05


def test_a_machine_that_is_busy_today(host, monkeypatch):
    """Half as fast as in all earlier runs: seen in the base image."""
    speeds = importlib.import_module("demofusion_lib.webui.speeds")
    learnt = {"row": 0.5, "base_row": 0.85, "decoded_px": 15 / 64**2, "encoded_px": 7 / 64**2}
    speeds.learn(host.model, (8, 8), "host", learnt)
    clock = Clock(host, monkeypatch, **LIKE_THE_TOY)
    host.txt2img({"window_batch": 4, "scale": 3}, **{**SIZE, "steps": 10})
    share_off, left_off = clock.judge()
    assert share_off < 0.05 and left_off < 0.2


def test_a_picture_of_two_that_is_skipped(host, monkeypatch):
    """What it would still have taken is not waited for: the bar goes on from where it is."""
    clock = Clock(host, monkeypatch, **LIKE_THE_TOY)
    host.txt2img({"window_batch": 4, "scale": 2, "enlarge": "pixels"}, **{**SIZE, "steps": 10})
    clock.seen.clear()
    called = clock.called

    def skip(call):
        called(call)
        if "phase 2 of 3" in host.state.textinfo and "step 2" in host.state.textinfo and not skipped:
            skipped.append(clock.now - host.state.time_start)
            host.state.skip()

    skipped = []
    host.model.watch = skip
    outcome = host.txt2img({"window_batch": 4, "scale": 3}, **{**SIZE, "steps": 10}, n_iter=2)
    assert outcome.sizes == [(64, 64), (192, 192)]
    end = clock.now - host.state.time_start
    after = [(passed, share) for passed, share, _ in clock.seen if passed > skipped[0] + 5]
    assert max(abs(share - passed / end) for passed, share in after) < 0.05
    assert all(a <= b + 1e-9 for (_, a, _), (_, b, _) in itertools.pairwise(clock.seen))


def test_what_a_stopped_run_did_is_learnt_too(host, monkeypatch):
    speeds = importlib.import_module("demofusion_lib.webui.speeds")
    clock = Clock(host, monkeypatch, **LIKE_THE_TOY)
    called = clock.called

    def interrupt(call):
        called(call)
        if "step 5" in host.state.textinfo and "phase 2" in host.state.textinfo:
            host.state.interrupt()

    host.model.watch = interrupt
    host.txt2img({"window_batch": 4, "scale": 2}, **{**SIZE, "steps": 10})
    known = speeds.known(host.model, (8, 8), "host")
    assert known.row == pytest.approx(1.0, rel=0.05) and known.base_row == pytest.approx(1.7, rel=0.05)


def test_it_says_where_it_is(host, monkeypatch):
    clock = Clock(host, monkeypatch, **LIKE_SD1)
    host.txt2img({"scale": 2, "steps": 2, "enlarge": "pixels", "window_batch": 64}, **{**SIZE, "steps": 2}, n_iter=2)
    texts = list(dict.fromkeys(text for *_, text in clock.seen))
    assert texts[: len(texts) // 2] == [
        "DemoFusion phase 1 of 2, picture 1 of 2",
        "DemoFusion phase 1 of 2, step 1 of 2, picture 1 of 2",
        "DemoFusion: enlarging to 128x128, decoding, picture 1 of 2",
        "DemoFusion: enlarging to 128x128, encoding, picture 1 of 2",
        "DemoFusion phase 2 of 2, 128x128, step 1 of 2, picture 1 of 2",
        "DemoFusion phase 2 of 2, 128x128, step 2 of 2, picture 1 of 2",
        "DemoFusion: decoding 128x128, picture 1 of 2",
    ]
    assert [text.replace("picture 2", "picture 1") for text in texts[len(texts) // 2 :]] == texts[: len(texts) // 2]


def test_job_no_is_a_whole_number_for_everybody_else(host):
    numbers = [number for *_, number in watch(host, {"scale": 3}, n_iter=2)]
    assert all(isinstance(number, int) for number in numbers)
    assert json.dumps(sorted(set(numbers))) == "[0, 1]"


@pytest.mark.parametrize("end", ["done", "interrupt", "error"])
def test_nothing_is_left_of_it(host, end):
    def hook(n):
        if n == 5 and end == "interrupt":
            host.state.interrupt()
        if n == 2 and end == "error":
            raise RuntimeError

    host.model.hooks.on_call = hook
    host.run(host.generation({"scale": 2}, **SIZE))
    assert type(host.state.job_no) is int
    assert host.state.textinfo is None


def test_the_consoles_bar_counts_all_steps(host):
    host.txt2img({"scale": 3, "steps": 6}, **SIZE, n_iter=2)
    assert host.shared.total_tqdm._total == host.shared.total_tqdm._done == 2 * (4 + 6 + 6)
