"""The accordion that is an input: open is true. And the host's small buttons and its rows within forms."""

import gradio as gr


class ToolButton(gr.Button):
    def get_block_name(self):
        return "button"


class FormRow(gr.Row):
    def get_block_name(self):
        return "row"


class InputAccordion(gr.Checkbox):
    global_index = 0

    def __init__(self, value, **kwargs):
        self.accordion_id = kwargs.get("elem_id")
        super().__init__(value, **{**kwargs, "elem_id": f"{self.accordion_id}-checkbox", "visible": False})
        self.accordion = gr.Accordion(**{**kwargs, "open": value})

    def extra(self):
        return gr.Column(elem_id=f"{self.accordion_id}-extra")

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.accordion.__exit__(exc_type, exc_val, exc_tb)

    def get_block_name(self):
        return "checkbox"
