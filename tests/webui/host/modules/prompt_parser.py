"""Prompts as schedules of conditions. Of the prompt language: `AND`, weights behind a colon, and `[from:to:when]`."""

from __future__ import annotations

import re
from collections import namedtuple

import torch

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])


class SdConditioning(list):
    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        source = prompts if copy_from is None else copy_from
        self.is_negative_prompt = is_negative_prompt or getattr(source, "is_negative_prompt", False)
        self.width = width or getattr(source, "width", None)
        self.height = height or getattr(source, "height", None)


class ComposableScheduledPromptConditioning:
    def __init__(self, schedules, weight=1.0):
        self.schedules = schedules
        self.weight = weight


class MulticondLearnedConditioning:
    def __init__(self, shape, batch):
        self.shape = shape
        self.batch = batch


class DictWithShape(dict):
    def __init__(self, x, shape=None):
        super().__init__(x)

    @property
    def shape(self):
        return self["crossattn"].shape


def get_learned_conditioning_prompt_schedules(prompts, base_steps, hires_steps=None, use_old_scheduling=False):
    """For each prompt: pairs of the step it ends at and its text."""
    return [_schedule(prompt, base_steps) for prompt in prompts]


def _schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    edit = re.search(r"\[([^:\]]*):([^:\]]*):([\d.]+)\]", prompt)
    if edit is None:
        return [(steps, prompt)]
    when = float(edit[3]) * steps if "." in edit[3] else int(edit[3])
    before, after = (prompt[: edit.start()] + text + prompt[edit.end() :] for text in (edit[1], edit[2]))
    return [(end, text) for end, text in ((min(int(when), steps), before), (steps, after)) if end >= 1]


def get_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    answer = []
    for schedule in get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps, use_old_scheduling):
        conds = model.get_learned_conditioning(SdConditioning([text for _, text in schedule], copy_from=prompts))
        answer.append([ScheduledPromptConditioning(end, _part(conds, i)) for i, (end, _) in enumerate(schedule)])
    return answer


def _part(conds, index: int):
    return {key: value[index] for key, value in conds.items()} if isinstance(conds, dict) else conds[index]


def get_multicond_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    batch = []
    for prompt in prompts:
        parts = [re.fullmatch(r"(.*?)(?:\s*:\s*([-+]?[\d.]+))?", part.strip()) for part in prompt.split(" AND ")]
        texts = SdConditioning([part[1] for part in parts], copy_from=prompts)
        schedules = get_learned_conditioning(model, texts, steps, hires_steps, use_old_scheduling)
        weights = [float(part[2] or 1) for part in parts]
        batch.append([ComposableScheduledPromptConditioning(*pair) for pair in zip(schedules, weights)])
    return MulticondLearnedConditioning(shape=(len(prompts),), batch=batch)


def _at(schedule, step: int):
    """A condition holds up to and with the step that it ends at."""
    return next((entry.cond for entry in schedule if step <= entry.end_at_step), schedule[0].cond)


def reconstruct_cond_batch(c, current_step):
    return _stacked([_at(schedule, current_step) for schedule in c])


def reconstruct_multicond_batch(c, current_step):
    """The rows of each image with their weights, and the conditions of all rows."""
    conds_list, conds = [], []
    for prompts in c.batch:
        conds_list.append([(len(conds) + i, prompt.weight) for i, prompt in enumerate(prompts)])
        conds += [_at(prompt.schedules, current_step) for prompt in prompts]
    return conds_list, _stacked(conds)


def _stacked(conds):
    if isinstance(conds[0], dict):
        return DictWithShape({key: stack_conds([cond[key] for cond in conds]) for key in conds[0]})
    return stack_conds(conds)


def stack_conds(tensors):
    """The shorter ones repeat their last token."""
    length = max(len(tensor) for tensor in tensors)
    if tensors[0].ndim == 1:
        return torch.stack(tensors)
    return torch.stack([torch.cat([t, t[-1:].expand(length - len(t), -1)]) for t in tensors])
