"""Few-shot image classification: data, episodes, networks and losses."""
