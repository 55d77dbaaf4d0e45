"""What a device can't compute in is refused before anything is loaded; an Apple GPU is asked for nothing it can't do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchsde
from torch.nn import functional as F

from demofusion_lib.params import Params
from demofusion_lib.standalone import cli, devices
from demofusion_lib.standalone.decoding import decode
from demofusion_lib.standalone.devices import check_dtype
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.models import DTYPES, Model
from demofusion_lib.standalone.names import SAMPLERS

from ..apple import Far, OnApple, apple
from .conftest import CPU

Run = Callable[..., int]


def lacks(dtype: torch.dtype) -> bool:
    """Asked of the one kernel that torch lacked longest."""
    try:
        F.conv2d(torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype))
    except RuntimeError:
        return True
    return False


@pytest.mark.skipif(not lacks(torch.float16), reason="this torch computes in half precision on the CPU")
def test_half_precision_that_the_cpu_lacks(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*given: object, **named: object) -> None:
        raise AssertionError("loads")

    monkeypatch.setattr(cli, "load_model", load)
    with pytest.raises(SystemExit) as stop:
        run("--dtype", "float16", "--json")
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.count("\n") == 1
    allowed = ", ".join(name for name, dtype in DTYPES.items() if not lacks(dtype))
    assert json.loads(said.out)["error"].endswith(f"not implemented for 'Half'), allowed there: {allowed}")
    assert "dtype is 'float16', which torch" in said.err


@pytest.mark.parametrize(
    "operation", ["conv2d", "group_norm", "layer_norm", "scaled_dot_product_attention", "interpolate", "gelu"]
)
def test_any_operation_may_lack(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(F, operation)

    def without_bfloat16(x: torch.Tensor, *given: object, **named: object) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError(f"\"{operation}_kernel\" not implemented for 'BFloat16'\nand a second line")
        return real(x, *given, **named)

    monkeypatch.setattr(devices.F, operation, without_bfloat16)
    check_dtype(CPU, torch.float32)
    with pytest.raises(
        UserError, match=f"dtype is 'bfloat16', .* on cpu .*{operation}_kernel.*allowed there: float32"
    ) as told:
        check_dtype(CPU, torch.bfloat16)
    assert "\n" not in str(told.value) and "bfloat16," not in str(told.value).split("allowed")[1]


@pytest.mark.parametrize("dtype", [name for name, dtype in DTYPES.items() if name != "float32" and not lacks(dtype)])
def test_what_is_allowed_draws(dtype: str, run: Run) -> None:
    assert run("--dtype", dtype, "--sampling-steps", "1", "--cfg-scale", "1") == 0


def order(sampler: str, guidance: float) -> Order:
    scale = 1 if sampler == "DPM adaptive" else 1.5  # which takes as many steps as it likes
    params = Params.from_names({"enabled": True, "preset": "none", "scale": scale, "overlap": 0, "window_batch": 64})
    return Order(["a red disc"], [7], 64, 64, params, negative="blue", steps=3, sampler=sampler, guidance=guidance)


def on_apple(model: Model) -> Model:
    text = tuple((tokenizer, OnApple(encoder)) for tokenizer, encoder in model.text)
    return replace(model, unet=OnApple(model.unet), vae=OnApple(model.vae), text=text)


def drawn(model: Model, wanted: Order) -> tuple[Finished, np.ndarray]:
    last = list(Drawing(model, wanted).phases())[-1]
    return last, np.asarray(decode(model, last.latent)[0])


def noise_of_the_cpu(size: object, dtype: torch.dtype, device: torch.device, seed: int) -> torch.Tensor:
    """torchsde's, whose generator lies on the device: those GPUs have one, the stand-in has none."""
    return torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(int(seed))).to(device)


@pytest.mark.parametrize(
    ("name", "sampler"), [*(("sd", sampler) for sampler in SAMPLERS), ("sdxl", "Euler"), ("sd-v", "DDIM")]
)
def test_an_apple_gpu_draws_what_the_cpu_draws(
    name: str, sampler: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it can't in float64, anywhere on the way from the prompt to the pixels."""
    monkeypatch.setattr(torchsde._brownian.brownian_interval, "_randn", noise_of_the_cpu)
    wanted = order(sampler, guidance=1.0 if name == "sd" else 3.0)
    right, right_pixels = drawn(models[name], wanted)
    with torch.no_grad(), apple():
        far, pixels = drawn(on_apple(models[name]), wanted)
        assert isinstance(far.latent, Far)
    assert far.evaluations == right.evaluations
    assert torch.equal(far.latent.near, right.latent)
    assert np.array_equal(pixels, right_pixels)


def test_the_stand_in_refuses_what_those_gpus_refuse() -> None:
    with apple():
        x = torch.ones(2, 3).to("meta")
        assert float(x.sum()) == 6 and x.cpu().double().dtype == torch.float64
        for bad in (
            x.double,
            lambda: x.to(torch.float64),
            lambda: torch.zeros(1, dtype=torch.float64, device=x.device),
        ):
            with pytest.raises(TypeError, match="float64"):
                bad()
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(2, 3)
        assert torch.equal((x + torch.tensor(1.0)).near, torch.full((2, 3), 2.0))
