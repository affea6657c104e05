"""Pages, figures and documents from runs that are there."""
