"""A page of the webui's kind in real gradio: its txt2img fields under their ids, our accordion, our JavaScript and style.

    python -m tests.ui.double

Prints at which port it answers, and serves until it is ended. The webui's Python are the doubles of tests/webui, its
JavaScript is `double.js`. It draws nothing.
"""

from __future__ import annotations

import importlib
import socket
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.routes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPTS = (HERE / "double.js", ROOT / "javascript" / "demofusion.js")
TOLD = "port: "


def numbers() -> list[Any]:
    """The fields that stand above the scripts on the webui's page."""
    return [
        gr.Textbox(label="Prompt", elem_id="txt2img_prompt", lines=3),
        gr.Dropdown(["Euler", "DPM++ 2M"], value="Euler", label="Sampling method", elem_id="txt2img_sampling"),
        gr.Dropdown(["Automatic", "Karras"], value="Automatic", label="Schedule type", elem_id="txt2img_scheduler"),
        gr.Slider(1, 150, 20, step=1, label="Sampling steps", elem_id="txt2img_steps"),
        gr.Slider(64, 2048, 512, step=8, label="Width", elem_id="txt2img_width"),
        gr.Slider(64, 2048, 512, step=8, label="Height", elem_id="txt2img_height"),
        gr.Slider(1, 100, 1, step=1, label="Batch count", elem_id="txt2img_batch_count"),
        gr.Slider(1, 8, 1, step=1, label="Batch size", elem_id="txt2img_batch_size"),
        gr.Slider(1, 30, 7, step=0.5, label="CFG Scale", elem_id="txt2img_cfg_scale"),
        gr.Number(-1, label="Seed", elem_id="txt2img_seed", precision=0, interactive=True),
    ]


def page(script: Any, accordion: Any) -> gr.Blocks:
    """script: ours. accordion: the class that the webui makes accordions of which are inputs."""
    with gr.Blocks(analytics_enabled=False, css=(ROOT / "style.css").read_text(encoding="utf-8")) as blocks:
        made = numbers()
        with accordion(False, label="Hires. fix", elem_id="txt2img_hr") as hires:
            gr.Slider(1, 4, 2, label="Upscale by", elem_id="txt2img_hr_scale")
        made += [hires, *script.ui(False)]
        for part in [*made, gr.Gallery(elem_id="txt2img_gallery", label="Output")]:
            script.after_component(part)
    return blocks


def with_tooltips() -> None:
    """The page is told of them, as the webui's is."""
    configured = gr.blocks.Block.get_config

    def get_config(self: Any) -> dict[str, Any]:
        return {**configured(self), "webui_tooltip": getattr(self, "webui_tooltip", None)}

    gr.blocks.Block.get_config = get_config


def with_scripts() -> None:
    """As files of the head, before gradio's own; and in the words that today's starlette takes."""
    respond = gradio.routes.templates.TemplateResponse
    head = "".join(f'<script src="file={path}"></script>' for path in SCRIPTS)

    def response(template: str, context: dict[str, Any]) -> Any:
        told = respond(context["request"], template, context)
        told.body = told.body.replace(b"</head>", head.encode() + b"</head>")
        told.init_headers()
        return told

    gradio.routes.templates.TemplateResponse = response


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "webui" / "host"))
    from tests.webui.conftest import Host, load_entry

    extensions = importlib.import_module("modules.gradio_extensons")
    gr.components.IOComponent.__init__ = extensions.IOComponent_init
    host = Host(load_entry())
    host.install()
    with_tooltips()
    with_scripts()
    blocks = page(host.our_script(), host.ui_components.InputAccordion)
    blocks.launch(
        prevent_thread_lock=True, quiet=True, show_api=False, share=False, allowed_paths=[str(ROOT)],
        server_name="127.0.0.1", server_port=free_port(),
    )  # fmt: skip
    print(f"{TOLD}{blocks.server_port}", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
