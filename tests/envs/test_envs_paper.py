"""The "paper" physics against independent stepping of one environment, and against the figures."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import pytest

import metarl_envs  # noqa: F401
from metarl_envs.quiet import quiet_mujoco

ASSETS = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
ROWS = 4
Array = np.ndarray[Any, Any]


class Expected(NamedTuple):
    observation: Array
    velocity: float
    position: Any
    contact_cost: float


def model_of(name: str) -> mujoco.MjModel:
    """The model of the experiments' table, built without the package."""
    with quiet_mujoco():
        model = mujoco.MjModel.from_xml_path(str(ASSETS / name))
    if name == "ant.xml":
        model.opt.timestep = 0.02
        model.geom_solref[:] = (0.02, 1.0)
        model.geom_solimp[:, :3] = (0.8, 0.8, 0.01)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    return model


def forward(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    mujoco.mj_subtreeVel(model, data)


def look(data: mujoco.MjData, ant: bool) -> Expected:
    state = [data.qpos, data.qvel] if ant else [data.qpos[1:], data.qvel]
    force = np.clip(data.cfrc_ext, -1, 1)
    if ant:
        state += [force.ravel(), data.body("torso").xmat]
    centre = data.subtree_com[1]
    observation = np.concatenate([*state, centre])
    position = centre[:2].copy() if ant else centre[0]
    cost = 0.0005 * (force**2).sum()
    return Expected(observation, data.subtree_linvel[1, 0], position, cost)


def compare(env_id: str, asset: str, steps: int, prepare: Any = forward) -> dict[str, float]:
    """Largest differences of each quantity over ``steps`` random steps of ``ROWS`` environments."""
    ant = asset == "ant.xml"
    rng = np.random.default_rng(0)
    envs = gymnasium.make_vec(env_id, num_envs=ROWS, horizon=steps)
    first, _ = envs.reset(seed=0)
    model = model_of(asset)
    singles = [mujoco.MjData(model) for _ in range(ROWS)]
    worst = dict.fromkeys(("state", "observation", "velocity", "position", "contact"), 0.0)

    def update(name: str, ours: Any, theirs: Any) -> None:
        worst[name] = max(worst[name], float(np.abs(np.subtract(ours, theirs)).max()))

    nq = model.nq
    for row, data in enumerate(singles):
        start = envs.unwrapped._states[row]
        data.qpos[:], data.qvel[:] = start[1 : 1 + nq], start[1 + nq :]
        prepare(model, data)
        update("observation", first[row], look(data, ant).observation.astype(np.float32))
    touched = False
    for _ in range(steps):
        actions = rng.uniform(-1.5, 1.5, (ROWS, model.nu))
        observations, _, terminated, _, infos = envs.step(actions)
        for row, data in enumerate(singles):
            data.ctrl[:] = np.clip(actions[row], -1, 1)
            mujoco.mj_step(model, data)
            state = np.concatenate((data.qpos, data.qvel))
            update("state", envs.unwrapped._states[row, 1:], state)
            prepare(model, data)
            expected = look(data, ant)
            update("observation", observations[row], expected.observation.astype(np.float32))
            update("velocity", infos["velocity"][row], expected.velocity)
            update("position", infos["position"][row], expected.position)
            if ant:
                update("contact", infos["reward_contact"][row], -expected.contact_cost)
                touched |= expected.contact_cost > 0
        if terminated.any():
            break
    envs.close()
    return {**worst, "touched": float(touched)}


CASES = [
    ("metarl/HalfCheetahVelocity-v0", "half_cheetah.xml"),
    ("metarl/AntVelocity-v0", "ant.xml"),
    ("metarl/AntGoal-v0", "ant.xml"),
]


@pytest.mark.parametrize(("env_id", "asset"), CASES)
def test_paper_physics_equals_independent_stepping(env_id: str, asset: str) -> None:
    worst = compare(env_id, asset, 80)
    assert worst["state"] == 0.0
    assert worst["observation"] < 1e-6  # one unit in the last place of a float32
    assert worst["velocity"] < 1e-10
    assert worst["position"] < 1e-10
    assert worst["contact"] < 1e-10
    assert worst["touched"] or asset != "ant.xml"


@pytest.mark.parametrize(("env_id", "asset"), CASES)
def test_mutants_lagging_or_forceless_are_seen(env_id: str, asset: str) -> None:
    def nothing(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        mujoco.mj_subtreeVel(model, data)  # what mj_step left: the state before integration

    def forceless(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)

    lagging = compare(env_id, asset, 40, nothing)
    assert lagging["state"] == 0.0
    assert lagging["velocity"] > 1e-3
    assert lagging["observation"] > 1e-3
    if asset == "ant.xml":
        assert compare(env_id, asset, 40, forceless)["contact"] > 1e-4


@pytest.mark.parametrize("physics", ["paper", "gym"])
def test_cheetah_centre_of_mass_equals_mujoco(physics: str) -> None:
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=1, physics=physics)
    world = envs.unwrapped.world
    rng = np.random.default_rng(2)
    qpos, qvel = rng.uniform(-3, 3, (100, 9)), rng.uniform(-20, 20, (100, 9))
    x, z, velocity = world.centre_of_mass(world.physics.states(qpos, qvel))
    data = mujoco.MjData(world.model)
    for row in range(100):
        data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
        forward(world.model, data)
        assert np.abs(data.subtree_com[1] - (x[row], 0.0, z[row])).max() < 1e-10
        assert abs(data.subtree_linvel[1, 0] - velocity[row]) < 1e-10
        # Mutant: the root's velocity is not the centre of mass's.
        assert abs(qvel[row, 0] - velocity[row]) > 1e-6


def random_returns(env_id: str, initialisations: int, tasks: int) -> Array:
    """Returns ``(initialisation,)`` of untrained 100-100 ReLU policies with unit noise."""
    envs = gymnasium.make_vec(env_id, num_envs=initialisations * tasks)
    rng = np.random.default_rng(0)
    observations, _ = envs.reset(seed=0)
    features, high = observations.shape[1], envs.single_action_space.high
    sizes = (features, 100, 100, len(high))
    layers = [
        rng.uniform(-1, 1, (initialisations, a, b)) * np.sqrt(6 / (a + b))
        for a, b in pairwise(sizes)
    ]
    total = np.zeros(envs.num_envs)
    for _ in range(envs.unwrapped.horizon):
        hidden = observations.reshape(initialisations, tasks, features)
        for layer in layers[:-1]:
            hidden = np.maximum(hidden @ layer, 0)
        mean = (hidden @ layers[-1]).reshape(envs.num_envs, -1)
        actions = np.clip(mean + rng.standard_normal(mean.shape), -1, 1) * high
        observations, reward, *_ = envs.step(actions)
        total += reward
    envs.close()
    return total.reshape(initialisations, tasks).mean(axis=1)


@pytest.mark.parametrize(
    ("env_id", "authors"),
    [
        ("metarl/Navigation2D-v0", -82.66),
        ("metarl/HalfCheetahVelocity-v0", -254.83),
        ("metarl/HalfCheetahDirection-v0", -35.73),
        ("metarl/AntVelocity-v0", -78.64),
        ("metarl/AntDirection-v0", 3.11),
    ],
)
def test_random_policies_earn_what_the_authors_did(env_id: str, authors: float) -> None:
    """The authors' untrained policy lies within the spread of ours: a coarse check of the scale."""
    returns = random_returns(env_id, 20, 6)
    assert returns.min() < authors < returns.max()
