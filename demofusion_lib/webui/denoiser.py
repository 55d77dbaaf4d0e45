"""Puts the engine into one sampler of the host: around its guided denoiser, and in place of its inner model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from modules import shared
from modules.sd_samplers_common import InterruptedException

from ..core import CORRECTED, Evaluation, Looking, PhaseEngine, look, looking, shrink, shrunk_noise
from .conditions import CropCorner, told_of
from .families import Replaced, SigmaFamily, TimestepFamily, solver_name
from .hosts import Unasked
from .placed import RegionConds
from .previews import Preview, show_anew
from .rescue import in_float32, unet_in_float32
from .seats import Beside, Padding, Seat, Watcher


def row_owners(cond: Any) -> list[int]:
    """The image that each row of the host's denoiser call belongs to: `AND` prompts image by image, then negatives."""
    prompts = [len(conds) for conds in cond.batch]
    return [image for image, count in enumerate(prompts) for _ in range(count)] + list(range(len(prompts)))


def row_shares(cond: Any) -> list[float | None]:
    """The weight of each row's prompt among its image's, None of a negative prompt. Weights that cancel count alike."""
    shares: list[float | None] = []
    for conds in cond.batch:
        weights = [float(part.weight) for part in conds]
        total = sum(weights)
        shares += [weight / total if abs(total) > 1e-6 else 1 / len(weights) for weight in weights]
    return shares + [None] * len(cond.batch)


class FusedModel(torch.nn.Module):
    """Stands where the host's inner model stood, and answers for the whole latent by asking that model for parts of it."""

    def __init__(
        self,
        family: SigmaFamily | TimestepFamily,
        engine: PhaseEngine,
        corner: CropCorner | None,
        watcher: Watcher,
        padding: Padding,
        base_lat: tuple[int, int],
        beside: Beside,
        regions: RegionConds | None = None,
    ):
        super().__init__()
        # not as a submodule: moving or saving this object must not move or save the host's model
        self.__dict__["base"] = family.base
        self.family = family
        self.engine = engine
        self.corner = corner
        self.watcher = watcher
        self.padding = padding
        self.base_lat = base_lat
        self.beside = beside
        self.regions = regions
        self.__dict__["calls"] = 0  # of the host's, in this phase
        self.begin(engine.evaluation([0], [1.0], 0.0), torch.zeros(1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["base"], name)

    def begin(self, evaluation: Evaluation, level: torch.Tensor) -> None:
        """A new evaluation of the guided denoiser. Its rows come in their order, in one call or in several.

        level: the host's, on the CPU.
        """
        self.__dict__["evaluation"] = evaluation
        self.__dict__["level"] = level
        self.__dict__["row"] = 0

    def _next_rows(self, count: int) -> int:
        """The number of the first of them."""
        first, self.__dict__["row"] = self.row, self.row + count
        return int(first)

    def forward(self, x: torch.Tensor, level: torch.Tensor, cond: Any = None, **extra: Any) -> torch.Tensor:
        self.__dict__["calls"] += 1

        def given(
            patches: torch.Tensor, level: torch.Tensor, cond: Any, extra: dict[str, Any], now: Looking
        ) -> torch.Tensor:
            with self.padding(now), self.beside.following(now):
                return self.base(patches, level, cond=cond, **extra)

        def ask(patches: torch.Tensor, cond: Any, level: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
            now = looking()
            assert now is not None
            part = told_of(cond, now)
            if self.regions is not None and "vector" in part:
                part["vector"] = self.regions.write_vectors(part["vector"], now.prompts)
            if self.corner is not None and "vector" in part:
                part["vector"] = self.corner.write(part["vector"], now)
            if self.regions is None or not any(now.prompts):
                return given(patches, level[now.rows], part, extra, now)
            answer, levels = torch.empty_like(patches), level[now.rows]
            for chosen, own in self.regions.apart(part, now.prompts):
                with look(now.some(chosen)) as here:
                    answer[chosen] = given(patches[chosen], levels[chosen], own, extra, here)
            return answer

        def predict(patches: torch.Tensor, *_: Any) -> torch.Tensor:
            if shared.state.interrupted or shared.state.skipped:
                raise InterruptedException
            self.watcher.patches(patches)
            return ask(patches, cond, level, extra)

        def rescue(patches: torch.Tensor, *_: Any) -> torch.Tensor:
            with unet_in_float32(shared.sd_model, self.beside.modules):
                wide = in_float32(extra)
                answer = ask(patches.float(), in_float32(cond), level.float(), wide)
            return answer.to(patches.dtype)

        def low(rows: Sequence[int]) -> torch.Tensor:
            """On the whole latent, shrunk to the base's size, at the noise that shrinking leaves."""
            if shared.state.interrupted or shared.state.skipped:
                raise InterruptedException
            gain = shrunk_noise((x.shape[-2], x.shape[-1]), self.base_lat)
            small, before, after = self.family.shrunk(self.level, gain)
            q = shrink(x, *self.base_lat).mul_(before)[list(rows)]
            self.watcher.patches(q)
            return ask(q, cond, torch.full_like(level, small), extra).mul(after)

        return self.evaluation(
            x, self._next_rows(len(x)), self.family.skip(self.level), predict,
            rescue=rescue, low=low, base_lat=self.base_lat,
        )  # fmt: skip


class SamplerSeat:
    """In place of the inner model of one sampler's guided denoiser."""

    def __init__(self, sampler: Any, fused: FusedModel):
        self.guided, self.base = sampler.model_wrap_cfg, fused.base
        self.fused = self.guided.model_wrap = fused

    def leave(self) -> None:
        self.guided.model_wrap = self.base


class InstalledEngine:
    """The engine in one sampler instance, until it is taken off. Nothing else of the host is touched."""

    def __init__(
        self,
        sampler: Any,
        family: SigmaFamily | TimestepFamily,
        engine: PhaseEngine,
        seat: Seat,
        watcher: Watcher,
        late: Replaced,
    ):
        self.family = family
        self.engine = engine
        self.interrupted = False
        self.watcher = watcher
        self.guided = sampler.model_wrap_cfg
        self.guided_forward = self.guided.forward
        self.callback_state = sampler.callback_state
        self.replaced: list[tuple[Any, str, Any]] = []
        self.seat, self.fused = seat, seat.fused
        self.preview = Preview(engine.residual.previous, engine.fusion.weights)
        self.pred_x0, self.asked, self.t = self.guided.get_pred_x0, 0, 0.0
        self._replace(self.guided, "forward", self.forward)
        self._replace(self.guided, "get_pred_x0", self.previewed)
        for name, value in late.items():
            self._replace(sampler, name, value)
        if solver_name(sampler) in CORRECTED:
            self._replace(sampler, "callback_state", self.after_correction)

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        self.replaced.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, function)

    def take_off(self) -> None:
        """Leaves the sampler as it was: another extension may have made it, and may go on with it."""
        self.seat.leave()
        for owner, name, function in self.replaced:
            if function is None:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, function)

    def forward(self, x: torch.Tensor, level: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        own = level[:1].cpu()  # the one number of a step that is read from the device
        t, alpha, sigma = self.family.level(own)
        self.engine.before(x, t, alpha, sigma)
        self.watcher.step(self.engine.step)
        self.fused.begin(self.engine.evaluation(row_owners(kwargs["cond"]), row_shares(kwargs["cond"]), t), own)
        self.asked, self.t = 0, t
        if self.fused.regions is not None:
            self.fused.regions.at(self.guided.step)
        try:
            answer = self.guided_forward(x, level, *args, **kwargs)
            if not self.fused.calls:
                raise Unasked
            shown = shared.state.current_latent
            if shown is not None and shown.shape == x.shape:  # of the prompt alone: the host's last latent itself
                shared.state.current_latent = self.preview.of(shown, t)
            show_anew()
            held = self.family.hold(self.engine, answer, x, own)
            kept = self.guided.nmask  # outside a mask the host's own blend stands
            return held if kept is None else torch.lerp(answer, held, kept.to(held))
        except InterruptedException:
            self.interrupted = True
            raise

    def previewed(self, *args: Any) -> torch.Tensor:
        """The host asks for an estimate for itself, and then for one to show."""
        self.asked += 1
        found: torch.Tensor = self.pred_x0(*args)
        return found if self.asked == 1 else self.preview.of(found, self.t)

    def after_correction(self, info: dict[str, Any]) -> None:
        self.engine.corrected(info["x"])
        self.callback_state(info)
