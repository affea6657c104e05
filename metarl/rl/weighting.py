"""From rewards to weights of the policy gradient."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from metarl.rl.advantages import advantages, masked_std, standardize
from metarl.rl.rollout import Rollout


@dataclass(frozen=True)
class Weighting:
    """How a rollout's rewards become weights of the policy gradient; see `advantages`.

    Attributes:
        discount: gamma.
        gae_lambda: lambda of the generalised advantage estimator.
        bootstrap_time_limit: use V of the final observation at the time limit.
        baseline: ``"linear"`` (features of observation and time) or ``"zero"``.
        standardized: mean 0 and standard deviation 1 per task.
    """

    discount: float = 0.99
    gae_lambda: float = 1.0
    bootstrap_time_limit: bool = False
    baseline: Literal["linear", "zero"] = "linear"
    standardized: bool = True

    def __call__(self, rollout: Rollout) -> Tensor:
        """Weights ``(task, episode, time)``."""
        return self.split(rollout)[0]

    def split(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Weights, and the unit ``(task,)`` that each task's are in: 1 if not standardised."""
        raw = advantages(
            rollout,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            bootstrap_time_limit=self.bootstrap_time_limit,
            value=self.baseline,
            standardized=False,
        )
        if not self.standardized:
            return raw, raw.new_ones(len(raw))
        # In float64, or the rounding of equal weights would be blown up to size 1.
        wide, mask = raw.double(), rollout.mask.double()
        return standardize(wide, mask).to(raw.dtype), masked_std(wide, mask).to(raw.dtype)
