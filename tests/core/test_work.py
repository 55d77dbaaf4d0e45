"""What a run takes, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demofusion_lib.work import ATTENTION_PX, Speeds, Work, default_speeds, parts_of, vae_px, work_of

from .test_plan import plan


def test_rows_are_the_plans_and_the_result_is_decoded() -> None:
    """64 cells are 512 px; 10 steps, at the last of which the dilated path has no weight."""
    work = work_of(plan(scale=3, steps=10, images=2))
    assert work == Work(2 * 2 * 10, (4 * (10 * 9 + 9 * 4), 4 * (10 * 25 + 9 * 9)), 0, 2 * vae_px(1536, 1536))


def test_pictures_between_phases_are_decoded_and_encoded() -> None:
    """Decoded as they are, encoded at the size of the phase that begins."""
    work = work_of(plan(scale=3, steps=10, enlarge="pixels"))
    assert work.decoded_px == vae_px(512, 512) + vae_px(1024, 1024) + vae_px(1536, 1536)
    assert work.encoded_px == vae_px(1024, 1024) + vae_px(1536, 1536)


def test_kept_phases_are_decoded_once_more() -> None:
    work = work_of(plan(scale=3, steps=10, keep_phases=True))
    assert (work.decoded_px, work.encoded_px) == (vae_px(512, 512) + vae_px(1024, 1024) + vae_px(1536, 1536), 0)


def test_a_crop_is_what_is_climbed_from() -> None:
    work = work_of(plan(target_width=1024, target_height=512, enlarge="pixels"))
    assert work.decoded_px == vae_px(512, 256) + vae_px(1024, 512)


def test_the_parts_come_in_the_order_of_the_run() -> None:
    parts = parts_of(plan(scale=3, steps=10, enlarge="pixels", keep_phases=True))
    assert [(part.kind, part.phase) for part in parts] == [
        ("base_row", 1), ("decoded_px", 1),
        ("decoded_px", 2), ("encoded_px", 2), ("row", 2), ("decoded_px", 2),
        ("decoded_px", 3), ("encoded_px", 3), ("row", 3), ("decoded_px", 3),
    ]  # fmt: skip
    assert parts[3].size_px == parts[4].size_px == (1024, 1024)


def test_attention_grows_with_the_square() -> None:
    assert vae_px(4096, 4096) / 4096**2 == pytest.approx(1 + 4096**2 / ATTENTION_PX)
    assert vae_px(512, 512) / 512**2 < 1.03


def test_seconds() -> None:
    work = Work(10, (100, 200), 4000, 8000)
    assert work.seconds(Speeds(0.1, 0.001, 0.002)) == pytest.approx(1 + 30 + 8 + 8)
    assert work.seconds(Speeds(0.1, 0.001, 0.002, base_row=0.3)) == pytest.approx(3 + 30 + 8 + 8)


def test_by_default_the_vae_is_weighed_by_its_operations() -> None:
    speeds = default_speeds(0.5, 512 * 512)
    assert speeds.decoded_px * 512 * 512 == pytest.approx(0.5 * 3.6)
    assert speeds.encoded_px * 512 * 512 == pytest.approx(0.5 * 1.6)


def test_a_given_picture_is_encoded_and_never_decoded() -> None:
    given = replace(plan(scale=2, steps=10, enlarge="pixels", keep_phases=True), picture_lat=(64, 64), strength=0.5)
    work = work_of(given)
    assert (work.base_rows, work.decoded_px) == (0, vae_px(1024, 1024))
    assert work.encoded_px == vae_px(512, 512) + vae_px(1024, 1024)
    assert work_of(replace(given, strength=0.0)) == Work(0, (), 0, 0)
