"""Meta-policies: the learner, what it acts in, the protocol of its evaluation, its films."""
