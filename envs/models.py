"""MuJoCo models: gymnasium's installed assets, edited in memory."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np

from .quiet import quiet_mujoco

_ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def load_cheetah() -> mujoco.MjModel:
    """Planar cheetah of ``half_cheetah.xml``: 14 kg, Euler, time step 0.01 s, warm start off.

    The file's ``settotalmass`` is deprecated and noisy, so the compiled model is scaled instead;
    every number of the model stays what the file's own compilation gives.
    """
    spec = _read("half_cheetah.xml")
    total = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1.0
    model = _compile(spec)
    mujoco.mj_setTotalmass(model, total)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    # The statistics scale the constraint solver's tolerance; the compiler takes them after scaling.
    model.stat.meaninertia = np.cumsum(model.dof_M0)[-1] / model.nv  # added up in its order
    return model


def load_ant(physics: str) -> mujoco.MjModel:
    """Ant of ``ant.xml``, warm start off: RK4 with time step 0.02 s ("paper") or 0.01 s ("gym").

    The paper's ant also has the contact parameters of the 2017 model: solref .02 1, solimp .8 .8
    .01. gymnasium's file leaves them at MuJoCo's defaults.
    """
    spec = _read("ant.xml")
    if physics == "paper":
        spec.option.timestep = 0.02
        for geom in spec.geoms:
            geom.solref = [0.02, 1.0]
            geom.solimp = [0.8, 0.8, 0.01, 0.5, 2.0]
    return _compile(spec)


def load_ant_sensors(physics: str) -> mujoco.MjModel:
    """The same ant with sensors that read what its observation and costs need.

    For each body after the world: net contact force (3), torque (3) and the point they act at (3),
    in world coordinates; then the whole body's centre of mass (3) and its velocity (3). One step
    evaluates the dynamics once (Euler), before moving, so the sensors belong to the state put in.
    """
    spec = _read("ant.xml")
    base = load_ant(physics)
    spec.option.timestep = base.opt.timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP  # one factorisation less
    for geom, solref, solimp in zip(spec.geoms, base.geom_solref, base.geom_solimp, strict=True):
        geom.solref, geom.solimp = solref, solimp
    bodies = spec.bodies[1:]
    for index, body in enumerate(bodies):
        if not body.name:
            body.name = f"part_{index}"
    for body in bodies:
        _contact_sensor(spec, body.name)
    for kind in (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtSensor.mjSENS_SUBTREELINVEL):
        spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")
    return _compile(spec)


def _contact_sensor(spec: mujoco.MjSpec, body: str) -> None:
    fields = (
        mujoco.mjtConDataField.mjCONDATA_FORCE,
        mujoco.mjtConDataField.mjCONDATA_TORQUE,
        mujoco.mjtConDataField.mjCONDATA_POS,
    )
    net_force = 3  # reduction: one contact with the net force and torque, in world axes
    spec.add_sensor(
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=mujoco.mjtObj.mjOBJ_BODY,
        objname=body,
        intprm=[sum(1 << int(field) for field in fields), net_force, 1],
    )


def _read(name: str) -> mujoco.MjSpec:
    with quiet_mujoco():
        return mujoco.MjSpec.from_file(str(_ASSETS / name))


def _compile(spec: mujoco.MjSpec) -> mujoco.MjModel:
    with quiet_mujoco():
        _list_contacts(spec)
        model = spec.compile()
    # Without warm start one step is a pure function of position, velocity and control: results do
    # not depend on which thread stepped what before, and resuming needs no solver state.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    # One robot is one island: to look for several takes time and finds the same.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND
    return model


def _list_contacts(spec: mujoco.MjSpec) -> None:
    """Name the pairs of geoms that can touch: the floor with each of the robot's, which alone do.

    The search for pairs at each evaluation, a fifth of its time, finds no others. What MuJoCo makes
    of two geoms' parameters is read off contacts with a floor above the robot, so that physics
    stay the same to the bit.
    """
    floor = next(geom for geom in spec.geoms if geom.type == mujoco.mjtGeom.mjGEOM_PLANE)
    for index, geom in enumerate(spec.geoms):
        if not geom.name:
            geom.name = f"geom_{index}"
    height = floor.pos[2]
    floor.pos[2] = height + 100.0
    model = spec.compile()
    floor.pos[2] = height
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    pairs = {(c.geom1, c.geom2): c for c in data.contact}
    for (first, second), contact in pairs.items():
        spec.add_pair(
            geomname1=model.geom(first).name,
            geomname2=model.geom(second).name,
            condim=contact.dim,
            friction=contact.friction,
            solref=contact.solref,
            solreffriction=contact.solreffriction,
            solimp=contact.solimp,
            margin=contact.includemargin,
        )
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
