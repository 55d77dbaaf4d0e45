"""What earlier runs took, as it is kept in the webui's own cache."""

from __future__ import annotations

import json

import pytest

HERE = (64, 64)


@pytest.fixture
def speeds(host):
    import importlib

    module = importlib.import_module("demofusion_lib.webui.speeds")
    host.install()
    return module


def known(speeds, host, size=HERE, vae="auto"):
    return speeds.known(host.shared.sd_model, size, vae)


def learn(speeds, host, size=HERE, vae="auto", **seconds):
    speeds.learn(host.shared.sd_model, size, vae, seconds)


ALL = {"base_row": 0.4, "row": 0.2, "decoded_px": 1e-6, "encoded_px": 5e-7}


def test_nothing_is_claimed_before_the_first_run(speeds, host):
    assert known(speeds, host) is None
    assert speeds.known(None, HERE) is None
    learn(speeds, host, decoded_px=1e-6)
    assert known(speeds, host) is None


def test_what_a_run_took_is_known_to_the_next(speeds, host):
    learn(speeds, host, **ALL)
    assert known(speeds, host) == speeds.Speeds(0.2, 1e-6, 5e-7, 0.4)


def test_one_slow_run_is_left_behind_by_the_next(speeds, host):
    """The first of a process loads the model and warms up."""
    learn(speeds, host, row=9.0)
    learn(speeds, host, row=0.2)
    assert known(speeds, host).row == 0.2
    for seconds in (0.21, 0.19, 50.0, 0.2, 0.0001):
        learn(speeds, host, row=seconds)
    assert known(speeds, host).row == pytest.approx(0.2, rel=0.06)


def test_it_forgets_what_the_machine_was_once(speeds, host):
    for seconds in [0.2] * 20 + [0.1] * 4:
        learn(speeds, host, row=seconds)
    assert known(speeds, host).row == 0.1
    assert all(
        len(values) <= 7 for text in host.cache.cache(speeds.CACHE).values() for values in json.loads(text).values()
    )


def test_what_the_vae_has_not_shown_is_reckoned_from_the_row(speeds, host):
    learn(speeds, host, row=0.2)
    found = known(speeds, host)
    assert found == speeds.default_speeds(0.2, 512 * 512)
    learn(speeds, host, decoded_px=3e-6)
    assert known(speeds, host).decoded_px == 3e-6


def test_a_run_stopped_in_the_base_image_tells_of_phases_too(speeds, host):
    learn(speeds, host, base_row=0.4)
    assert known(speeds, host).row == 0.4


@pytest.mark.parametrize(("size", "row"), [((64, 96), 0.3), ((96, 64), 0.3), ((64, 32), 0.1), ((128, 128), None)])
def test_a_row_of_another_size_is_reckoned_by_its_area(speeds, host, size, row):
    """To twice as much; beyond, attention makes that wrong."""
    learn(speeds, host, row=0.2)
    found = known(speeds, host, size)
    assert (found and found.row) == pytest.approx(row)


def test_the_nearest_size_counts(speeds, host):
    learn(speeds, host, row=0.2)
    learn(speeds, host, size=(64, 96), row=0.5)
    assert known(speeds, host, (64, 100)).row == pytest.approx(0.5 * 100 / 96)


def test_other_models_and_modes_have_times_of_their_own(speeds, host):
    learn(speeds, host, **ALL)
    host.shared.opts.data["cross_attention_optimization"] = "Doggettx"
    assert known(speeds, host) is None
    host.shared.opts.data.pop("cross_attention_optimization")
    assert known(speeds, host, vae="host").decoded_px != 1e-6
    host.devices.dtype_unet = "half"
    assert known(speeds, host) is None


@pytest.mark.parametrize("value", [
    None, 7, b"\x00", "", "{", "[]", '{"row 4096": 3}', '{"row 4096": ["a", null, -1, NaN, Infinity, true]}',
    '{"row x": [1], "row 0": [1], "row": [1], "row 4096": []}',
])  # fmt: skip
def test_what_is_not_ours_is_ignored_and_replaced(speeds, host, value):
    store = host.cache.cache(speeds.CACHE)
    store[speeds.unet_key(host.shared.sd_model)] = store[speeds.vae_key(host.shared.sd_model, "auto")] = value
    assert known(speeds, host) is None
    learn(speeds, host, **ALL)
    assert known(speeds, host).row == 0.2


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), None, "x"])
def test_what_is_no_time_is_not_learnt(speeds, host, seconds):
    learn(speeds, host, row=seconds)
    assert known(speeds, host) is None


def test_a_cache_that_fails_ends_no_run(speeds, host, monkeypatch):
    def broken(name):
        raise OSError("disk full")

    monkeypatch.setattr(host.cache, "cache", broken)
    learn(speeds, host, **ALL)
    assert known(speeds, host) is None
