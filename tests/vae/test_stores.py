"""Layers in files and in host memory: the same picture, a bounded process, nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from demofusion_lib.vae import Memory, NoRoom, Plan, coding, decode, encode, planes
from demofusion_lib.vae.exact import Exact
from demofusion_lib.vae.lanes import PlainLane
from demofusion_lib.vae.program import Shape
from demofusion_lib.vae.progress import Progress
from demofusion_lib.vae.reading import read_decoder
from demofusion_lib.vae.running import follow
from demofusion_lib.vae.tiles import Tile, cut

from .support import diffusers_vae, ldm_vae, noise, psnr, undivided, undivided_moments

CPU = torch.device("cpu")


def on_disk(folder: Path) -> Memory:
    """No memory is free, but the disk is."""
    return Memory(device=0, host=0, disk=1 << 40, folder=str(folder))


def filed(vae: Any, latent: torch.Tensor, folder: Path, **more: Any) -> torch.Tensor:
    return decode(vae, latent, **{"tile_lat": 8, "memory": on_disk(folder), **more})


@pytest.mark.parametrize("size", [(2, 4, 24, 20), (1, 4, 6, 130)], ids=["bands", "bands cut across"])
@pytest.mark.parametrize("make", [diffusers_vae, ldm_vae], ids=["diffusers", "ldm"])
def test_layers_in_files_give_the_same_picture(make: Any, size: tuple[int, ...], tmp_path: Path) -> None:
    vae, latent, plans = make(), noise(*size), []
    made = filed(vae, latent, tmp_path, told=plans.append)
    assert [(plan.mode, plan.store) for plan in plans] == [("exact", "file")]
    assert psnr(made, undivided(vae, latent)) > 100
    assert not list(tmp_path.iterdir())


def test_an_encode_by_way_of_files(tmp_path: Path) -> None:
    vae, image = diffusers_vae(), noise(1, 3, 130, 210)
    made = encode(vae, image, tile_lat=8, memory=on_disk(tmp_path))
    assert psnr(made, undivided_moments(vae, image)) > 100
    assert not list(tmp_path.iterdir())


def open_files(folder: Path) -> list[str]:
    """Of this process, in a folder, those without a name included."""
    links = (os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number))
    return [link for link in links if link.startswith(str(folder))]


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


class Stop(Exception):
    pass


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("at", [1, 7, 60, 120])
def test_an_interrupt_ends_within_the_tile_and_leaves_no_file(tmp_path: Path, at: int) -> None:
    vae, latent, told, seen = diffusers_vae(), noise(1, 4, 24, 20), [], []

    def on_tile(done: int, total: int) -> None:
        told.append(done)
        seen.append(len(open_files(tmp_path)))
        if done == at:
            raise Stop

    with pytest.raises(Stop) as caught:
        filed(vae, latent, tmp_path, on_tile=on_tile)
    assert told == list(range(1, at + 1))
    assert 1 <= max(seen) <= 3
    assert not open_files(tmp_path) and not list(tmp_path.iterdir())
    del caught  # with it the frames that hold the planes: until here nothing but the store can have closed them


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    program = f"""
import os, signal, torch
from demofusion_lib.vae import Memory, decode
from tests.vae.ldm import AutoencoderKL
def on_tile(done, total):
    if done == 100:
        os.kill(os.getpid(), signal.SIGKILL)
decode(AutoencoderKL(), torch.zeros(1, 4, 24, 20), tile_lat=8, memory=Memory(0, 0, 1 << 40, {str(tmp_path)!r}), on_tile=on_tile)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_full_disk_is_told_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file takes its first 100 kB, then half of a write, then nothing."""
    make = planes.tempfile.TemporaryFile

    class Full:
        def __init__(self, **more: Any):
            self.file, self.left = make(**more), 100_000

        def write(self, values: memoryview) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            wrote = self.file.write(values[: self.left])
            self.left -= wrote
            return wrote

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(planes.tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match="the VAE's layers can't be laid in a file .No space left on device") as caught:
        filed(diffusers_vae(), noise(1, 4, 24, 20), tmp_path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path)
    assert not open_files(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the VAE's layers can't be laid in a file"):
        filed(diffusers_vae(), noise(1, 4, 24, 20), tmp_path / "none")


def test_short_reads_and_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems answer a read or write of gigabytes in part."""
    monkeypatch.setattr(planes, "CHUNK", 1000)
    vae, latent = diffusers_vae(), noise(1, 4, 9, 12)
    assert psnr(filed(vae, latent, tmp_path), undivided(vae, latent)) > 100


def test_no_room_anywhere_is_told_in_one_line() -> None:
    told: list[Any] = []
    with pytest.raises(
        NoRoom, match=r"the VAE's layers take 0\.\d GiB, free are device 0\.0, host 0\.0, disk 0\.0 GiB"
    ):
        decode(diffusers_vae(), noise(1, 4, 64, 64), memory=Memory(0, 0), told=told.append, mode="exact")
    assert told == []


def planes_of_each_kind(tmp_path: Path, shape: Shape) -> list[Any]:
    lane = PlainLane(CPU)
    return [
        planes.DevicePlane(shape, torch.float32, CPU),
        planes.HostPlane(shape, torch.float32, lane),
        planes.FilePlane(shape, torch.float32, lane, str(tmp_path)),
    ]


class LaggingLane(PlainLane):
    """A device's copies at their latest: nothing arrives before it is waited for."""

    lags = True

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    def fetch(self, host: torch.Tensor) -> torch.Tensor:
        return host.clone()

    def send(self, values: torch.Tensor, host: torch.Tensor) -> Any:
        self.under_way.append((values.clone(), host))
        return len(self.under_way)

    def arrived(self, sent: Any) -> None:
        self.settle()

    def settle(self) -> None:
        for values, host in self.under_way:
            host.copy_(values)
        self.under_way.clear()


@pytest.mark.parametrize("kind", ["host", "file"])
@pytest.mark.parametrize("size", [(24, 20), (6, 130)], ids=["bands", "bands cut across"])
def test_copies_that_lag_are_waited_for(
    kind: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No card is needed to see that each sweep reads what the one before it wrote."""
    monkeypatch.setattr(planes, "lane_of", LaggingLane)
    vae, latent = diffusers_vae(), noise(1, 4, *size)
    job = coding._job(read_decoder(vae), size, 8, None)
    answer = torch.empty(3, 8 * size[0], 8 * size[1])
    with torch.no_grad(), planes.opened(kind, CPU, str(tmp_path)) as store:
        plan = Plan("exact", kind, torch.float32, 0, 0)
        run = Exact(store, Progress([(1, 1.0)], 1, None, CPU), job.values, None)
        run.planes["x"] = planes.Given(latent[0], torch.float32, CPU)
        follow(plan, job, run, planes.Answer(answer))
    assert psnr(answer[None], undivided(vae, latent)) > 100


@pytest.mark.parametrize("cells", [1000, 40, 9], ids=["whole", "bands", "cut across"])
def test_a_plane_gives_back_what_was_written(tmp_path: Path, cells: int) -> None:
    shape, whole = Shape(23, 10, 6), noise(23, 10, 6)
    for plane in planes_of_each_kind(tmp_path, shape):
        for tile in cut(23, 10, cells):
            plane.write(tile, whole[tile.top : tile.bottom, tile.left : tile.right].clone())
        plane.flush()
        for tile in (Tile(0, 23, 0, 10), Tile(3, 5, 2, 9), Tile(22, 23, 9, 10)):
            assert torch.equal(plane.read(tile), whole[tile.top : tile.bottom, tile.left : tile.right])
        plane.close()


def test_fewer_channels_are_written_where_more_are_read(tmp_path: Path) -> None:
    """Band by band from the top: no band is written over before it was read."""
    shape, whole = Shape(20, 5, 6), noise(20, 5, 6)
    for plane in planes_of_each_kind(tmp_path, shape):
        plane.write(Tile(0, 20, 0, 5), whole)
        plane.flush()
        fewer = plane.narrowed(2)
        for tile in cut(20, 5, 40):
            assert torch.equal(plane.read(tile), whole[tile.top : tile.bottom])
            fewer.write(tile, whole[tile.top : tile.bottom, :, 1:3] * 2)
        fewer.flush()
        plane.become(2)
        assert torch.equal(plane.read(Tile(0, 20, 0, 5)), whole[..., 1:3] * 2)
        plane.close()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (64, 64), (1000, 3)])
@pytest.mark.parametrize("cells", [1, 50, 777, 10**6])
def test_tiles_cover_each_cell_once_and_keep_to_their_size(size: tuple[int, int], cells: int) -> None:
    height, width = size
    seen = torch.zeros(size, dtype=torch.int)
    tiles = cut(height, width, cells)
    for tile in tiles:
        seen[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert bool((seen == 1).all())
    assert max(tile.cells for tile in tiles) <= max(cells, 2) * 1.2 + 8
