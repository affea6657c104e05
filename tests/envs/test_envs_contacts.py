"""Contacts listed pair by pair are those that MuJoCo would have searched for, to the bit."""

from collections.abc import Callable

import mujoco
import numpy as np
import pytest

from metarl_envs import models
from metarl_envs.physics import Physics

LOADED: dict[str, Callable[[], mujoco.MjModel]] = {
    "cheetah": models.load_cheetah,
    "ant": lambda: models.load_ant("paper"),
    "ant, gym": lambda: models.load_ant("gym"),
    "what the ant senses": lambda: models.load_ant_sensors("paper"),
    "what the ant senses, gym": lambda: models.load_ant_sensors("gym"),
}
ROWS = 32


def searching(name: str, monkeypatch: pytest.MonkeyPatch) -> mujoco.MjModel:
    """The model as its file has it: MuJoCo looks for contacts of all geoms with all."""
    with monkeypatch.context() as patch:
        patch.setattr(models, "_list_contacts", lambda spec: None)
        model = LOADED[name]()
    model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    return model


def outcomes(model: mujoco.MjModel) -> np.ndarray:
    """States and sensors of falling, struggling and lying robots, ``(step, row, number)``."""
    rng = np.random.default_rng(3)
    physics = Physics(model, ROWS, 1, 1)
    position = model.qpos0 + rng.uniform(-0.3, 0.3, (ROWS, model.nq))
    states = physics.states(position, rng.standard_normal((ROWS, model.nv)))
    found = []
    for _ in range(60):
        after, invalid = physics.step(states, rng.uniform(-1, 1, (ROWS, model.nu)))
        assert not invalid.any()
        states = after.copy()
        found.append(np.concatenate((states, physics._sensors[:, 0]), axis=1))
    return np.stack(found)


@pytest.mark.parametrize("name", LOADED)
def test_listed_contacts_are_those_that_are_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LOADED[name]()
    assert model.npair == model.ngeom - 1
    theirs = outcomes(searching(name, monkeypatch))
    np.testing.assert_array_equal(outcomes(model), theirs)
    for parameter in ("friction", "margin", "solref", "solimp"):
        mutant = LOADED[name]()
        listed = getattr(mutant, f"pair_{parameter}")
        listed[:] = 0.9 * listed + 0.01
        assert not np.array_equal(outcomes(mutant), theirs)


@pytest.mark.parametrize("name", LOADED)
def test_robots_touch_nothing_but_the_floor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = searching(name, monkeypatch)
    types, affinities = model.geom_contype, model.geom_conaffinity
    collide = (types[:, None] & affinities) | (types & affinities[:, None])
    floor = int(model.geom("floor").id)
    apart = model.geom_bodyid[:, None] != model.geom_bodyid
    first, second = np.nonzero(np.triu((collide != 0) & apart))
    assert set(first) == {floor}
    assert len(second) == model.ngeom - 1
    pairs = LOADED[name]()
    assert {*pairs.pair_geom1, *pairs.pair_geom2} == set(range(model.ngeom))
