"""What `bench.host` and `bench.beside` measure inside the webui: whose the time is, who waits, what the UNet is given.

They send this file's text to a webui with `--allow-code`, which runs it in its own process. What is put into the webui's
classes for the time of a request is taken out again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from time import perf_counter, sleep, thread_time
from typing import Any, ClassVar

import torch
from modules import processing, sd_samplers_cfg_denoiser, sd_samplers_common, sd_samplers_lcm  # noqa: TID251
from modules import sd_samplers_timesteps as timesteps  # noqa: TID251

OURS = "demofusion_lib"


class Ledger:
    """Each moment of a request is one party's: of whom was called last and has not returned.

    seconds: by `(section, party)`, those on the wall and those of this thread's own work, which no other program's work
    makes longer. A section is where a request stands, `base` or `phases`; outside of them nothing is written down.
    slept: seconds of sleep that stand for work.
    """

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.section: str | None = None
        self.stack: list[str] = []
        self.slept = 0.0
        self.last = self._now()

    def _now(self) -> tuple[float, float]:
        return perf_counter(), thread_time() + self.slept

    def _turn(self) -> None:
        """The time since the last turn goes to the party at work."""
        now = self._now()
        if self.section is not None and self.stack:
            row = self.seconds.setdefault((self.section, self.stack[-1]), [0.0, 0.0])
            for i, seconds in enumerate(now):
                row[i] += seconds - self.last[i]
        self.last = now

    @contextmanager
    def at_work(self, party: str, section: str | None = None) -> Iterator[None]:
        self._turn()
        before = self.section
        self.section = before or section
        self.stack.append(party)
        try:
            yield
        finally:
            self._turn()
            self.stack.pop()
            self.section = before


class Patches:
    """Functions in the place of others, until they are taken out."""

    def __init__(self) -> None:
        self.before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """`make(function)` in the place of a function of a class, or of one object."""
        self.before.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, make(getattr(owner, name)))

    def take_out(self) -> None:
        for owner, name, function in reversed(self.before):
            if function is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)


def ours(name: str) -> Any:
    """A module of the extension, which loads some with its first picture only."""
    return import_module(f"{OURS}.{name}")


def inner_models() -> list[type]:
    """The host's own, between its guidance and the UNet."""
    external = sys.modules["k_diffusion.external"]
    plain = [external.DiscreteEpsDDPMDenoiser, external.DiscreteVDDPMDenoiser, sd_samplers_lcm.LCMCompVisDenoiser]
    return [*plain, timesteps.CompVisTimestepsDenoiser, timesteps.CompVisTimestepsVDenoiser]


def unet_of(p: Any) -> Any:
    return p.sd_model.model.diffusion_model


# whose the time is


@contextmanager
def timed(p: Any, ms_a_row: float) -> Iterator[Ledger]:
    """ms_a_row: how long the UNet is to take for a row of native size more than it does."""
    ledger, patches = Ledger(), Patches()
    native = p.width * p.height / 64

    def party(owner: Any, name: str, whose: str, section: str | None = None) -> None:
        def make(function: Any) -> Any:
            def working(*args: Any, **kwargs: Any) -> Any:
                with ledger.at_work(whose, section):
                    return function(*args, **kwargs)

            return working

        patches.put(owner, name, make)

    def slow(function: Any) -> Any:
        def working(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            with ledger.at_work("unet"):
                answer = function(x, *args, **kwargs)
                before = perf_counter()
                sleep(ms_a_row / 1000 * len(x) * x.shape[-2] * x.shape[-1] / native)
                ledger.slept += perf_counter() - before
                return answer

        return working

    patches.put(unet_of(p), "forward", slow)
    for model in inner_models():
        party(model, "forward", "host: around the UNet")
    party(sd_samplers_cfg_denoiser.CFGDenoiser, "forward", "host: guidance")
    party(sd_samplers_common.Sampler, "launch_sampling", "host: sampler", "base")
    party(processing.StableDiffusionProcessingTxt2Img, "setup_conds", "host: prompts")
    party(ours("webui.climbing").Climb, "_climb", "ours: between samplings", "phases")
    for name in ("decode", "encode"):
        party(ours("webui.enlarging").Coder, name, "vae")
    party(ours("webui.denoiser").InstalledEngine, "forward", "ours: steps")
    party(ours("webui.denoiser").FusedModel, "forward", "ours: windows")
    try:
        yield ledger
    finally:
        patches.take_out()


def time_of(p: Any, ms_a_row: float) -> dict[str, Any]:
    """`seconds`: rows of section, party, on the wall, of the thread. `threads`: those that torch has for its work."""
    with timed(p, ms_a_row) as ledger:
        processing.process_images(p)
    return {
        "seconds": [[*key, *seconds] for key, seconds in ledger.seconds.items()],
        "threads": torch.get_num_threads(),
    }


# who waits


WAITS = {
    torch.Tensor.item: "item", torch.Tensor.tolist: "tolist", torch.Tensor.cpu: "cpu", torch.Tensor.numpy: "numpy",
    torch.Tensor.__float__: "float", torch.Tensor.__int__: "int", torch.Tensor.__bool__: "bool",
    torch.Tensor.__index__: "index", torch.Tensor.__contains__: "in", torch.Tensor.nonzero: "nonzero",
    torch.nonzero: "nonzero", torch.equal: "equal", torch.Tensor.equal: "equal", torch.allclose: "allclose",
    torch.Tensor.masked_select: "mask", torch.masked_select: "mask",
}  # fmt: skip
"""What makes the program wait for a device."""


class Watched(torch.Tensor):
    """A tensor that stands for one on a device. What is reckoned with it is on the device too, what `cpu` gives is not.

    waits: how often a number of one was read, by where, how, and whether in an evaluation.
    """

    waits: ClassVar[Counter[tuple[str, str, bool]]] = Counter()
    evaluating = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        how = "mask" if func is torch.Tensor.__getitem__ and is_mask(args[1]) else WAITS.get(func)
        if how:
            cls.waits[place(sys._getframe(1)), how, cls.evaluating] += 1
        answer = super().__torch_function__(func, types, args, kwargs or {})
        return plain(answer) if func is torch.Tensor.cpu else answer


def is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Watched) and part.dtype == torch.bool for part in parts)


def place(frame: Any) -> str:
    """Where a call comes from that torch passes on: file, line and function."""
    while "/torch/" in frame.f_code.co_filename.replace("\\", "/"):
        frame = frame.f_back
    path = frame.f_code.co_filename.replace("\\", "/")
    return f"{path}:{frame.f_lineno} {frame.f_code.co_name}"


def plain(value: Any) -> Any:
    return mapped(value, lambda tensor: tensor.as_subclass(torch.Tensor))


def watched(value: Any) -> Any:
    return mapped(value, lambda tensor: tensor.as_subclass(Watched))


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(part, change) for key, part in value.items()}
    return type(value)(mapped(part, change) for part in value) if type(value) in (list, tuple) else value


def waits_of(p: Any) -> dict[str, Any]:
    """`waits`: rows of place, how, whether in an evaluation, how often, in all phases. `evaluations`: how many there were.

    All that a sampler is given counts as on a device; the fusion works as it does there.
    """
    patches = Patches()
    evaluations, watching = 0, False

    def on_device(function: Any) -> Any:
        def sampling(sampler: Any, steps: int, sample: Any) -> Any:
            guided = sampler.model_wrap_cfg
            if type(guided.__dict__.get("_modules", {}).get("model_wrap")).__name__ != "FusedModel":
                return function(sampler, steps, sample)
            nonlocal watching
            solver, watching = sampler.func, True
            sampler.func = lambda model, x, *args, **kwargs: solver(model, watched(x), *watched(args), **{
                name: watched(value) if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()
            })  # fmt: skip
            try:
                return plain(function(sampler, steps, sample))
            finally:
                sampler.func, watching = solver, False

        return sampling

    def evaluating(function: Any) -> Any:
        def forward(engine: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal evaluations
            evaluations += 1
            engine.engine.fusion.looks_at_once = False
            Watched.evaluating = True
            try:
                return function(engine, *args, **kwargs)
            finally:
                Watched.evaluating = False

        return forward

    def off_device(function: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            answer = function(*plain(args), **plain(kwargs))
            return watched(answer) if watching else answer

        return forward

    def on_it(function: Any) -> Any:
        def engine(plan: Any, phase: Any, *tensors: Any, **kwargs: Any) -> Any:
            return function(plan, phase, *watched(tensors), **kwargs)

        return engine

    Watched.waits.clear()
    patches.put(sd_samplers_common.Sampler, "launch_sampling", on_device)
    patches.put(ours("webui.denoiser").InstalledEngine, "forward", evaluating)
    patches.put(ours("plan").Plan, "engine", on_it)
    patches.put(unet_of(p), "forward", off_device)
    try:
        processing.process_images(p)
    finally:
        patches.take_out()
    return {"waits": [[*key, count] for key, count in Watched.waits.items()], "evaluations": evaluations}


# what the UNet is given


def count_of(p: Any) -> tuple[dict[str, Any], Any]:
    """`calls`: rows of sampling, patches, their height and width in cells, seconds in the UNet; the samplings are
    numbered from 1 on, and 0 is none. `samplings`: seconds of each. `seconds`: of the request. And what was drawn.
    Seconds are this thread's own work, which no other program's makes longer: with a CPU alone they are all there is.
    """
    patches, calls, samplings = Patches(), [], []
    sampling = 0

    def counting(function: Any) -> Any:
        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            began = thread_time()
            answer = function(x, *args, **kwargs)
            calls.append([sampling, len(x), *x.shape[-2:], thread_time() - began])
            return answer

        return forward

    def numbering(function: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> Any:
            nonlocal sampling
            began, sampling = thread_time(), len(samplings) + 1
            try:
                return function(*args, **kwargs)
            finally:
                samplings.append(thread_time() - began)
                sampling = 0

        return launch

    patches.put(unet_of(p), "forward", counting)
    patches.put(sd_samplers_common.Sampler, "launch_sampling", numbering)
    began = thread_time()
    try:
        drawn = processing.process_images(p)
    finally:
        patches.take_out()
    return {"calls": calls, "samplings": samplings, "seconds": thread_time() - began}, drawn
