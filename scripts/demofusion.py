"""The host's entry: it looks for script classes among this module's names, and for imports only while it loads them."""

from modules import script_callbacks

from demofusion_lib.webui.api import add_routes
from demofusion_lib.webui.languages import add_to_packs
from demofusion_lib.webui.options import add_options
from demofusion_lib.webui.script import DemoFusionScript, before_image_saved, evaluated  # noqa: F401

CALLBACKS = {
    "before_image_saved": before_image_saved, "ui_settings": add_options, "before_ui": add_to_packs,
    "app_started": add_routes, "cfg_denoised": evaluated,
}  # fmt: skip
"""Here and not where they are defined: what is registered while a library is imported is gone after Reload UI."""

for event, function in CALLBACKS.items():
    try:
        # who asks is said: the host's `on_...` look for it in the sources of the whole stack, 20 ms for each of them
        script_callbacks.add_callback(
            script_callbacks.callback_map["callbacks_" + event], function, category=event, filename=__file__
        )
    except (AttributeError, KeyError, TypeError):  # of another webui
        getattr(script_callbacks, "on_" + event)(function)
