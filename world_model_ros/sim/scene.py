"""One physics client with the arm, the table and the camera; a task adds what else there is."""

import functools
import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.sim import kinematics, robot_description

PERIOD = 0.05  # of a control step, s
SUBSTEPS = 8
TIP_HEIGHT = 0.008  # of the stick's tip above the table, m
WORKSPACE_CENTRE = np.array([0.50, 0.0])
WORKSPACE_HALF = 0.18
WORKSPACE_LOW = WORKSPACE_CENTRE - WORKSPACE_HALF
WORKSPACE_HIGH = WORKSPACE_CENTRE + WORKSPACE_HALF

_TABLE_X, _TABLE_Y = 0.36, 0.45  # half sizes, m
_TABLE_COLOUR = (0.55, 0.47, 0.40, 1)
_MAT_HALF = 0.2
_MAT_COLOUR = (0.82, 0.80, 0.74, 1)
_TABLE_FRICTION, _STICK_FRICTION = 0.8, 0.5  # pybullet multiplies the two in contact
_TORQUES = (500.0,) * 7  # N m; more than the Panda has, for the tip to start and stop without overshoot
_PURE = (
    "computeViewMatrix",
    "computeProjectionMatrixFOV",
    "getQuaternionFromEuler",
    "getEulerFromQuaternion",
)


class View(NamedTuple):
    """Where the camera is."""

    eye: tuple[float, float, float]  # m
    target: tuple[float, float, float]  # m
    field_of_view: float  # degrees


class Scene:
    """The bodies and what can be done to them; a task decides what it means.

    Every motion of the arm follows the closed-form inverse kinematics, so joint angles are a function of
    the tip position. Each scene has a physics client of its own.
    """

    def __init__(self, stick: float, view: View, gui: bool = False):
        pybullet = _import_pybullet()
        import pybullet_data

        self.client = _Client(pybullet, gui)
        p = self.client
        self._stick = stick  # from the origin of panda_hand to the tip, m
        # The default broadphase drops pairs a few at a time, at a rhythm that outlives the episode.
        p.resetSimulation(p.RESET_USE_SIMPLE_BROADPHASE)
        p.setPhysicsEngineParameter(
            fixedTimeStep=PERIOD / SUBSTEPS, deterministicOverlappingPairs=1, numSolverIterations=20
        )
        p.setGravity(0, 0, -9.81)
        panda = Path(pybullet_data.getDataPath()) / "franka_panda" / "panda.urdf"
        with tempfile.TemporaryDirectory(prefix="world_model_ros-") as folder:
            arm = Path(folder) / "arm.urdf"
            arm.write_text(robot_description.arm_urdf(panda, self._stick, whole=gui))
            self.arm = p.loadURDF(str(arm), useFixedBase=True)
        self._add_table()
        names = [p.getJointInfo(self.arm, i)[1].decode() for i in range(p.getNumJoints(self.arm))]
        self._joints = [names.index(name) for name in kinematics.ARM_JOINTS]
        p.changeDynamics(self.arm, self._joints[-1], lateralFriction=_STICK_FRICTION)
        self._view = view
        self.move_camera(np.zeros(3))
        self._projection = p.computeProjectionMatrixFOV(view.field_of_view, 1.0, 0.2, 2.0)

    def _add_table(self) -> None:
        """A box to slide on, and four strips around a mat to look at: no pixel is shaded twice."""
        p = self.client
        box = p.createCollisionShape(p.GEOM_BOX, halfExtents=(_TABLE_X, _TABLE_Y, 0.02))
        m, x, y = _MAT_HALF, _TABLE_X, _TABLE_Y
        strips = self._rectangles(
            [(-x, x, -y, -m), (-x, x, m, y), (-x, -m, -m, m), (m, x, -m, m)], _TABLE_COLOUR
        )
        table = p.createMultiBody(0, box, strips, [*WORKSPACE_CENTRE, -0.02])
        p.changeDynamics(table, -1, lateralFriction=_TABLE_FRICTION)
        p.createMultiBody(0, -1, self._rectangles([(-m, m, -m, m)], _MAT_COLOUR), [*WORKSPACE_CENTRE, -0.02])

    def _rectangles(self, bounds: list[tuple[float, float, float, float]], colour) -> int:
        """Visual shape of rectangles (x low, x high, y low, y high) that lie 0.02 m above its origin."""
        corners = [(x, y, 0.02) for a, b, c, d in bounds for x, y in ((a, c), (b, c), (b, d), (a, d))]
        triangles = [4 * k + i for k in range(len(bounds)) for i in (0, 1, 2, 0, 2, 3)]
        return self.client.createVisualShape(
            self.client.GEOM_MESH,
            vertices=corners,
            indices=triangles,
            normals=[(0, 0, 1)] * len(corners),
            rgbaColor=colour,
        )

    def place(self, tip: np.ndarray) -> None:
        """Put the arm at rest with its tip at (2,), and the camera where it belongs.

        Raises ValueError where the arm cannot reach.
        """
        self.move_camera(np.zeros(3))
        self._set_arm(kinematics.inverse(tip, TIP_HEIGHT + self._stick), np.zeros(7))

    def move_camera(self, offset: np.ndarray) -> None:
        """Shift the camera by (3,) m from where it belongs, until the next `place`."""
        eye, target = (np.add(place, offset).tolist() for place in (self._view.eye, self._view.target))
        self._view_matrix = self.client.computeViewMatrix(eye, target, (0, 0, 1))

    def _set_arm(self, angles: np.ndarray, velocities: np.ndarray) -> None:
        for joint, angle, velocity in zip(self._joints, angles.tolist(), velocities.tolist(), strict=True):
            self.client.resetJointState(self.arm, joint, angle, velocity)

    def move(self, start: np.ndarray, end: np.ndarray, after=None) -> None:
        """Move the tip from `start` to `end` (2,) at constant speed within one control step.

        `after(i)` is called after each of the `SUBSTEPS` physics steps, i from 1 on; it must change nothing.
        """
        p = self.client
        fractions = np.linspace(0.0, 1.0, SUBSTEPS + 1)[:, None]
        way = kinematics.inverse(start + fractions * (end - start), TIP_HEIGHT + self._stick)
        # Set, the speed is right from the first substep; the solver alone would need many iterations.
        self._set_arm(way[0], (way[1] - way[0]) * SUBSTEPS / PERIOD)
        for i, angles in enumerate(way[1:].tolist(), start=1):
            # With both gains at one the motor reaches its target within the substep, torque permitting.
            p.setJointMotorControlArray(
                self.arm,
                self._joints,
                p.POSITION_CONTROL,
                targetPositions=angles,
                forces=_TORQUES,
                positionGains=(1.0,) * 7,
                velocityGains=(1.0,) * 7,
            )
            p.stepSimulation()
            if after is not None:
                after(i)

    def tip(self) -> np.ndarray:
        """Position of the stick's tip, (2,) m."""
        state = self.client.getLinkState(self.arm, self._joints[-1], computeForwardKinematics=True)
        (x, y, _), (i, j, k, w) = state[4:6]
        along = kinematics.HAND_OFFSET + self._stick
        return np.array([x + along * 2 * (i * k + j * w), y + along * 2 * (j * k - i * w)])

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles (7,) rad and velocities (7,) rad/s of the arm."""
        states = self.client.getJointStates(self.arm, self._joints)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def picture(self, size: int) -> np.ndarray:
        """What the camera sees, uint8 (size, size, 3) RGB."""
        p = self.client
        image = p.getCameraImage(
            size,
            size,
            self._view_matrix,
            self._projection,
            shadow=0,
            flags=p.ER_NO_SEGMENTATION_MASK,
            renderer=p.ER_TINY_RENDERER,
        )[2]
        return np.ascontiguousarray(np.reshape(image, (size, size, 4))[..., :3], dtype=np.uint8)

    def close(self) -> None:
        """Disconnect from the physics engine."""
        self.client.close()


def _import_pybullet():
    """Import pybullet without the line it prints, which would tear progress bars."""
    if "pybullet" not in sys.modules:
        sys.stderr.flush()
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            return importlib.import_module("pybullet")
        except ImportError:
            raise UserError("the simulated worlds need pybullet: `pip install pybullet==3.2.7`.") from None
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)
    return sys.modules["pybullet"]


class _Client:
    """One connection to the physics engine; its functions without the argument that names it."""

    def __init__(self, engine, gui: bool):
        self._engine = engine
        self._number = engine.connect(engine.GUI if gui else engine.DIRECT)
        if self._number < 0:
            raise UserError("pybullet cannot open its window: run without the gui, or give it a display.")

    def __getattr__(self, name: str):
        found = getattr(self._engine, name)
        if not callable(found) or name in _PURE:
            return found
        return functools.partial(found, physicsClientId=self._number)

    def close(self) -> None:
        if self._engine.isConnected(self._number):
            self._engine.disconnect(self._number)
