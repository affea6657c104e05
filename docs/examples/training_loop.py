"""Meta-train a policy by MAML and TRPO: one file, from top to bottom.

python training_loop.py --iterations 50
"""

from dataclasses import dataclass

import gymnasium
import torch
import tyro

import metarl
import metarl_envs  # noqa: F401  # registers metarl/...
from metarl.rl import (
    GaussianMLP,
    MetaPolicy,
    Sampler,
    Weighting,
    collect_meta_batch,
    old_policy,
    policy_objectives,
    trpo_update,
)


@dataclass(frozen=True)
class Args:
    """What to train on, and how."""

    env_id: str = "metarl/Navigation2D-v0"  # one of metarl's own environments
    horizon: int = 100  # steps of an episode
    iterations: int = 50  # meta-updates
    meta_batch: int = 20  # tasks in each
    episodes: int = 20  # of each task, before and after its gradient step
    inner_steps: int = 1  # gradient steps of each task
    inner_lr: float = 0.2  # their size
    max_kl: float = 0.02  # trust region of the meta-update
    discount: float = 0.99  # gamma
    seed: int = 0  # of everything
    out: str = "theta.npz"  # where the parameters go


args = tyro.cli(Args)
torch.set_num_threads(1)  # the physics has threads of its own

# Every row of the vector environment is one episode of one task. Environments of one's own take no
# horizon here and need AutoresetMode.DISABLED: docs/writing.md has their line.
rows = args.meta_batch * args.episodes
envs = gymnasium.make_vec(args.env_id, num_envs=rows, horizon=args.horizon)
sampler = Sampler(envs, episodes=args.episodes, horizon=args.horizon)
policy = GaussianMLP(
    envs.single_observation_space.shape[0],
    envs.single_action_space.shape[0],
    head_scale=0.01,
    generator=metarl.torch_stream(args.seed, "weights"),
)
theta, apply = metarl.from_module(policy)
inner = metarl.InnerLoop(args.inner_lr)
objectives = policy_objectives(apply, inner)
weighting = Weighting(args.discount)

for iteration in range(args.iterations):
    # Act under theta, take a gradient step on each task, act under the adapted policies.
    collected = collect_meta_batch(
        theta,
        policy=policy,
        objectives=objectives,
        sampler=sampler,
        tasks=sampler.sample_tasks(args.meta_batch, metarl.stream(args.seed, "tasks", iteration)),
        inner_steps=args.inner_steps,
        weighting=weighting,
        seed=metarl.seed_of(args.seed, "rollouts", iteration),
    )

    # Move theta so that the adapted policies earn more.
    theta, metrics = trpo_update(
        objectives,
        theta,
        old_policy(objectives, theta, collected.data),
        max_kl=args.max_kl,
        generator=metarl.torch_stream(args.seed, "fisher", iteration),
    )

    before, *_, after = collected.returns().mean(1).tolist()
    print(
        f"{iteration + 1:4d}  return {before:8.2f} -> {after:8.2f}  kl {metrics['kl']:.4f}",
        flush=True,
    )

# On a task never seen: a policy to act with, and parameters to keep.
metapolicy = MetaPolicy(
    theta, policy, inner, args.inner_steps, weighting=weighting, horizon=args.horizon
)
adapted = metapolicy.adapt(args.env_id, episodes=args.episodes, steps=3, seed=args.seed)
print("return before each step on a new task:", *(f"{r:.2f}" for r in adapted.returns))
metapolicy.save(args.out)
