"""What is chosen by free memory, and whether the formula behind it tells what runs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.live_bytes import counted
from demofusion_lib.vae import Memory, Plan, coding, decode, encode, estimated, peak_bytes
from demofusion_lib.vae.memory import free_host_bytes
from demofusion_lib.vae.planning import answer_bytes, plans
from demofusion_lib.vae.reading import read_decoder

from .support import ROOMY, diffusers_vae, noise

WITHIN = 0.15


def near(reckoned: int, measured: int) -> bool:
    return abs(reckoned / measured - 1) <= WITHIN


def measured(run: Any, vae: Any, given: torch.Tensor, **more: Any) -> tuple[Plan, Any]:
    told: list[Plan] = []
    with counted() as counter:
        run(vae, given, told=told.append, **more)
    return told[-1], counter


@pytest.mark.parametrize("tile_lat", [8, 16])
@pytest.mark.parametrize("size", [(48, 40), (20, 90)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_formula_holds_for_decodes(size: tuple[int, int], tile_lat: int, dtype: torch.dtype) -> None:
    vae = diffusers_vae(channels=(32, 64, 64, 64)).to(dtype)
    plan, counter = measured(decode, vae, noise(1, 4, *size), tile_lat=tile_lat, memory=ROOMY)
    assert plan.mode == "exact" and plan.store == "device"
    assert near(plan.store_bytes, counter.store_peak)
    assert near(plan.device_bytes, counter.peak)
    foretold = peak_bytes(vae, *size, tile_lat=tile_lat)
    assert (foretold.device_bytes, foretold.store_bytes) == (plan.device_bytes, plan.store_bytes)


def test_the_formula_holds_for_encodes() -> None:
    plan, counter = measured(
        encode, diffusers_vae(channels=(32, 64, 64, 64)), noise(1, 3, 400, 300), tile_lat=10, memory=ROOMY
    )
    assert near(plan.store_bytes, counter.store_peak) and near(plan.device_bytes, counter.peak)


def test_the_formula_holds_for_files(tmp_path: Path) -> None:
    memory = Memory(0, 0, 1 << 40, str(tmp_path))
    vae = diffusers_vae(channels=(32, 64, 64, 64))
    plan, counter = measured(decode, vae, noise(1, 4, 40, 40), tile_lat=10, memory=memory)
    assert plan.store == "file"
    assert near(plan.store_bytes, counter.store_peak) and near(plan.device_bytes, counter.peak)


@pytest.mark.parametrize(("run", "size"), [(decode, (4, 50, 50)), (encode, (3, 400, 400))], ids=["decode", "encode"])
def test_the_formula_holds_for_estimates(run: Any, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimated, "PATCHES", 24)
    vae = diffusers_vae(channels=(16, 32, 32, 32))
    plan, counter = measured(run, vae, noise(1, *size), tile_lat=16, memory=ROOMY, mode="estimated")
    assert plan.mode == "estimated"
    assert near(plan.device_bytes, counter.peak) and near(plan.store_bytes, counter.store_peak)


def test_device_memory_grows_with_the_tile_alone() -> None:
    vae, peaks = diffusers_vae(channels=(32, 32, 32, 32)), {}
    for side in (24, 48):
        for tile_lat in (10, 20):
            _, counter = measured(decode, vae, noise(1, 4, side, side), tile_lat=tile_lat, memory=ROOMY)
            peaks[side, tile_lat] = counter.peak
    assert peaks[48, 10] < 1.2 * peaks[24, 10]  # a wider band has more halo: 3 % from 2K to 4K at the usual tile
    assert peaks[48, 10] < 0.5 * peaks[48, 20]


def test_the_store_holds_two_planes() -> None:
    """Of SD's decoder: 256 channels of the picture's size, and 128 beside them."""
    vae = diffusers_vae(channels=(16, 32, 64, 64))
    plan = peak_bytes(vae, 32, 32)
    assert plan.store_bytes == (32 + 16) * (32 * 8) ** 2 * 4


def choice(memory: Memory, mode: str = "auto", side: int = 40) -> Plan:
    """The plan that a decode of `side` cells begins with."""
    job = coding._job(read_decoder(diffusers_vae()), (side, side), 8, None)
    return next(plans(job, mode, memory, answer_bytes(job, 1)))


def test_auto_takes_the_first_that_fits(tmp_path: Path) -> None:
    need = peak_bytes(diffusers_vae(), 40, 40, tile_lat=8)
    answer = 3 * 320 * 320 * 4
    enough = 2 * (need.store_bytes + need.device_bytes + answer) + 2  # a half of what is free may be taken
    assert (choice(Memory(0, enough)).mode, choice(Memory(0, enough)).store) == ("exact", "device")
    assert choice(Memory(0, enough - 100, 1 << 40, str(tmp_path))).store == "file"
    little = choice(Memory(0, enough - 100))
    assert (little.mode, little.store) == ("estimated", "device") and little.store_bytes < need.store_bytes
    assert choice(Memory(0, enough - 100, int(need.store_bytes), str(tmp_path))).mode == "estimated"


def test_estimated_leaves_as_little_to_estimates_as_fits() -> None:
    need = peak_bytes(diffusers_vae(), 300, 300, tile_lat=8).store_bytes
    made = [choice(Memory(0, int(2 * need * share) + (64 << 20)), side=300) for share in (0.9, 0.3, 0.1)]
    assert [plan.mode for plan in made] == ["estimated"] * 3
    assert made[0].part[0] > made[1].part[0] > made[2].part[0]
    assert made[0].store_bytes > made[1].store_bytes > made[2].store_bytes


def test_the_plan_is_told_before_the_work() -> None:
    told: list[Any] = []
    decode(
        diffusers_vae(), noise(1, 4, 9, 9), told=told.append, on_tile=lambda *count: told.append(count), memory=ROOMY
    )
    assert isinstance(told[0], Plan) and not any(isinstance(entry, Plan) for entry in told[1:])


def test_estimated_is_told() -> None:
    assert "estimated" in str(choice(ROOMY, "estimated")) and "exact" in str(choice(ROOMY))


def test_memory_that_turns_out_short_is_gone_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demofusion_lib.vae import planes

    def short(*given: Any, **more: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(planes.DevicePlane, "__init__", short)
    vae, told = diffusers_vae(), []
    memory = Memory(1 << 40, 1 << 40, 1 << 40, str(tmp_path))
    decode(vae, noise(1, 4, 12, 12), memory=memory, told=told.append)
    assert [plan.store for plan in told] == ["device", "file"]
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        decode(vae, noise(1, 4, 12, 12), memory=ROOMY)


def test_memory_is_found_out() -> None:
    found = Memory.find(torch.device("cpu"))
    assert found.host == pytest.approx(free_host_bytes(), rel=0.2) and found.host > 1 << 28
    assert found.disk > 0 and found.folder
    assert Memory.find(torch.device("cpu"), folder="").disk == 0
