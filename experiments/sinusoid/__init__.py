"""Sinusoid regression: the learner and where its tasks come from."""
