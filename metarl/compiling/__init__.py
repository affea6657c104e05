"""Compiled functions of a chunk of tasks: recorded, split, and multiplied as is fastest."""

from .chunks import Ready, compile_chunks, compile_products, compiler_present
from .linear import onednn_present

__all__ = ["Ready", "compile_chunks", "compile_products", "compiler_present", "onednn_present"]
