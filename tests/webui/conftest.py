"""The fixture `host`: a webui of doubles with the extension loaded, fresh for each test and gone after it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import k_diffusion.sampling
import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OURS = ("modules", "tiny_models", "demofusion_lib.webui")


def forget_modules() -> None:
    for name in list(sys.modules):
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in OURS):
            del sys.modules[name]
    package = sys.modules.get("demofusion_lib")
    if package is not None and hasattr(package, "webui"):
        del package.webui


@dataclass
class Outcome:
    """What a generation left behind."""

    p: Any
    processed: Any
    samplings: list[Any]
    latents: list[torch.Tensor]
    error: BaseException | None = None

    @property
    def images(self) -> list[np.ndarray]:
        return [np.array(image) for image in self.processed.images]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [image.size for image in self.processed.images]

    @property
    def comments(self) -> str:
        return "\n".join(self.p.comments)

    @property
    def base(self) -> Any:
        return self.samplings[0]

    @property
    def phases(self) -> list[Any]:
        return self.samplings[1:]


@dataclass
class Host:
    """The doubles' modules are attributes: `host.shared`, `host.processing`."""

    models: ModuleType
    script_module: ModuleType
    samplings: list[Any] = field(default_factory=list)

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
        return self.shared.sd_model

    @property
    def swallowed(self) -> list[tuple[str, BaseException | None]]:
        return self.errors._reports

    def install(self, **settings: Any) -> Any:
        """A model on the disk; the first one is loaded."""
        model = self.models.TinyModel(**settings)
        model.watch = self._watch
        self.sd_models._install(model)
        return model

    def _watch(self, call: Any) -> None:
        self.samplings[-1].evaluations[-1].calls.append(call)

    def witness(self) -> Any:
        """A script that writes down what every other extension is told."""
        samplings = self.samplings
        models = self.models

        class Witness(self.scripts.Script):
            def title(self):
                return "witness"

            def show(self, is_img2img):
                return sys.modules["modules.scripts"].AlwaysVisible

            def process_before_every_sampling(self, p, *args, x, noise, c, uc, **kwargs):
                samplings.append(models.Sampling(x.clone(), noise.clone(), c, uc))

        def denoiser(params):
            e = models.Evaluation(params.x.clone(), params.image_cond, params.sigma.clone(), params.sampling_step)
            samplings[-1].evaluations.append(e)

        def after(params):
            samplings[-1].evaluations[-1].denoised = params.x.clone()

        self.script_callbacks.on_cfg_denoiser(denoiser)
        self.script_callbacks.on_cfg_after_cfg(after)
        return Witness()

    def our_script(self) -> Any:
        """The script class that the host finds in the entry, made as the host makes it."""
        found = [
            value
            for value in vars(self.script_module).values()
            if isinstance(value, type) and issubclass(value, self.scripts.Script)
        ]
        assert len(found) == 1
        return found[0]()

    def processing_object(self, settings: Any = None, *, scripts: tuple = (), **fields: Any) -> Any:
        """A txt2img generation with our script among others. `settings`: a mapping, a list of values, None for off."""
        values = {
            "prompt": "cat", "negative_prompt": "dog", "seed": 5, "subseed": 1, "steps": 4, "cfg_scale": 3.0,
            "width": 128, "height": 128, "sampler_name": "Euler", "outpath_samples": "out", **fields,
        }  # fmt: skip
        if self.model is None:
            self.install()
        p = self.processing.StableDiffusionProcessingTxt2Img(**values)
        runner = self.scripts.ScriptRunner()
        runner._add(self.our_script(), self._arguments(settings))
        for script in (self._witness, *scripts):
            runner._add(script, [])
        p.scripts, p.script_args = runner, tuple(runner.inputs)
        return p

    @property
    def _witness(self) -> Any:
        if "_the_witness" not in self.__dict__:
            self.__dict__["_the_witness"] = self.witness()
        return self._the_witness

    def _arguments(self, settings: Any) -> list[Any]:
        """Behind a mapping the API fills up with the accordion's own values."""
        params = sys.modules["demofusion_lib.params"]
        defaults = [setting.default for setting in params.SETTINGS]
        if settings is None:
            return defaults
        if isinstance(settings, dict):
            return [{"enabled": True, **settings}, *defaults[1:]]
        return [*settings, *defaults[len(settings) :]]

    def run(self, p: Any) -> Outcome:
        """As the API runs it. An error that reaches the user is in the outcome."""
        self.samplings.clear()
        self.model.decoded.clear()
        self.model.calls = 0
        self.state.begin("txt2img")
        processed = error = None
        try:
            processed = self.processing.process_images(p)
        except Exception as raised:
            error = raised
        finally:
            self.state.end()
        return Outcome(p, processed, list(self.samplings), list(self.model.decoded), error)

    def txt2img(self, settings: Any = None, *, scripts: tuple = (), **fields: Any) -> Outcome:
        outcome = self.run(self.processing_object(settings, scripts=scripts, **fields))
        if outcome.error is not None:
            raise outcome.error
        return outcome


def load_entry() -> ModuleType:
    """`scripts/demofusion.py`, by its path, as the webui loads it."""
    spec = importlib.util.spec_from_file_location("demofusion.py", ROOT / "scripts" / "demofusion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    import gradio as gr

    forget_modules()
    monkeypatch.syspath_prepend(str(HERE / "host"))
    monkeypatch.setattr(k_diffusion.sampling, "torch", torch)
    monkeypatch.setattr(gr.components.IOComponent, "__init__", gr.components.IOComponent.__init__)
    extensons = importlib.import_module("modules.gradio_extensons")
    monkeypatch.setattr(gr.components.IOComponent, "__init__", extensons.IOComponent_init)
    yield Host(importlib.import_module("tiny_models"), load_entry())
    forget_modules()
