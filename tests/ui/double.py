"""A page of the webui's kind in real gradio: both tabs' fields under their ids, our accordions, our JavaScript and style.

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


OVER = {
    "img2img_image": "editor", "img2img_sketch": "color-sketch", "img2maskimg": "sketch", "inpaint_sketch": "color-sketch",
    "img_inpaint_base": "editor",
}  # fmt: skip
"""The pictures of the img2img tab and their tools, each in a tab of its own."""


def numbers(tab: str) -> list[Any]:
    """The fields that stand above the scripts in both of the webui's tabs."""
    return [
        gr.Textbox(label="Prompt", elem_id=f"{tab}_prompt", lines=3),
        gr.Dropdown(["Euler", "DPM++ 2M"], value="Euler", label="Sampling method", elem_id=f"{tab}_sampling"),
        gr.Dropdown(["Automatic", "Karras"], value="Automatic", label="Schedule type", elem_id=f"{tab}_scheduler"),
        gr.Slider(1, 150, 20, step=1, label="Sampling steps", elem_id=f"{tab}_steps"),
        gr.Slider(1, 100, 1, step=1, label="Batch count", elem_id=f"{tab}_batch_count"),
        gr.Slider(1, 8, 1, step=1, label="Batch size", elem_id=f"{tab}_batch_size"),
        gr.Slider(1, 30, 7, step=0.5, label="CFG Scale", elem_id=f"{tab}_cfg_scale"),
        gr.Number(-1, label="Seed", elem_id=f"{tab}_seed", precision=0, interactive=True),
    ]


def sides(tab: str) -> list[Any]:
    return [gr.Slider(64, 2048, 512, step=8, label=s.title(), elem_id=f"{tab}_{s}") for s in ("width", "height")]


def of_picture() -> list[Any]:
    """What the img2img tab alone has."""
    with gr.Tabs(elem_id="mode_img2img"):
        for element, tool in OVER.items():
            with gr.TabItem(element):
                gr.Image(elem_id=element, source="upload", interactive=True, type="pil", tool=tool, show_label=False)
        with gr.TabItem("Batch"):
            gr.Files(label="Files")
    modes = ["Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)"]
    made = [gr.Radio(modes, value=modes[0], type="index", label="Resize mode", elem_id="resize_mode")]
    with gr.Tabs(elem_id="img2img_tabs_resize"):
        with gr.TabItem("Resize to"):
            made += sides("img2img")
        with gr.TabItem("Resize by"):
            made.append(gr.Slider(0.05, 4, 1, step=0.05, label="Scale", elem_id="img2img_scale"))
    strength = gr.Slider(0, 1, 0.75, step=0.01, label="Denoising strength", elem_id="img2img_denoising_strength")
    return [*made, strength]


def page(scripts: Any, accordion: Any) -> gr.Blocks:
    """scripts: two of ours. accordion: the class that the webui makes accordions of which are inputs."""
    of_prompt, of_given = scripts
    with gr.Blocks(analytics_enabled=False, css=(ROOT / "style.css").read_text(encoding="utf-8")) as blocks:
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem("txt2img"):
                made = [*numbers("txt2img"), *sides("txt2img")]
                with accordion(False, label="Hires. fix", elem_id="txt2img_hr") as hires:
                    gr.Slider(1, 4, 2, label="Upscale by", elem_id="txt2img_hr_scale")
                made += [hires, *of_prompt.ui(False), gr.Gallery(elem_id="txt2img_gallery", label="Output")]
            with gr.TabItem("img2img"):
                others = [*numbers("img2img"), *of_picture()]
                others += [*of_given.ui(True), gr.Gallery(elem_id="img2img_gallery", label="Output")]
        for script, parts in ((of_prompt, made), (of_given, others)):
            for part in parts:
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
    blocks = page((host.our_script(), host.our_script()), host.ui_components.InputAccordion)
    blocks.launch(
        prevent_thread_lock=True, quiet=True, show_api=False, share=False, allowed_paths=[str(ROOT)],
        server_name="127.0.0.1", server_port=free_port(),
    )  # fmt: skip
    print(f"{TOLD}{blocks.server_port}", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
