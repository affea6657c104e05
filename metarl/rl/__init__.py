"""Meta-reinforcement learning: policies, rollouts, inner loops and meta-updates."""
