"""The webui teaches every component of gradio to take a `tooltip`."""

import gradio as gr


def IOComponent_init(self, *args, **kwargs):
    self.webui_tooltip = kwargs.pop("tooltip", None)
    return original_IOComponent_init(self, *args, **kwargs)


original_IOComponent_init = gr.components.IOComponent.__init__
