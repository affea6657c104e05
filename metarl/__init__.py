"""Model-agnostic meta-learning on torch."""
