"""Figures, one file a family, and the page that holds them."""
