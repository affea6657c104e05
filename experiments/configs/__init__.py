"""Configurations of the experiment families: plain frozen dataclasses, importable without torch."""
