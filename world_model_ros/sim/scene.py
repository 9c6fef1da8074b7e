"""One physics client with the arm, the table and the camera; a task adds what else there is.

The arm is pybullet_data's own Panda with a stick that points straight down. Its URDF is made at run time, and
nothing of it is copied into this package. Its inverse kinematics have a closed form.
"""

import functools
import importlib
import math
import os
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np

from world_model_ros.errors import UserError

PERIOD = 0.05  # of a control step, s
SUBSTEPS = 8
TIP_HEIGHT = 0.008  # of the stick's tip above the table, m
WORKSPACE_CENTRE = np.array([0.50, 0.0])
WORKSPACE_HALF = 0.18
WORKSPACE_LOW = WORKSPACE_CENTRE - WORKSPACE_HALF
WORKSPACE_HIGH = WORKSPACE_CENTRE + WORKSPACE_HALF
ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
HAND_OFFSET = 0.107  # joint 7 to the origin of panda_hand
STICK_RADIUS = 0.011

_TABLE_X, _TABLE_Y = 0.36, 0.45  # half sizes, m
_TABLE_COLOUR = (0.55, 0.47, 0.40, 1)
_MAT_HALF = 0.2
_MAT_COLOUR = (0.82, 0.80, 0.74, 1)
RIM_HEIGHT = 0.007  # m, below the stick's tip
_RIM_HALF = 0.004  # of its width, m
_RIM_COLOUR = (0.30, 0.26, 0.22, 1)
_WALL_HALF = 0.03  # of the wall that stands for the rim, m
_TABLE_FRICTION, _STICK_FRICTION = 0.8, 0.5  # pybullet multiplies the two in contact
_TORQUES = (500.0,) * 7  # N m; more than the Panda has, for the tip to start and stop without overshoot
_PURE = (
    "computeViewMatrix",
    "computeProjectionMatrixFOV",
    "getQuaternionFromEuler",
    "getEulerFromQuaternion",
)

# The URDF of the arm.
_STICK_START = 0.05  # where the stick leaves the hand, m from the origin of panda_hand
_UNSEEN = {f"panda_link{i}" for i in range(5)}  # by the camera of the scene
_LAST_LINK_MASS = 1.1  # link 7, the hand and the stick, kg
_STICK_COLOUR = "0.95 0.30 0.05 1"
_HAND_COLOUR = "0.30 0.32 0.36 1"
_ARM_COLOUR = "0.86 0.87 0.90 1"

# The links of the arm, m.
_SHOULDER = 0.333  # height of joint 2
_UPPER, _FORE = 0.316, 0.384  # joint 2 to 4, joint 4 to 6
_ELBOW_OFFSET = 0.0825  # sideways
_WRIST = 0.088  # joint 6 to the axis of the flange
_UPPER_REACH = np.hypot(_UPPER, _ELBOW_OFFSET)
_FORE_REACH = np.hypot(_FORE, _ELBOW_OFFSET)
_UPPER_TILT = np.arctan2(_ELBOW_OFFSET, _UPPER)
_FORE_TILT = np.arctan2(_ELBOW_OFFSET, _FORE)


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

    def __init__(self, stick: float, view: View, gui: bool = False, tip_height: float = TIP_HEIGHT):
        pybullet = _import_pybullet()
        import pybullet_data

        self.client = _Client(pybullet, gui)
        p = self.client
        self._stick = stick  # from the origin of panda_hand to the tip, m
        self._hand_height = tip_height + stick
        # The default broadphase drops pairs a few at a time, at a rhythm that outlives the episode.
        p.resetSimulation(p.RESET_USE_SIMPLE_BROADPHASE)
        p.setPhysicsEngineParameter(
            fixedTimeStep=PERIOD / SUBSTEPS, deterministicOverlappingPairs=1, numSolverIterations=20
        )
        p.setGravity(0, 0, -9.81)
        panda = Path(pybullet_data.getDataPath()) / "franka_panda" / "panda.urdf"
        with tempfile.TemporaryDirectory(prefix="world_model_ros-") as folder:
            arm = Path(folder) / "arm.urdf"
            arm.write_text(arm_urdf(panda, self._stick, whole=gui))
            self.arm = p.loadURDF(str(arm), useFixedBase=True)
        self._add_table()
        names = [p.getJointInfo(self.arm, i)[1].decode() for i in range(p.getNumJoints(self.arm))]
        self._joints = [names.index(name) for name in ARM_JOINTS]
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

    def load(self, urdf: str, position, orientation) -> int:
        """Add the body that the text of a URDF describes at a position and a quaternion; return it."""
        with tempfile.NamedTemporaryFile("w", prefix="world_model_ros-", suffix=".urdf") as file:
            file.write(urdf)
            file.flush()
            return self.client.loadURDF(file.name, position, orientation)

    def add_rim(self, half: float) -> list[int]:
        """Surround a square of `half` side with a low rim for other bodies than the arm; return its bodies.

        The stick passes above the rim. What is pushed against the rim cannot leave: it is simulated as a
        wall that the arm does not touch, since rigid contact would lift a body over so low an edge.
        """
        p, bodies = self.client, []
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            across, along = half + _WALL_HALF, half + 2 * _WALL_HALF
            size = [_WALL_HALF, along] if x else [along, _WALL_HALF]
            wall = p.createCollisionShape(p.GEOM_BOX, halfExtents=[*size, _WALL_HALF])
            seen = half + _RIM_HALF
            edge = [_RIM_HALF, seen + _RIM_HALF] if x else [seen - _RIM_HALF, _RIM_HALF]
            back = seen - across
            look = p.createVisualShape(
                p.GEOM_BOX,
                halfExtents=[*edge, RIM_HEIGHT / 2],
                visualFramePosition=[back * x, back * y, RIM_HEIGHT / 2 - _WALL_HALF],
                rgbaColor=_RIM_COLOUR,
            )
            place = [*(WORKSPACE_CENTRE + across * np.array([x, y])), _WALL_HALF]
            bodies.append(p.createMultiBody(0, wall, look, place))
            for link in range(-1, p.getNumJoints(self.arm)):
                p.setCollisionFilterPair(self.arm, bodies[-1], link, -1, 0)
        return bodies

    def place(self, tip: np.ndarray) -> None:
        """Put the arm at rest with its tip at (2,), and the camera where it belongs.

        Raises ValueError where the arm cannot reach.
        """
        self.move_camera(np.zeros(3))
        self._set_arm(inverse_kinematics(tip, self._hand_height), np.zeros(7))

    def move_camera(self, offset: np.ndarray) -> None:
        """Shift the camera by (3,) m from where it belongs, until the next `place`."""
        eye, target = (np.add(place, offset).tolist() for place in (self._view.eye, self._view.target))
        self._view_matrix = self.client.computeViewMatrix(eye, target, (0, 0, 1))

    def _set_arm(self, angles: np.ndarray, velocities: np.ndarray) -> None:
        for joint, angle, velocity in zip(self._joints, angles.tolist(), velocities.tolist(), strict=True):
            self.client.resetJointState(self.arm, joint, angle, velocity)

    def move(self, start: np.ndarray, end: np.ndarray, after=None, blocked=lambda: False) -> np.ndarray:
        """Move the tip from `start` towards `end` (2,) at constant speed within one control step.

        Once `blocked()`, asked after each of the `SUBSTEPS` physics steps, the tip goes back to where it was
        a physics step earlier and stays there for the rest. `after(i)` is called after each physics step, i
        from 1 on; it must change nothing. Returns where the tip was sent to last, (2,).
        """
        p = self.client
        fractions = np.linspace(0.0, 1.0, SUBSTEPS + 1)[:, None]
        places = start + fractions * (end - start)
        way = inverse_kinematics(places, self._hand_height)
        # Set, the speed is right from the first substep; the solver alone would need many iterations.
        self._set_arm(way[0], (way[1] - way[0]) * SUBSTEPS / PERIOD)
        angles, last = way.tolist(), SUBSTEPS
        for i in range(1, SUBSTEPS + 1):
            # With both gains at one the motor reaches its target within the substep, torque permitting.
            p.setJointMotorControlArray(
                self.arm,
                self._joints,
                p.POSITION_CONTROL,
                targetPositions=angles[min(i, last)],
                forces=_TORQUES,
                positionGains=(1.0,) * 7,
                velocityGains=(1.0,) * 7,
            )
            p.stepSimulation()
            if last == SUBSTEPS and blocked():
                last = i - 1
            if after is not None:
                after(i)
        return places[last]

    def tip(self) -> np.ndarray:
        """Position of the stick's tip, (2,) m."""
        state = self.client.getLinkState(self.arm, self._joints[-1], computeForwardKinematics=True)
        (x, y, _), (i, j, k, w) = state[4:6]
        along = HAND_OFFSET + self._stick
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


def arm_urdf(panda: Path, stick_length: float, whole: bool = True) -> str:
    """Return the URDF of the Panda at `panda` with a stick in place of its fingers.

    `stick_length` in m is from the origin of panda_hand to the tip. The collision meshes serve as visuals,
    since the software renderer is four times faster with them. Only the stick collides, since nothing else
    comes near the table. Hand and stick are parts of link 7, since links on fixed joints double the cost
    of a simulation step. Unless `whole`, the links that the camera never sees have no visual, which makes
    a picture faster by a tenth.
    """
    robot = ET.parse(panda).getroot()
    kept = {f"panda_link{i}" for i in range(8)}
    links = {link.get("name"): link for link in robot.iter("link")}
    for element in list(robot):
        name = element.get("name") if element.tag == "link" else element.find("child").get("link")
        if name not in kept:
            robot.remove(element)
    for name, colour in [*((name, _ARM_COLOUR) for name in sorted(kept)), ("panda_hand", _HAND_COLOUR)]:
        link = links[name]
        for visual in link.findall("visual"):
            link.remove(visual)
        for visual in link.findall("collision"):
            visual.tag = "visual"
            mesh = visual.find("geometry/mesh")
            mesh.set("filename", str(panda.parent / mesh.get("filename").removeprefix("package://")))
            for old in visual.findall("material"):
                visual.remove(old)
            visual.append(material(f"{name}_colour", colour))
            if name in _UNSEEN and not whole:
                link.remove(visual)
    last = links["panda_link7"]
    hand = links["panda_hand"].find("visual")
    hand.insert(0, ET.Element("origin", xyz=f"0 0 {HAND_OFFSET}", rpy=f"0 0 {-math.pi / 4}"))
    last.append(hand)
    for tag in ("visual", "collision"):
        last.append(ET.fromstring(_stick(tag, stick_length)))
    last.find("inertial/origin").set("xyz", "0 0 0.14")
    last.find("inertial/mass").set("value", str(_LAST_LINK_MASS))
    for axis in ("ixx", "iyy", "izz"):
        last.find("inertial/inertia").set(axis, "0.01")
    return ET.tostring(robot, encoding="unicode")


def material(name: str, colour: str) -> ET.Element:
    """Return a URDF material of `colour`, red, green, blue and opacity from 0 to 1."""
    material = ET.Element("material", name=name)
    ET.SubElement(material, "color", rgba=colour)
    return material


def _stick(tag: str, stick_length: float) -> str:
    length = stick_length - _STICK_START
    middle = HAND_OFFSET + _STICK_START + length / 2
    look = ET.tostring(material("stick_colour", _STICK_COLOUR), encoding="unicode")
    return f"""<{tag}><origin xyz="0 0 {middle}"/>
      <geometry><cylinder radius="{STICK_RADIUS}" length="{length}"/></geometry>{look}</{tag}>"""


def inverse_kinematics(tip: np.ndarray, hand_height: float) -> np.ndarray:
    """Joint angles (..., 7) in rad that hold the stick over `tip` (..., 2), the hand at `hand_height`.

    Both in m in panda_link0; the hand's place is the origin of panda_hand. Raises ValueError
    where the arm cannot reach.

    With joints 3 and 5 at zero the arm is a planar three-joint chain in a vertical plane through its first
    axis. One elbow is chosen, the hand keeps its heading, so the seven joints are a function of where the
    tip is: no null-space drift, and the picture of a tip position is the same whichever way the arm came.
    """
    tip = np.asarray(tip, float)
    radius = np.hypot(tip[..., 0], tip[..., 1]) - _WRIST
    rise = hand_height + HAND_OFFSET - _SHOULDER
    cosine = (_UPPER_REACH**2 + _FORE_REACH**2 - radius**2 - rise**2) / (2 * _UPPER_REACH * _FORE_REACH)
    if not np.all(np.abs(cosine) < 1):
        raise ValueError("the tip position is out of the arm's reach")
    # The inner angle of the elbow; it is pi + both tilts when joint 4 is at zero.
    elbow = np.arccos(cosine)
    distance = np.hypot(radius, rise)
    shoulder = np.arcsin(_FORE_REACH * np.sin(elbow) / distance)
    obtuse = _UPPER_REACH**2 + distance**2 < _FORE_REACH**2
    shoulder = np.where(obtuse, np.pi - shoulder, shoulder)
    joints = np.zeros((*tip.shape[:-1], 7))
    joints[..., 0] = np.arctan2(tip[..., 1], tip[..., 0])
    joints[..., 1] = np.arctan2(radius, rise) - shoulder - _UPPER_TILT
    joints[..., 3] = elbow - np.pi - _UPPER_TILT - _FORE_TILT
    # The hand points down when the three pitches cancel.
    joints[..., 5] = joints[..., 1] - joints[..., 3]
    joints[..., 6] = joints[..., 0] + np.pi / 4
    return joints


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
