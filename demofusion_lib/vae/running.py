"""A plan followed: the exact steps, and the estimated ones before or behind them."""

from __future__ import annotations

import torch

from .errors import NotFinite
from .estimated import Part, run_part, tiles_of
from .exact import Exact, step_stretches
from .planes import Answer
from .planning import Job, Plan
from .program import Attend, Step
from .progress import Stretch
from .statistics import Gathered
from .tiles import Tile


def follow(plan: Plan, job: Job, run: Exact, answer: Answer) -> None:
    """From the plane `x` of the run to the answer. Raises NotFinite."""
    steps = job.program.steps
    first, last = plan.part
    if first == last:
        run.run(steps, None, answer)
    elif last == len(steps):
        run.run(steps[:first], steps[first], None)
        estimate(_part(job, plan, run.dtype), run, answer, None)
    else:
        estimate(_part(job, plan, run.dtype), run, None, steps[last])
        run.run(steps[last:], None, answer)


def estimate(part: Part, run: Exact, answer: Answer | None, after: Step | None) -> None:
    """A part that ends in the answer, or in the plane `x`; then the statistics of that are gathered, all of it."""
    source, name = run.planes["x"], part.steps[-1].name
    gathered = Gathered() if after is not None and after.norm is not None else None
    target = answer or run.store.new(part.shapes[-1], part.steps[-1].conv.weight.dtype)
    finite = torch.ones((), dtype=torch.bool, device=part.steps[-1].conv.weight.device)

    def write(tile: Tile, made: torch.Tensor) -> None:
        if gathered is not None:
            gathered.add(made)
        finite.logical_and_(made.isfinite().all())
        target.write(tile, made)

    run_part(part, source, run.moments, run.values, run.progress, write)
    if not finite:
        raise NotFinite(name)
    run.moments = None if gathered is None else gathered.merged(name)
    if not isinstance(target, Answer):
        target.flush()
        run.store.drop(source)
        run.planes["x"] = target


def stretches(plan: Plan, job: Job) -> list[Stretch]:
    """A picture's tiles in their order, as many as are alike together, and their work."""
    first, last = plan.part
    pairs = list(zip(job.program.steps, job.shapes, job.shapes[1:]))
    made = [stretch for pair in pairs[:first] for stretch in step_stretches(*pair, job.values)]
    if last > first:
        work = sum(work for pair in pairs[first:last] for _, work in step_stretches(*pair, job.values))
        made.append((tiles_of(_part(job, plan, None, readied=False), job.values), work))
    return made + [stretch for pair in pairs[last:] for stretch in step_stretches(*pair, job.values)]


def _part(job: Job, plan: Plan, dtype: torch.dtype | None, readied: bool = True) -> Part:
    first, last = plan.part
    steps = [step for step in job.program.steps[first:last] if not isinstance(step, Attend)]
    return Part.of(steps, job.shapes[first], dtype, readied)
