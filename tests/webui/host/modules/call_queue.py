"""What stands around a press of the page: the job, and an error in the place of an answer."""

from __future__ import annotations

from functools import wraps

from modules import shared


def wrap_gradio_gpu_call(func, extra_outputs=None):
    @wraps(func)
    def f(*args, **kwargs):
        shared.state.begin("task")
        try:
            answer = list(func(*args, **kwargs))
        except Exception as error:
            answer = [*(extra_outputs or [None, ""]), f"<div class='error'>{type(error).__name__}: {error}</div>"]
        finally:
            shared.state.end()
        return tuple(answer)

    return f
