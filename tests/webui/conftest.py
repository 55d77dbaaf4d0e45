"""The fixture `host`: a webui of doubles with the extension loaded, fresh for each test and gone after it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import k_diffusion.sampling
import numpy as np
import pytest
import torch

from .small_vae import begun, vae  # noqa: F401: fixtures

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OURS = {"modules", "tiny_models", "witness", "by_hand", "controlling", "cv2"}


def forget_modules() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in OURS or name.startswith("demofusion_lib.webui"):
            del sys.modules[name]
    package = sys.modules.get("demofusion_lib")
    if hasattr(package, "webui"):
        del package.webui


@dataclass(repr=False)
class Outcome:
    """What a generation left behind. `latents` are those that were decoded, in order."""

    p: Any
    processed: Any
    samplings: list[Any]
    latents: list[torch.Tensor]
    calls: int
    error: BaseException | None = None

    @property
    def images(self) -> list[np.ndarray]:
        return [np.array(image) for image in self.processed.images]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [image.size for image in self.processed.images]

    @property
    def comments(self) -> str:
        return self.processed.comments

    @property
    def infotext(self) -> str:
        return self.processed.infotexts[0]

    @property
    def base(self) -> Any:
        return self.samplings[0]

    @property
    def phases(self) -> list[Any]:
        return self.samplings[1:]


class Host:
    """The doubles' modules are attributes: `host.shared`, `host.processing`."""

    def __init__(self, script_module: ModuleType):
        self.script_module = script_module
        self.models = importlib.import_module("tiny_models")
        self.witness = importlib.import_module("witness").Witness()
        self.params = importlib.import_module("demofusion_lib.params")

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(f"modules.{name}")

    @property
    def opts(self) -> Any:
        return self.shared.opts

    @property
    def state(self) -> Any:
        return self.shared.state

    @property
    def model(self) -> Any:
        return self.shared.sd_model or self.install()

    @property
    def swallowed(self) -> list[tuple[str, BaseException | None]]:
        """What went wrong in hooks and callbacks, where the webui reports it and goes on."""
        return self.errors._reports

    def install(self, name: str = "tiny.safetensors", **settings: Any) -> Any:
        """Puts a model on the disk; the first one is loaded."""
        model = self.models.TinyModel(name, **settings)
        model.watch = self.witness.model_called
        self.sd_models._install(model)
        return model

    def our_script(self) -> Any:
        """Of the one script class that the webui finds in our entry."""
        (script_class,) = [
            value
            for value in vars(self.script_module).values()
            if isinstance(value, type) and issubclass(value, self.scripts.Script)
        ]
        return script_class()

    def generation(self, settings: Any = None, *, scripts: tuple = (), **fields: Any) -> Any:
        """A txt2img processing object with our script among others.

        settings: None for off, a mapping of names (enabled unless it says otherwise), or values in order.
        """
        return self._generation(self.processing.StableDiffusionProcessingTxt2Img, settings, scripts, fields)

    def of_picture(self, picture: Any, settings: Any = None, *, scripts: tuple = (), **fields: Any) -> Any:
        """An img2img processing object of one picture, or of one for each image; `settings` as of a generation."""
        pictures = list(picture) if isinstance(picture, (list, tuple)) else [picture]
        fields = {"init_images": pictures, "denoising_strength": 1.0, **fields}
        return self._generation(self.processing.StableDiffusionProcessingImg2Img, settings, scripts, fields)

    def _generation(self, kind: Any, settings: Any, scripts: tuple, fields: dict[str, Any]) -> Any:
        assert self.model is not None
        values = {
            "prompt": "cat", "negative_prompt": "dog", "seed": 5, "subseed": 1, "steps": 4, "cfg_scale": 3.0,
            "width": 128, "height": 128, "sampler_name": "Euler", "outpath_samples": "out", **fields,
        }  # fmt: skip
        p = kind(**values)
        runner = self.scripts.ScriptRunner()
        runner._add(self.our_script(), self.arguments(settings))
        for script in (self.witness, *scripts):
            runner._add(script, [])
        p.scripts, p.script_args = runner, tuple(runner.inputs)
        return p

    def arguments(self, settings: Any) -> list[Any]:
        """As they arrive: behind a mapping the API fills up with the accordion's own values. The whole method unless told.

        The double's VAE is no network, and is left to the double.
        """
        defaults = list(self.params.preset_values(self.params.BY_NAME["preset"].default).values())
        if settings is None:
            return defaults
        if isinstance(settings, dict):
            return [{"enabled": True, "preset": "none", "window_batch": 64, "vae": "host", **settings}, *defaults[1:]]
        return [*settings, *defaults[len(settings) :]]

    def run(self, p: Any, *, page: bool = False) -> Outcome:
        """As the API runs it, or the page. An error that reaches the user is in the outcome."""
        model = self.model
        p.is_api = not page
        self.witness.samplings.clear()
        model.decoded.clear()
        model.calls = 0
        self.state.begin("txt2img")
        processed = error = None
        try:
            processed = self.processing.process_images(p)
        except Exception as raised:
            error = raised
        finally:
            self.state.end()
        return Outcome(p, processed, list(self.witness.samplings), list(model.decoded), model.calls, error)

    def txt2img(self, settings: Any = None, *, scripts: tuple = (), **fields: Any) -> Outcome:
        outcome = self.run(self.generation(settings, scripts=scripts, **fields))
        if outcome.error is not None:
            raise outcome.error
        return outcome


def load_entry() -> ModuleType:
    """`scripts/demofusion.py`, by its path, as the webui loads it."""
    spec = importlib.util.spec_from_file_location("demofusion.py", ROOT / "scripts" / "demofusion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what is imported anew for every test from being compiled anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", False)
        patch.setattr(sys, "pycache_prefix", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture
def host(bytecode: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    forget_modules()
    monkeypatch.setattr(sys, "path", [str(HERE / "host"), *sys.path])
    monkeypatch.setattr(k_diffusion.sampling, "torch", torch)
    extensions = importlib.import_module("modules.gradio_extensons")
    monkeypatch.setattr(gr.components.IOComponent, "__init__", extensions.IOComponent_init)
    host = Host(load_entry())
    host.opts.data["demofusion_held_mb"] = 0  # a test that draws twice means it
    yield host
    forget_modules()
