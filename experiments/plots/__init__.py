"""Figures of the families and of what they have in common, and the page that holds them."""
