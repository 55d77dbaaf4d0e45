"""DemoFusion for AUTOMATIC1111's WebUI: large images from a model's native size (arXiv 2311.16973)."""

__version__ = "0.2.0"
