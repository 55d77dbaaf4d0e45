"""What `bench.host` counts in the running webui: what an evaluation of a phase waits for a device for, and whose the time is."""

import runpy
from pathlib import Path

import pytest

from bench.host import shares, waits_of_ours

INSIDE = Path(__file__).parents[2] / "bench" / "inside.py"
SMALL = {"width": 64, "height": 64, "steps": 4}


@pytest.mark.parametrize("preset", ["paper", "fast", "draft"])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_an_evaluation_waits_for_its_level_and_once_more(host, sampler, preset):
    """The level is read once, and what else is asked of it is asked of the copy; and whether all answers are finite."""
    counted = runpy.run_path(str(INSIDE))["waits_of"]
    found = counted(host.generation({"scale": 2, "preset": preset}, sampler_name=sampler, **SMALL))
    ours = waits_of_ours(found["waits"], found["evaluations"])
    told = sorted(place.split(":")[0].split("/")[-1] + place[place.index(" (") :] for place in ours)
    assert found["evaluations"] >= 2 and not host.swallowed
    assert told == ["denoiser.py (cpu)", "fusion.py (bool)"], ours
    assert sum(ours.values()) == 2, ours


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_vae_between_phases_is_not_the_extensions_time(host, preset):
    timed = runpy.run_path(str(INSIDE))["time_of"]
    seconds = timed(host.generation({"scale": 2, "preset": preset}, sampler_name="Euler", **SMALL), 0.0)["seconds"]
    found = {party: wall for section, party, wall, _ in seconds if section == "phases"}
    assert ("vae" in found) == (preset == "fast") and {"ours: windows", "ours: between samplings"} <= set(found)
    told = shares([["phases", "unet", 1.0, 2.0], *([s, p, w, w] for s, p, w, _ in seconds)], "phases", "wall")
    assert told.ours == pytest.approx(sum(wall for party, wall in found.items() if party.startswith("ours")))
