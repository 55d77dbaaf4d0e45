"""DemoFusion for AUTOMATIC1111's WebUI: large images from a model's native size (arXiv 2311.16973)."""

__version__ = "0.2.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .standalone.pipeline import DemoFusionPipeline as DemoFusionPipeline


def __getattr__(name: str) -> object:
    """The library's pipeline, imported when it is asked for: the webui has no diffusers and needs none."""
    if name == "DemoFusionPipeline":
        from .standalone.pipeline import DemoFusionPipeline

        return DemoFusionPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
