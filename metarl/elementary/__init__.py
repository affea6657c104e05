"""Fused operations of torch made of elementary ones, to be mapped and differentiated twice."""

from .mode import Elementary

__all__ = ["Elementary"]
