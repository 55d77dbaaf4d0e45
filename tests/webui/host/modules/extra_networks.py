"""`<name:arguments>` in prompts. What is activated is written down."""

from __future__ import annotations

import re
from collections import defaultdict

_events: list[tuple[str, dict]] = []


class ExtraNetworkParams:
    def __init__(self, items=None):
        self.items = items or []


def activate(p, extra_network_data):
    _events.append(("activate", dict(extra_network_data)))


def deactivate(p, extra_network_data):
    _events.append(("deactivate", dict(extra_network_data)))


def parse_prompt(prompt):
    found = defaultdict(list)
    for name, arguments in re.findall(r"<(\w+):([^>]+)>", prompt):
        found[name].append(ExtraNetworkParams(items=arguments.split(":")))
    return re.sub(r"<\w+:[^>]+>", "", prompt), found


def parse_prompts(prompts):
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else None
