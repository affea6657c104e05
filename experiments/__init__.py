"""Experiments: presets, command line, figures."""
