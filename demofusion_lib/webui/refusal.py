"""How a run that can't be done is stopped: once, before any drawing, without a traceback in the console."""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import HTTPException
from modules import errors, shared

from .. import setting
from ..params import by_label


class SettingsError(setting.SettingsError, HTTPException):
    """The same, as the webui's API prints no traceback of: an HTTP answer. Its name is part of that answer."""

    def __init__(self, message: str, name: str = ""):
        setting.SettingsError.__init__(self, message, name)
        self.headers = None

    def __str__(self) -> str:
        return str(self.detail)

    __repr__ = Exception.__repr__


def refusal(error: Exception) -> SettingsError:
    """What is told of `error`, whatever it is. One that is no SettingsError is a fault of ours: its traceback is kept."""
    if isinstance(error, setting.SettingsError):
        told = SettingsError(str(error).removeprefix("DemoFusion: "))
        told.mistakes = error.mistakes
        return told
    errors.report("DemoFusion: the settings could not be read", exc_info=True)
    return SettingsError(f"the settings could not be read ({type(error).__name__}: {setting.quoted(str(error))})")


def refuse(p: Any, error: SettingsError, *, raised: bool = False) -> None:
    """Stops a run of the page before its first image.

    raised: whether whoever has asked for it minds what is raised, and goes on to others.

    The page would print whatever is raised with all arguments and a traceback, so there the host is asked to stop, which
    it does before the first image, and the reason is told where it tells comments. The API's runs go on to `p.sample`,
    where the error is raised.
    """
    if getattr(p, "is_api", False):
        return
    if raised:
        gr.Warning(str(error))
        return
    shared.state.interrupt()
    told = f"DemoFusion: not drawn: {'; '.join(by_label(error).values())}"
    p.comment(told)
    errors.report(told)
    gr.Warning(told)
