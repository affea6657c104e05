"""Meta-learning for regression."""

from .losses import mean_squared_error
from .sinusoid import Regression, Sinusoids, sample_points, sample_tasks

__all__ = ["Regression", "Sinusoids", "mean_squared_error", "sample_points", "sample_tasks"]
