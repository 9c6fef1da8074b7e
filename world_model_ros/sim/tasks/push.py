"""The task push: push a T-shaped block to a pose. The T's geometry, its explorer, goals and criteria."""

import functools
import xml.etree.ElementTree as ET

import numpy as np

from world_model_ros.sim.arm import (
    CAMERA,
    JUMPS,
    REPLACED,
    STUCK,
    ArmTask,
    Explorer,
    jump,
    lengths,
    towards,
    way_round,
)
from world_model_ros.sim.scene import (
    PERIOD,
    STICK_RADIUS,
    WORKSPACE_CENTRE,
    View,
    material,
)
from world_model_ros.sim.task import (
    WINDOW,
    Intervention,
    Protocol,
    Start,
    Violation,
    coloured_marks,
    yaw_difference,
)

PUSHED = 0.04  # block to goal, m
TURNED = np.radians(20)
WORKSPACE_HALF = 0.20  # of the square that the tip moves in, m
# Half the side of the tray inside its rim, m. The stick passes above the rim and so gets behind any block.
TRAY_HALF = 0.185
_RIM_FORCE = 10.0  # N, with which the block meets the rim at most: the arm is compliant, and gives way
_GOAL_HALF = 0.12  # of the square that blocks start in and goals of the block lie in, m
_OUTSIDE = 0.01  # how far a block may reach into the rim in a given state before it is refused, m
_CLEAR = STICK_RADIUS + 0.01  # free space around the tip where a block starts or appears, m
# A goal is a pose that the explorer's own pushing leads to (LeWM's protocol): from a start where the
# block is about to move this far.
_MOVED, _MOVED_ANGLE = 0.05, np.radians(25)
_TRIES = 10  # of a fifth of a second each, in which the clock of the simulation stands
_BLOCK_FRICTION = 0.5  # pybullet multiplies it with that of what it touches

# Of violations: what the block moves at least in a step that it shall not react to, m; its other colour.
_REACTS = 0.015
_COLOUR = (0.85, 0.10, 0.10, 1.0)

# A bar and a stem of one width. Its frame sits in its centre of mass, y points to the bar.
BLOCK_LENGTH = 0.15  # of the bar, and of the whole T along the stem
BLOCK_WIDTH = 0.045
BLOCK_HEIGHT = 0.04
BLOCK_MASS = 0.2
BAR_Y = (BLOCK_LENGTH - BLOCK_WIDTH) * BLOCK_LENGTH / 2 / (2 * BLOCK_LENGTH - BLOCK_WIDTH)
STEM_Y = BAR_Y - BLOCK_LENGTH / 2
BLOCK_BOXES = (  # centre y, size, colour
    (BAR_Y, (BLOCK_LENGTH, BLOCK_WIDTH, BLOCK_HEIGHT), "0.10 0.25 0.95 1"),
    (STEM_Y, (BLOCK_WIDTH, BLOCK_LENGTH - BLOCK_WIDTH, BLOCK_HEIGHT), "0.10 0.75 0.20 1"),
)
_CENTRES = np.array([(0.0, y) for y, _, _ in BLOCK_BOXES])
_HALVES = np.array([size[:2] for _, size, _ in BLOCK_BOXES]) / 2
_SIGNS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
_CORNERS = (_CENTRES[:, None] + _HALVES[:, None] * _SIGNS).reshape(-1, 2)

_LEFT, _STEM = BLOCK_LENGTH / 2, BLOCK_WIDTH / 2
_BOTTOM, _TOP = BAR_Y - BLOCK_WIDTH / 2, BAR_Y + BLOCK_WIDTH / 2
_OUTLINE = np.array(  # its corners, anticlockwise
    [
        (-_STEM, _TOP - BLOCK_LENGTH),
        (_STEM, _TOP - BLOCK_LENGTH),
        (_STEM, _BOTTOM),
        (_LEFT, _BOTTOM),
        (_LEFT, _TOP),
        (-_LEFT, _TOP),
        (-_LEFT, _BOTTOM),
        (-_STEM, _BOTTOM),
    ]
)
_SIDES = np.roll(_OUTLINE, -1, axis=0) - _OUTLINE


def clearance(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Distance (...) in m from `points` (..., 2) to the T at `pose` (x, y, yaw); zero inside it."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    local = (np.asarray(points) - pose[:2]) @ np.array([[cosine, -sine], [sine, cosine]])
    outside = np.maximum(np.abs(local[..., None, :] - _CENTRES) - _HALVES, 0.0)
    return np.hypot(outside[..., 0], outside[..., 1]).min(axis=-1)


def in_tray(pose: np.ndarray, margin: float = 0.0) -> bool:
    """Return whether the T at `pose` (x, y, yaw) lies within the rim, `margin` m away from it at least."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    corners = _CORNERS @ np.array([[cosine, sine], [-sine, cosine]]) + pose[:2]
    return bool(np.all(np.abs(corners - WORKSPACE_CENTRE) < TRAY_HALF - margin))


def outline(share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a point of the T's outline (2,) and the normal (2,) that points outwards, in the T's frame.

    `share`, from 0 to 1, is how far round the outline it is.
    """
    lengths = np.hypot(*_SIDES.T)
    ends = lengths.cumsum()
    side = min(int(np.searchsorted(ends, share * ends[-1])), len(ends) - 1)
    along = (ends[side] - share * ends[-1]) / lengths[side]
    x, y = _SIDES[side] / lengths[side]
    return _OUTLINE[side] + (1 - along) * _SIDES[side], np.array([y, -x])


def _rotated(vector: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([cosine * vector[0] - sine * vector[1], sine * vector[0] + cosine * vector[1]])


@functools.cache
def block_urdf() -> str:
    """Return the URDF of the T: one rigid body of two boxes."""
    area = sum(size[0] * size[1] for _, size, _ in BLOCK_BOXES)
    inertia = [0.0, 0.0, 0.0]
    shapes = ""
    for number, (y, size, colour) in enumerate(BLOCK_BOXES):
        mass = BLOCK_MASS * size[0] * size[1] / area
        x2, y2, z2 = (side**2 / 12 for side in size)
        inertia = [
            i + mass * d for i, d in zip(inertia, (y2 + z2 + y * y, x2 + z2, x2 + y2 + y * y), strict=True)
        ]
        place = f'<origin xyz="0 {y} 0"/><geometry><box size="{size[0]} {size[1]} {size[2]}"/></geometry>'
        look = ET.tostring(material(f"block_{number}", colour), encoding="unicode")
        shapes += f"<visual>{place}{look}</visual><collision>{place}</collision>"
    return f"""<robot name="block"><link name="block">
      <inertial><mass value="{BLOCK_MASS}"/>
        <inertia ixx="{inertia[0]}" iyy="{inertia[1]}" izz="{inertia[2]}" ixy="0" ixz="0" iyz="0"/></inertial>
      {shapes}</link></robot>"""


class PushExplorer(Explorer):
    """Choose a spot on the block's outline, go there, push, begin again; or press against an edge, or rest.

    It goes wherever a plan may lead: into the corners, along the edges of the workspace and against them, and
    it pushes the block against the rim as well as away from it.
    """

    _AROUND = 0.13  # from the block's centre to the way round it, m
    _CLEAR = STICK_RADIUS + 0.008
    _GAP = STICK_RADIUS + 0.012  # from the outline to where a push begins, m
    _SPOTS = 8  # of which one is chosen
    _PHASES = ("push", "edge", "wander", "rest")
    _SHARES = (0.79, 0.11, 0.06, 0.04)

    def __init__(self, seed):
        super().__init__(seed)
        self._phase = "think"
        self._left = 0

    def _think(self, tip: np.ndarray, block: np.ndarray) -> None:
        rng = self._rng
        self._speed = rng.uniform(0.25, 0.45)
        self._scale = rng.uniform(0.0, 0.08)
        self._phase = str(rng.choice(self._PHASES, p=self._SHARES))
        low, high = Push.workspace()
        if self._phase == "rest":
            self._left = int(rng.integers(3, 9))
        elif self._phase == "wander":
            self._left = int(rng.integers(5, 16))
            self._target = rng.uniform(low, high)
        elif self._phase == "edge":
            self._left = int(rng.integers(12, 31))
            self._target = rng.uniform(low, high)
            side = rng.integers(2)
            self._target[side] = WORKSPACE_CENTRE[side] + rng.choice((-1, 1)) * (WORKSPACE_HALF + 0.1)
            if self._chance(0.3):  # into a corner
                other = 1 - side
                self._target[other] = WORKSPACE_CENTRE[other] + rng.choice((-1, 1)) * (WORKSPACE_HALF + 0.1)
        else:
            self._phase, self._left = "approach", 45
            self._choose_spot(tip, block)

    def _choose_spot(self, tip: np.ndarray, block: np.ndarray) -> None:
        """Choose where on the outline to push, and whereto."""
        rng = self._rng
        inwards = WORKSPACE_CENTRE - block[:2]
        # The farther out the block, the surer the push goes back to the middle. Others are often near by.
        inward = self._chance(np.hypot(*inwards) / 0.10 if in_tray(block, 0.015) else 0.9)
        near = self._chance(0.7)
        best = None
        for _ in range(self._SPOTS):
            place, normal = outline(rng.random())
            angle = rng.normal(0.0, 0.35)
            direction = _rotated(-normal, block[2] + angle)
            begin = place + self._GAP * normal
            there = _rotated(begin, block[2]) + block[:2]
            free = clearance(begin, np.zeros(3)) > STICK_RADIUS + 0.004
            reachable = free and np.all(np.abs(there - WORKSPACE_CENTRE) < WORKSPACE_HALF)
            rank = bool(reachable), 2 * inward * direction @ inwards - near * np.hypot(*(there - tip))
            if best is None or rank > best[0]:
                best = rank, begin, direction
        _, self._begin, self._direction = best

    def _around(self, tip: np.ndarray, target: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return `target`, or a place on the way to it beside the block when that is in between."""
        steps = tip + np.linspace(0.0, 1.0, 12)[:, None] * (target - tip)
        free = clearance(steps, block)
        if np.all(free[1:] > min(self._CLEAR, free[0] - 0.001)):
            return target
        return np.clip(way_round(block[:2], self._AROUND, tip, target, 0.7), *Push.workspace())

    def _velocity(self, state: np.ndarray) -> np.ndarray:
        tip, block = state[:2], state[2:]
        if self._left <= 0:
            self._think(tip, block)
        self._left -= 1
        noise = self._disturbance(self._scale)
        if self._phase == "rest":
            return np.zeros(2)
        if self._phase in ("wander", "edge"):
            if np.hypot(*(self._target - tip)) < 0.02:
                self._left = 0
            return towards(self._target, tip, self._speed) + noise
        if self._phase == "approach":
            target = np.clip(_rotated(self._begin, block[2]) + block[:2], *Push.workspace())
            if np.hypot(*(target - tip)) >= 0.015:
                return towards(self._around(tip, target, block), tip, self._speed) + noise
            self._phase = "push"
            self._begin_push()
        outwards = (block[:2] - WORKSPACE_CENTRE) @ self._direction > 0
        if outwards and not (self._to_the_rim or in_tray(block, 0.01)):
            self._left = 0  # far enough out
        if self._left == 0 and self._chance(0.5):  # once more, from where it is
            way = block[:2] - tip
            self._direction = _rotated(way / max(np.hypot(*way), 1e-9), self._rng.normal(0.0, 0.5))
            if in_tray(block, 0.01) or self._direction @ (block[:2] - WORKSPACE_CENTRE) < 0:
                self._begin_push()
        return self._speed * self._direction + noise

    def _begin_push(self) -> None:
        self._speed = self._rng.uniform(0.08, 0.42)
        length = self._rng.uniform(0.04, 0.22)
        self._left = int(np.ceil(length / (self._speed * PERIOD)))
        self._to_the_rim = self._chance(0.15)


def _moved(before: np.ndarray, after: np.ndarray) -> bool:
    far = np.hypot(*(after - before)[2:4]) > _MOVED
    return bool(far or abs(yaw_difference(after[4], before[4])) > _MOVED_ANGLE)


def _near_the_middle(state: np.ndarray) -> bool:
    return bool(np.all(np.abs(state[2:4] - WORKSPACE_CENTRE) < _GOAL_HALF))


def _jump_of_block(length: float, turn: float = 0.0) -> Violation:
    def stage(state: np.ndarray, rng: np.random.Generator) -> Intervention | None:
        def fits(pose: np.ndarray) -> bool:
            return bool(in_tray(pose) and clearance(state[:2], pose) > _CLEAR)

        pose = jump(state[2:], length, rng, fits, turn)
        return None if pose is None else Intervention(lambda world: world.place_block(pose))

    return Violation(stage)


def _pass_through(state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    def act(world: "Push", action: np.ndarray) -> None:
        world.step(action)
        world.place_block(state[2:])  # as if the stick had met nothing

    return Intervention(act=act)


def _paint(_state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    return Intervention(lambda world: world.paint_block(_COLOUR))


def _vanish(_state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    return Intervention(lambda world: world.remove_block())


class Push(ArmTask):
    """Push a T of 15 cm within 4 cm and 20 degrees of a pose."""

    stick = 0.32  # long, which keeps the hand from hiding the block
    workspace_half = WORKSPACE_HALF
    view = View((0.92, 0.0, 0.50), (0.50, 0.0, 0.0), 43.5)  # low, which looks under the hand, at the block
    state_names = ("ee_x", "ee_y", "block_x", "block_y", "block_yaw")
    criterion = "pose"
    goal_words = f"the block is within {100 * PUSHED:.0f} cm and {np.degrees(TURNED):.0f} degrees of its pose"
    goal_budget = 200
    protocols = {
        "lewm": Protocol(
            f"start and goal {5 * WINDOW} control steps apart in one episode of the explorer, the block "
            "moved between; as published (arXiv 2603.19312), the robot waits for each plan",
            budget=50,
            waits=True,
            horizon=5,
        ),
        "far": Protocol("start and goal poses of the block drawn independently", budget=200),
    }
    probes = {
        "end effector": ("ee_x", "ee_y"),
        "block position": ("block_x", "block_y"),
        "block angle": ("block_yaw",),
    }
    pictured = "block position"
    violations = {
        **{name: _jump_of_block(length) for name, length in JUMPS.items()},
        "turn_90": _jump_of_block(0.0, turn=np.pi / 2),
        "pass_through": Violation(_pass_through, where=lambda states: lengths(states[:, 2:4]) > _REACTS),
        "stuck": STUCK,
        "colour": Violation(_paint),
        "camera": CAMERA,
        "vanish": Violation(_vanish),
        "replaced": REPLACED,
    }
    _block: int | None = None  # its body

    def prepare(self) -> None:
        """Put the rim round the tray."""
        self._rim = set(self._scene.add_rim(TRAY_HALF))

    def blocked(self) -> bool:
        """Return whether the block is pressed against the rim."""
        contacts = self._scene.client.getContactPoints(self._block)
        return sum(c[9] for c in contacts if c[2] in self._rim) > _RIM_FORCE

    def place(self, state: np.ndarray) -> None:
        """Put the tip and the block (x, y, yaw) where `state` says, at rest.

        What follows is the same to the bit whatever happened before.
        """
        super().place(state)
        p, pose = self._scene.client, state[2:]
        # pybullet remembers the contacts of a block that is only moved, hence a new one; it must not meet
        # the stick where that was before.
        if self._block is not None:
            p.removeBody(self._block)
        p.performCollisionDetection()
        position = (pose[0], pose[1], BLOCK_HEIGHT / 2)
        orientation = p.getQuaternionFromEuler((0, 0, pose[2]))
        self._block = self._scene.load(block_urdf(), position, orientation)
        p.changeDynamics(
            self._block, -1, lateralFriction=_BLOCK_FRICTION, linearDamping=0.0, angularDamping=0.0
        )

    def checked(self, state: np.ndarray) -> np.ndarray:
        """Return a state as an array; ValueError where it is none, or the tip or the block is outside."""
        state = super().checked(state)
        if not in_tray(state[2:], -_OUTSIDE):
            raise ValueError(f"the block at {state[2:].tolist()} is not inside the rim")
        return state

    def state(self) -> np.ndarray:
        """Position of the tip and pose of the block, (5,)."""
        p = self._scene.client
        position, orientation = p.getBasePositionAndOrientation(self._block)
        return np.array([*self._scene.tip(), *position[:2], p.getEulerFromQuaternion(orientation)[2]])

    def place_block(self, pose: np.ndarray, height: float = BLOCK_HEIGHT / 2) -> None:
        """Put the block at rest at (x, y, yaw), its centre `height` m above the table; the arm goes on."""
        p = self._scene.client
        orientation = p.getQuaternionFromEuler((0, 0, pose[2]))
        p.resetBasePositionAndOrientation(self._block, (pose[0], pose[1], height), orientation)
        p.resetBaseVelocity(self._block, (0, 0, 0), (0, 0, 0))

    def remove_block(self) -> None:
        """Take the block out of sight and reach until `reset`."""
        self.place_block(self.state()[2:], height=-1.0)

    def paint_block(self, colour: tuple[float, float, float, float]) -> None:
        """Give the whole block one colour (RGBA in 0..1) until `reset`."""
        self._scene.client.changeVisualShape(self._block, -1, rgbaColor=colour)

    @classmethod
    def marks(cls, pictures: np.ndarray) -> np.ndarray:
        """Return the centre and the area of what is blue and of what is green, (N, 6)."""
        red, green, blue = np.moveaxis(pictures.astype(np.float32) / 255, -1, 0)
        return coloured_marks(blue - red, green - np.maximum(red, blue))

    def explorer(self, seed) -> PushExplorer:
        """Return an explorer that pushes the block about."""
        return PushExplorer(seed)

    def random_state(self, rng: np.random.Generator) -> np.ndarray:
        """Return a state (5,): the block near the middle at any angle, the tip clear of it."""
        while True:
            place = WORKSPACE_CENTRE + rng.uniform(-_GOAL_HALF, _GOAL_HALF, 2)
            block = np.append(place, rng.uniform(-np.pi, np.pi))
            tip = rng.uniform(*self.workspace())
            if in_tray(block) and clearance(tip, block) > _CLEAR:
                return np.concatenate([tip, block])

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a state (5,) that pushing for at most four seconds leads to from the present one."""
        now = self.state()
        for _ in range(_TRIES):
            states, _ = self.rehearse(rng, now)
            goals = [s for s in states if _moved(now, s) and _near_the_middle(s)]
            if goals:
                return goals[rng.integers(len(goals))]
        return self.random_state(rng)  # the block lies where the stick cannot get behind it

    def distance(self, goal: np.ndarray) -> float:
        """Return the distance in m from the block to its place in `goal`."""
        return float(np.hypot(*(self.state() - self.checked(goal))[2:4]))

    def turned(self, goal: np.ndarray) -> float:
        """Return the angle in rad, at least 0, between the block and its pose in `goal`."""
        return float(abs(yaw_difference(self.state()[4], self.checked(goal)[4])))

    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Position: the block is within 4 cm. Pose: and within 20 degrees. And the tip within 4 cm."""
        near = self.distance(goal) < PUSHED
        posed = near and self.turned(goal) < TURNED
        tip = np.hypot(*(self.state() - self.checked(goal))[:2]) < PUSHED
        return {"position": near, "pose": posed, "pose_with_effector": bool(posed and tip)}

    def draw(self, protocol: str, rng: np.random.Generator) -> Start:
        """lewm: the ends of five model steps of an explorer's push. far: two poses of their own.

        Between start and goal the block moved by more than 5 cm or turned by more than 25 degrees.
        """
        if protocol == "far":
            while True:
                start, goal = self.random_state(rng), self.random_state(rng)
                if _moved(start, goal):
                    return Start(start, goal)
        return self.window(rng, lambda a, b: _moved(a, b) and _near_the_middle(a) and _near_the_middle(b))
