"""Few-shot images: the learner, its tasks and its evaluation."""
