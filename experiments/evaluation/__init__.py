"""Evaluation of runs: one, paired with another, written, shipped."""
