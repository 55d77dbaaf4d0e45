"""The laboratory in small: what the method does to pictures of the committed toy, with bounds that a broken part fails.

Each bound lies between what was measured with the engine whole and with one part broken:

- whole: 11 of 12 with one object, 25.61 dB to the base image, seams 1.05; windows alone 0 of 12;
- the residual never applied: 1 of 12, 10.81 dB;
- the global path left out: 10 of 12, 24.98 dB; put back one row too high: 24.72 dB;
- windows put back one row too high: 1 of 12, 17.61 dB; the last window instead of the mean: 25.49 dB;
    without overlap: seams 1.49 (of 6);
- no jitter: 25.54 dB.

Another number of threads or another attention moves these figures by 0.001 dB.
"""

from __future__ import annotations

from statistics import mean

import pytest
import torch

from bench.quality.drawn import Studio, batches
from bench.quality.measures import Measured, measure
from bench.quality.rows import Case, Row
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import load_model

CASE = Case("square", 2)
IMAGES, STEPS = 12, 10


def drawn(images: int = IMAGES, **settings: object) -> list[Measured]:
    keep_freed_memory()
    studio = Studio(load_model("toy", torch.device("cpu"), torch.float32))
    ((_, subjects),) = batches({CASE: 0}, images, images)
    ((_, pictures),) = studio.draw(Row("small", settings, steps=STEPS), [CASE], subjects)
    return [
        measure(final, base, CASE.scale, subject, pictures.lines)
        for subject, final, base in zip(subjects, pictures.finals, pictures.bases)
    ]


@pytest.fixture(scope="module")
def method() -> list[Measured]:
    return drawn()


@pytest.fixture(scope="module")
def windows() -> list[Measured]:
    """Fewer: none of them has one object."""
    return drawn(5, skip_residual=False, dilated=False)


def test_the_method_draws_one_object(method: list[Measured]) -> None:
    assert sum(one.one_object for one in method) >= 10
    assert all(one.right_colour for one in method)


def test_windows_alone_repeat_it(windows: list[Measured]) -> None:
    assert sum(one.one_object for one in windows) <= 1
    assert mean(one.objects for one in windows) > 2


def test_the_picture_is_the_one_before(method: list[Measured]) -> None:
    assert mean(one.psnr_to_base for one in method) > 25.57


def test_there_are_no_seams(method: list[Measured]) -> None:
    seams = [one.seam_ratio for one in method if one.seam_ratio is not None]
    assert len(seams) == IMAGES and mean(seams) < 1.12
