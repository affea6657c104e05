"""Meta-learning for regression."""
