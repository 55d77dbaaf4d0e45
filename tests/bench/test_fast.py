"""Pictures of `fast`: what of it may break without any formula being wrong.

Two of the toy at 2x, and fine texture of the second toy, which comes of guidance alone. Left out or set otherwise, each
part of the preset is beyond one of these bounds: the residual (27.7 dB; held throughout, 27.8), the enlargement (26.2),
the start (26.6 from 999, 29.6 from 300), the window's weights (grain 0.12), guidance (77 % instead of 99).
"""

from __future__ import annotations

from statistics import mean

import torch

from bench.quality.drawn import Studio
from bench.quality.guidance_judge import GuidedRow, Trial
from bench.quality.measures import measure
from bench.quality.rows import Case, Row, Subject
from demofusion_lib.presets import PRESETS
from demofusion_lib.standalone.models import load_model
from demofusion_lib.standalone.toy import TOY

SUBJECTS = [Subject(0), Subject(1)]
PSNR_DB = 28.0, 28.8
GRAIN = 0.095
FINE = 0.95


def test_pictures_of_fast() -> None:
    case, studio = Case("square", 2), Studio(load_model(TOY, torch.device("cpu"), torch.float32))
    ((_, pictures),) = studio.draw(Row("drawn", {"preset": "fast"}), [case], SUBJECTS)
    found = [
        measure(final, base, case.scale, subject, pictures.lines)
        for subject, final, base in zip(SUBJECTS, pictures.finals, pictures.bases)
    ]
    assert all(one.one_object and one.right_colour for one in found)
    assert PSNR_DB[0] < mean(one.psnr_to_base for one in found) < PSNR_DB[1]
    assert mean(one.grain for one in found if one.grain is not None) < GRAIN
    assert len([one.grain for one in found if one.grain is not None]) == len(SUBJECTS)


def test_fine_texture_is_the_prompts() -> None:
    """The second toy has no autoencoder."""
    row = GuidedRow("fast", "its own", {**PRESETS["fast"], "enlarge": "latent"})
    assert mean(Trial(2, 200, 2).drawn(row).right) > FINE
