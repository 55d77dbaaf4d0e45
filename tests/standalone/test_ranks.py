"""Several processes draw one picture: bit for bit what one draws, each its share of the windows."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from demofusion_lib import DemoFusionPipeline, vae
from demofusion_lib.core import Call
from demofusion_lib.core.sharing import assigned, balanced_size, split
from demofusion_lib.params import Params
from demofusion_lib.ranks import Ranks
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.guidance import Guided
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS
from demofusion_lib.standalone.ranks import of_program
from demofusion_lib.vae import exact

from .forks import FORKS, forked

pytestmark = FORKS


def order(
    sampler: str = "Euler", images: int = 1, steps: int = 2, size: tuple[int, int] = (64, 64), **settings: object
) -> Order:
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 2, "window_batch": 3, **settings})
    return Order(["a red disc"] * images, [7, 8][:images], *size, params, steps=steps, sampler=sampler)


ORDERS = {
    **{f"sd {sampler}": order(sampler, scale=1.5) for sampler in SAMPLERS if sampler != "DPM adaptive"},
    "sd DPM adaptive": order("DPM adaptive", scale=1.5, window_batch=16),  # it takes its time
    "sd low-pass, x0, sin2": order(guidance="low-pass", residual="x0", window_weight="sin2", window_batch=1),
    "sd two portraits by pixels": order(images=2, size=(64, 96), enlarge="pixels"),
    "sdxl Euler a": order("Euler a", images=2, window_batch=5),
    "sdxl DDIM": order("DDIM"),
    "sdxl UniPC": order("UniPC", jitter=False),
    "sdxl DPM++ SDE": order("DPM++ SDE", window_batch=1),
}
FEW = ("sd Euler", "sd UniPC", "sd low-pass, x0, sin2", "sdxl DDIM")


def digest(latent: torch.Tensor) -> str:
    return hashlib.blake2b(latent.contiguous().numpy().tobytes()).hexdigest()


def drawn(model: Model, wanted: Order, ranks: Ranks | None) -> list[tuple[str, int]]:
    """Each phase's latent, and its rows."""
    drawing = Drawing(model, wanted, ranks=ranks)
    return [(digest(phase.latent), phase.evaluations) for phase in drawing.phases()]


def coded(model: Model, ranks: Ranks | None) -> dict[str, Any]:
    """A picture of two and its latents, by tiles so small that some ranks have none of a layer, and of a slower rank."""
    generator = torch.Generator().manual_seed(3)
    found, swept, own = {}, exact.swept, list[int]()
    exact.swept = lambda *given: (own.append(1), swept(*given))[1]  # this is a fork
    if ranks is not None:
        ranks.seconds = [1.0, 2.0, 1.5][: ranks.ranks]
    for name, code, given in (
        ("decode", vae.decode, torch.randn(2, 4, 21, 13, generator=generator)),
        ("wide", vae.decode, torch.randn(1, 4, 8, 40, generator=generator)),
        ("encode", vae.encode, torch.randn(1, 3, 104, 64, generator=generator)),
    ):
        told: list[tuple[int, int]] = []
        made = code(
            model.vae, given, mode="exact", tile_lat=8, sharing=ranks, on_tile=lambda *at, told=told: told.append(at)
        )
        found[name] = digest(made), told[-1]
        assert told[-1] == (len(told), len(told))
    count = len(own)
    if ranks is not None:
        every = ranks.lists(torch.tensor([[float(len(own))]], dtype=torch.float64))
        assert every.min() > 0
        count = int(every.sum())
    given = torch.randn(1, 4, 9, 9, generator=generator)
    estimated = vae.decode(model.vae, given, mode="estimated", tile_lat=8, sharing=ranks)
    return {**found, "estimated": digest(estimated), "swept": count}


def all_drawn(models: dict[str, Model], ranks: Ranks | None, names: Sequence[str] = tuple(ORDERS)) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        before = list(ranks.rows) if ranks else []
        phases = drawn(models[name.split()[0]], ORDERS[name], ranks)
        found[name] = phases, [now - then for now, then in zip(ranks.rows, before)] if ranks else []
    return {**found, "vae": coded(models["sd"], ranks)}


@pytest.fixture(scope="module")
def alone(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return forked(0, tmp_path_factory.mktemp("alone") / "it", lambda ranks: all_drawn(models, ranks))[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bit_equal_to_one_process(count: int, models: dict[str, Model], alone: dict[str, Any], tmp_path: Path) -> None:
    """With as many rows in all, and none of the ranks without work."""
    names = FEW if count == 1 else tuple(ORDERS)
    each = forked(count, tmp_path / "ranks", lambda ranks: all_drawn(models, ranks, names))
    assert all(found.pop("vae") == alone["vae"] for found in each)
    for found in each:
        assert {name: phases for name, (phases, _) in found.items()} == {name: alone[name][0] for name in names}
    for name, (phases, rows) in each[0].items():
        assert sum(rows) == sum(evaluations for _, evaluations in phases), name
        assert all(found[name][1] == rows for found in each)
    assert min(sum(rows[rank] for _, rows in each[0].values()) for rank in range(count)) > 0


def test_shares_follow_speeds() -> None:
    """17 calls of one size; of unequal ones the dearest first."""
    assert Counter(assigned([1.0] * 17, [1.0] * 8)) == {0: 3, **dict.fromkeys(range(1, 8), 2)}
    assert Counter(assigned([2.0] * 12, [3.0, 1.0])) == {0: 9, 1: 3}
    assert assigned([1.0, 4.0, 1.0, 2.0], [1.0, 1.0]) == [1, 0, 1, 1]
    assert assigned([1.0], [1.0, 2.0]) == [1] and assigned([], [1.0]) == []


def test_a_batch_leaves_no_rank_without_work() -> None:
    """130 rows of 4096 px: 16 at once are 9 calls, of which 8 ranks make one pay for all."""
    assert balanced_size(16, [98, 32], 1) == 16
    size = balanced_size(16, [98, 32], 8)
    assert size < 8
    rows = [part for count in (98, 32) for part in split(count, size)]
    loads = Counter[int]()
    for part, rank in zip(rows, assigned(rows, [1.0] * 8)):
        loads[rank] += part
    assert max(loads.values()) < 1.3 * sum(rows) / 8


def test_speeds_are_measured(tmp_path: Path) -> None:
    """A rank that takes three times as long is given a third, all come to the same shares, and every answer is where it was."""

    def asked(ranks: Ranks | None) -> list[list[int]]:
        assert ranks is not None
        found = []
        for turn in range(5):
            before = list(ranks.rows)

            def ask(number: int, turn: int = turn) -> torch.Tensor:
                time.sleep(0.02 * (1 + 2 * ranks.rank))
                return torch.full((2, 1, 1, number % 3 + 1), 100.0 * turn + number, dtype=torch.float16)

            calls = [Call(partial(ask, n), 2, (2, 1, 1, n % 3 + 1), torch.float16, 2.0) for n in range(12)]
            outputs = ranks.outputs(calls)
            assert all(torch.equal(output, ask(n)) for n, output in enumerate(outputs))
            found.append([now - then for now, then in zip(ranks.rows, before)])
        return found

    first, second = forked(2, tmp_path / "ranks", asked)
    assert first == second and first[0] == [12, 12] and first[-1][0] > 14


def test_out_of_memory_in_one_is_everybodys(models: dict[str, Model], tmp_path: Path) -> None:
    """All ask for half as many at once, and the picture is that of the smaller batch."""
    wanted = order(window_batch=6)

    def short(ranks: Ranks | None) -> tuple[list[tuple[str, int]], object, int]:
        network = Guided._network

        def asked(self: Guided, x: torch.Tensor, *given: Any) -> torch.Tensor:
            if ranks is not None and ranks.rank == 1 and len(x) > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return network(self, x, *given)

        Guided._network = asked  # type: ignore[method-assign]
        drawing = Drawing(models["sd"], wanted if ranks else order(window_batch=3), ranks=ranks)
        return [(digest(phase.latent), 0) for phase in drawing.phases()], drawing.batch.reduced, drawing.batch.size or 0

    whole = forked(0, tmp_path / "one", short)[0]
    for phases, reduced, size in forked(2, tmp_path / "two", short):
        assert phases == whole[0] and reduced == (6, 3) and size == 3


def test_the_pipeline_in_a_process_group(folders: dict[str, Path], tmp_path: Path) -> None:
    """Every rank gets the picture of one process, and where nobody gives a generator the first one's."""
    wrapped = StableDiffusionPipeline.from_pretrained(str(folders["sd"]))
    wrapped.set_progress_bar_config(disable=True)

    def drawn(ranks: Ranks | None) -> tuple[str, str, list[int]]:
        demo = DemoFusionPipeline.from_pipe(wrapped)
        demo.set_progress_bar_config(disable=True)
        given = {"scale": 2, "window_batch": 3, "num_inference_steps": 2, "preset": "fast", "output_type": "pt"}
        torch.manual_seed(0 if ranks is None else ranks.rank)
        own = demo("a red disc", generator=torch.Generator().manual_seed(4), **given).images
        unseeded = demo("a red disc", **given).images
        found = of_program()
        return digest(own), digest(unseeded), list(found.rows) if found else []

    whole = forked(0, tmp_path / "one", drawn)[0]
    first, second = forked(2, tmp_path / "two", drawn)
    assert first == second and first[:2] == whole[:2] and min(first[2]) > 0
