"""The host's entry: it looks for script classes among this module's names, and for imports only while it loads them."""

from demofusion_lib.webui.script import DemoFusionScript  # noqa: F401
