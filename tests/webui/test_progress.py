"""The host's bar and the page's Interrupt, which both read `job_no` and `job_count`."""

import itertools
import json

import pytest

SIZE = {"width": 64, "height": 64, "steps": 4}
COSTS = {1: 4, 2: 6 * (9 + 4), 3: 6 * (25 + 9)}
"""In windows: the base image's steps, then six steps of the windows and sub-images of each phase."""


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
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(shares))
    assert len(set(shares)) > 20


def test_the_bar_is_in_proportion_to_the_work(host):
    """Within a few points of the windows that were evaluated, at every call of the model, over two pictures."""
    seen = watch(host, {"scale": 3, "steps": 6, "window_batch": 8}, n_iter=2)
    total = sum(COSTS.values())
    per_picture = len(seen) // 2
    for number, (share, text, _, _) in enumerate(seen):
        picture, call = divmod(number, per_picture)
        phase = 1 if text is None else int(text.split()[2])
        first = sum(cost for n, cost in COSTS.items() if n < phase) / total
        last = first + COSTS[phase] / total
        assert (picture + first - 0.01) / 2 <= share <= (picture + last + 0.01) / 2, (number, text)
    begun = [share for share, text, *_ in seen if text and text.startswith("DemoFusion phase 3")]
    assert begun[0] == pytest.approx((COSTS[1] + COSTS[2]) / total / 2, abs=0.01)
    assert begun[len(begun) // 4] < 0.5  # of the first picture


def test_it_says_where_it_is(host):
    texts = [text for _, text, *_ in watch(host, {"scale": 3})]
    assert list(dict.fromkeys(texts)) == [
        "DemoFusion phase 1 of 3",
        "DemoFusion phase 2 of 3, 128x128",
        "DemoFusion phase 3 of 3, 192x192",
    ]


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
