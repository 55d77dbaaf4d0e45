"""Infotext, written and read."""

import json
import re

_KEY = r"[A-Za-z0-9_][A-Za-z0-9_ /-]+"
re_param = re.compile(rf'({_KEY}):\s*("(?:[^"\\]|\\.)*"|[^,]*)')


def quote(text):
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", str(text)) else text


def unquote(text):
    return json.loads(text) if text.startswith('"') and text.endswith('"') else text


def parse_generation_parameters(x: str, skip_fields=None):
    """The last line's parameters; "Size" comes as two."""
    found = {key: unquote(value) for key, value in re_param.findall(x.strip().splitlines()[-1])}
    if "Size" in found:
        found["Size-1"], found["Size-2"] = found.pop("Size").split("x")
    return found
