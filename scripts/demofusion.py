"""The host's entry: it looks for script classes among this module's names, and for imports only while it loads them."""

from threading import Thread

from modules import script_callbacks

from demofusion_lib.webui.api import add_routes
from demofusion_lib.webui.languages import add_to_packs
from demofusion_lib.webui.options import add_options
from demofusion_lib.webui.script import DemoFusionScript, before_image_saved, evaluated  # noqa: F401


def register() -> None:
    """Here and not where they are defined: what is registered while a library is imported is gone after Reload UI."""
    script_callbacks.on_before_image_saved(before_image_saved)
    script_callbacks.on_ui_settings(add_options)
    script_callbacks.on_before_ui(add_to_packs)
    script_callbacks.on_app_started(add_routes)
    script_callbacks.on_cfg_denoised(evaluated)


# The host looks at every frame of the stack for each callback, 50 ms among those of its start; a thread has few of them.
thread = Thread(target=register)
thread.start()
thread.join()
