"""The algorithm alone: torch, no host, no files, no globals."""

from .batching import WindowBatch, is_out_of_memory
from .blurring import gaussian_blur
from .engine import PhaseEngine
from .enlarging import ENLARGEMENTS, FromPicture, InLatent, InPixels, Paste
from .evaluations import evaluated_sigmas, evaluated_timesteps, is_countable
from .finite import NotFiniteError, Place
from .fusion import PhaseFusion
from .guidance import GUIDANCES, Evaluation, Guidance, Low
from .looking import WAYS, Looking, look, looking
from .paths import Predict
from .phases import (
    PLANS,
    Enlarge,
    Phase,
    centre_crop,
    climb,
    cropped_size,
    plan_phases,
    plan_scales,
    scaled_size,
    shrink,
    shrunk_noise,
    statistics,
    upsample,
    with_statistics,
)
from .picture import NEAR_NATIVE, Strength, held, picture_part, plan_picture, window_size
from .regions import PlacedPrompts, Region
from .residual import RESIDUALS, Residual, SkipResidual, X0Residual
from .schedule import Weights, cosine_factor, step_normalised
from .sharing import ALONE, Call, Share, SharedOutOfMemory
from .solvers import CORRECTED, LEAST_STEPS, SOLVERS, degenerate_step, first_sigma, is_stochastic, step_starts
from .views import BORDERS, Layout, View, WindowGrid, dilated_layout, step_generator
from .weighing import WINDOW_WEIGHTS

__all__ = [
    "ALONE",
    "BORDERS",
    "CORRECTED",
    "ENLARGEMENTS",
    "GUIDANCES",
    "LEAST_STEPS",
    "NEAR_NATIVE",
    "PLANS",
    "RESIDUALS",
    "SOLVERS",
    "WAYS",
    "WINDOW_WEIGHTS",
    "Call",
    "Enlarge",
    "Evaluation",
    "FromPicture",
    "Guidance",
    "InLatent",
    "InPixels",
    "Layout",
    "Looking",
    "Low",
    "NotFiniteError",
    "Paste",
    "Phase",
    "PhaseEngine",
    "PhaseFusion",
    "Place",
    "PlacedPrompts",
    "Predict",
    "Region",
    "Residual",
    "Share",
    "SharedOutOfMemory",
    "SkipResidual",
    "Strength",
    "View",
    "Weights",
    "WindowBatch",
    "WindowGrid",
    "X0Residual",
    "centre_crop",
    "climb",
    "cosine_factor",
    "cropped_size",
    "degenerate_step",
    "dilated_layout",
    "evaluated_sigmas",
    "evaluated_timesteps",
    "first_sigma",
    "gaussian_blur",
    "held",
    "is_countable",
    "is_out_of_memory",
    "is_stochastic",
    "look",
    "looking",
    "picture_part",
    "plan_phases",
    "plan_picture",
    "plan_scales",
    "scaled_size",
    "shrink",
    "shrunk_noise",
    "statistics",
    "step_generator",
    "step_normalised",
    "step_starts",
    "upsample",
    "window_size",
    "with_statistics",
]
