"""The "gym" variants against gymnasium's own environments, bit for bit where that is possible."""

import re
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from mujoco.rollout import Rollout
from numpy.typing import NDArray

import metarl_envs  # noqa: F401
from metarl_envs.models import load_ant, load_cheetah
from metarl_envs.physics import Physics
from metarl_envs.quiet import quiet_mujoco

ROWS = 16
ASSETS = Path(gymnasium.__file__).parent / "envs/mujoco/assets"


def reference(name: str, **kwargs: Any) -> Any:
    with quiet_mujoco():
        env = gymnasium.make(name, **kwargs).unwrapped
    env.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    return env


def differing(left: mujoco.MjModel, right: mujoco.MjModel) -> list[str]:
    names = [name for name in dir(left) if isinstance(getattr(left, name), np.ndarray)]
    wrong = [n for n in names if not np.array_equal(getattr(left, n), getattr(right, n))]
    for name in dir(left.opt):
        a, b = getattr(left.opt, name), getattr(right.opt, name)
        if name[0] != "_" and not callable(a) and not np.array_equal(a, b):
            wrong.append(f"opt.{name}")
    return wrong + ["meaninertia"] * (left.stat.meaninertia != right.stat.meaninertia)


# Where listed contacts stand, see tests/test_envs_contacts.py, and what is made of who may collide.
CONTACTS = re.compile("pair_|names?_|_sizes|bvh_|body_bvh|(body|geom)_(contype|conaffinity)")


def test_models_are_gymnasiums_but_for_warm_start_and_contacts() -> None:
    with quiet_mujoco():
        cheetah = mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))
        ant = mujoco.MjModel.from_xml_path(str(ASSETS / "ant.xml"))

    def others(theirs: mujoco.MjModel, ours: mujoco.MjModel) -> set[str]:
        return {name for name in differing(theirs, ours) if not CONTACTS.match(name)}

    assert others(cheetah, load_cheetah()) == {"opt.disableflags"}
    assert others(ant, load_ant("gym")) == {"opt.disableflags"}
    paper = {"geom_solimp", "opt.disableflags", "opt.timestep"}
    assert others(ant, load_ant("paper")) == paper


def test_mass_mutant_is_seen() -> None:
    spec = mujoco.MjSpec.from_file(str(ASSETS / "half_cheetah.xml"))
    spec.compiler.settotalmass = -1.0
    assert "body_mass" in differing(spec.compile(), load_cheetah())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_cheetah_equals_half_cheetah_v5(threads: int) -> None:
    rng = np.random.default_rng(0)
    envs = gymnasium.make_vec(
        "metarl/HalfCheetahDirection-v0", num_envs=ROWS, physics="gym", threads=threads
    )
    envs.set_attr("task", [{"direction": 1.0}] * ROWS)
    envs.reset(seed=0)
    env = reference("HalfCheetah-v5", ctrl_cost_weight=0.05)
    starts = envs.unwrapped._states.copy()
    actions = rng.uniform(-1, 1, (200, ROWS, 6))
    steps = [envs.step(action) for action in actions]
    for row in range(ROWS):
        env.reset()
        env.set_state(starts[row, 1:10], starts[row, 10:])
        for t in range(200):
            observation, reward, _, _, info = env.step(actions[t, row])
            assert np.array_equal(steps[t][0][row], observation.astype(np.float32))
            assert steps[t][1][row] - reward == 0.0
            assert steps[t][4]["velocity"][row] == info["x_velocity"]
            assert steps[t][4]["position"][row] == info["x_position"]
        assert np.array_equal(envs.unwrapped._states[row, 1:10], env.data.qpos)
    assert steps[-1][3].all()
    assert not steps[-2][3].any()
    envs.close()


def test_warm_start_mutant_parts_from_gymnasium() -> None:
    ours = gymnasium.make("metarl/HalfCheetahVelocity-v0", physics="gym").unwrapped
    with quiet_mujoco():
        warm = gymnasium.make("HalfCheetah-v5").unwrapped
    rng = np.random.default_rng(0)
    ours.reset(seed=3)
    warm.reset(seed=3)
    equal = True
    for _ in range(100):
        action = rng.uniform(-1, 1, 6)
        equal &= np.array_equal(ours.step(action)[0], warm.step(action)[0].astype(np.float32))
    assert not equal


@pytest.mark.parametrize(
    ("name", "original", "shared"),
    [
        ("metarl/HalfCheetahVelocity-v0", "HalfCheetah-v5", 17),
        ("metarl/AntVelocity-v0", "Ant-v5", 27),
    ],
)
def test_single_starts_as_gymnasiums(name: str, original: str, shared: int) -> None:
    env = gymnasium.make(name, physics="gym")
    ours, _ = env.reset(seed=7)
    theirs, _ = reference(original).reset(seed=7)
    assert np.array_equal(ours[:shared], theirs[:shared].astype(np.float32))
    again = [env.reset()[0][:shared] for _ in range(2)]
    assert not np.array_equal(*again)


def contact_forces(env: Any) -> NDArray[np.float64]:
    """Clipped, of the state where it is; its own are of the last Runge-Kutta stage."""
    data = mujoco.MjData(env.model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = env.data.qpos, env.data.qvel, env.data.ctrl
    mujoco.mj_forward(env.model, data)
    mujoco.mj_rnePostConstraint(env.model, data)
    force: NDArray[np.float64] = np.clip(data.cfrc_ext[1:], -1, 1).ravel()
    return force


def test_ant_moves_as_ant_v5() -> None:
    """State bit-equal; velocity to the lag of gymnasium's ``xpos`` (its last Runge-Kutta stage)."""
    rng = np.random.default_rng(0)
    env = gymnasium.make("metarl/AntVelocity-v0", physics="gym")
    original = reference("Ant-v5")
    env.reset(seed=7)
    original.reset(seed=7)
    touched = False
    for _ in range(60):
        action = rng.uniform(-1, 1, 8)
        ours, _, terminated, _, info = env.step(action)
        theirs, _, ended, _, reported = original.step(action)
        assert np.array_equal(ours[:27], theirs[:27].astype(np.float32))
        assert abs(info["velocity"] - reported["x_velocity"]) < 0.1
        assert info["position"].tolist() == [reported["x_position"], reported["y_position"]]
        force = contact_forces(original)
        touched |= bool(force.any())
        assert np.abs(ours[27:] - force).max() < 1e-6
        assert terminated == ended
        if ended:
            break
    assert touched


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 5, ROWS])
def test_pool_equals_any_chunking(threads: int, chunk: int) -> None:
    rng = np.random.default_rng(1)
    model = load_cheetah()
    physics = Physics(model, ROWS, 5, threads)
    states = physics.states(0.1 * rng.standard_normal((ROWS, 9)), rng.standard_normal((ROWS, 9)))
    control = rng.uniform(-1, 1, (ROWS, 6))
    ours, invalid = physics.step(states, control)
    with Rollout(nthread=2) as pool:
        theirs, _ = pool.rollout(
            model,
            [mujoco.MjData(model) for _ in range(2)],
            states,
            np.repeat(control[:, None], 5, axis=1),
            chunk_size=chunk,
        )
    assert np.array_equal(ours, theirs[:, -1])
    assert not invalid.any()
    physics.close()
