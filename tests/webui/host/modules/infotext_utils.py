"""Infotext, written and read."""

import json
import re

from PIL import Image

from modules import shared

_KEY = r"[A-Za-z0-9_][A-Za-z0-9_ /-]+"
re_param = re.compile(rf'({_KEY}):\s*("(?:[^"\\]|\\.)*"|[^,]*)')


def quote(text):
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", str(text)) else text


def unquote(text):
    return json.loads(text) if text.startswith('"') and text.endswith('"') else text


def parse_generation_parameters(x: str, skip_fields=None):
    """Both prompts, and the last line's parameters; "Size" comes as two."""
    *texts, last = x.strip().splitlines()
    prompt, _, negative = "\n".join(texts).partition("\nNegative prompt: ")
    found = {key: unquote(value) for key, value in re_param.findall(last)}
    found |= {"Prompt": prompt, "Negative prompt": negative}
    if "Size" in found:
        found["Size-1"], found["Size-2"] = found.pop("Size").split("x")
    return found


def image_from_url_text(filedata):
    return Image.open(filedata["name"].rsplit("?", 1)[0])


def get_override_settings(params, *, skip_fields=None):
    """Names, settings and values of those that are set otherwise; the double knows one."""
    told = [("Clip skip", "CLIP_stop_at_last_layers", int)]
    read = [(name, option, kind(params[name])) for name, option, kind in told if name in params]
    return [row for row in read if row[2] != getattr(shared.opts, row[1])]
