"""The host's entry: it looks for script classes among this module's names, and for imports only while it loads them."""

from modules import script_callbacks

from demofusion_lib.webui.script import DemoFusionScript, before_image_saved  # noqa: F401

# here and not where it is defined: what is registered while a library is imported is gone after Reload UI
script_callbacks.on_before_image_saved(before_image_saved)
