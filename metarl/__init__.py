"""Model-agnostic meta-learning on torch: adaptation, meta-gradients and trust-region updates.

Losses are written for one task; the core maps them over all tasks.
"""

from .adaptation import adapt_path, adapt_tasks, adaptation_curve
from .errors import (
    CheckpointError,
    InputError,
    MetarlError,
    NoDataError,
    NonFiniteError,
    RankError,
    RunWarning,
    SaveError,
    WorkerError,
)
from .gauss_newton import GaussNewton
from .inner import InnerLoop, adapt, extended_rates
from .loss import Loss
from .mapping import resolve_mapping
from .meta import meta_gradient, meta_loss, reptile_loss
from .objective import Objective, mean_over_tasks
from .params import Params, expand_params, from_module, split_rates
from .rates import learned_rates, signal_rates, step_moments
from .streams import seed_of, stream, torch_stream
from .trust_region import StepInfo, conjugate_gradient, trust_region_step

__all__ = [
    "CheckpointError",
    "GaussNewton",
    "InnerLoop",
    "InputError",
    "Loss",
    "MetarlError",
    "NoDataError",
    "NonFiniteError",
    "Objective",
    "Params",
    "RankError",
    "RunWarning",
    "SaveError",
    "StepInfo",
    "WorkerError",
    "adapt",
    "adapt_path",
    "adapt_tasks",
    "adaptation_curve",
    "conjugate_gradient",
    "expand_params",
    "extended_rates",
    "from_module",
    "learned_rates",
    "mean_over_tasks",
    "meta_gradient",
    "meta_loss",
    "reptile_loss",
    "resolve_mapping",
    "seed_of",
    "signal_rates",
    "split_rates",
    "step_moments",
    "stream",
    "torch_stream",
    "trust_region_step",
]
