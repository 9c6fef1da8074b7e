"""The task glass: push a glass to a place on a raised board with a gap in it, without dropping it."""

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
from world_model_ros.sim.scene import PERIOD, STICK_RADIUS, WORKSPACE_CENTRE, View, material
from world_model_ros.sim.task import WINDOW, Intervention, Protocol, Start, Violation, coloured_marks

PLACED = 0.04  # glass to goal, m
WORKSPACE_HALF = 0.20  # of the square that the tip moves in, m

# The glass: a cylinder, pushed below its middle, so that it slides on the board and does not tip there.
RADIUS, HEIGHT, MASS = 0.03, 0.11, 0.15  # m, m, kg
_FRICTION = 0.5  # pybullet multiplies it with that of what it touches
_ROLLING = 0.004  # friction, which ends the rolling of a fallen glass, m
_BAND = 0.025  # height of the band at its rim, m
_COLOUR, _BAND_COLOUR = "0.10 0.35 0.95 1", "0.95 0.85 0.10 1"

# The board: a rectangle of which a gap is cut out at the front, where the camera is. The glass falls from it
# onto the table, and the arm cannot lift it.
BOARD = 0.12  # height of its upper side above the table, m
_BACK, _FRONT, _SIDE = 0.20, 0.60, 0.18  # its ends in x, and half its width, m
_GAP_BACK, _GAP_HALF = 0.50, 0.05  # where the gap begins in x, and half its width, m
_THICK = 0.02  # m
_BOARD_COLOUR = (0.52, 0.66, 0.58, 1)
_BOARD_FRICTION = 0.8

_DOWN = 0.015  # the glass has fallen when its middle is lower than on the board by more, m
_LEANS = 0.9  # or the cosine of its lean is less
_OUTSIDE = 0.02  # how far beyond the board a standing glass may be in a given state, m
_CLEAR = RADIUS + STICK_RADIUS + 0.01  # tip to the glass's axis where a glass starts or appears, m
_MOVED = 0.05  # by the glass in a problem of the protocol lewm, m
_INSIDE = 0.025  # from the edges to the axis of a glass that starts or is a goal, m
_FALLEN = 0.05  # that the glass falls in a model step in which it shall float instead, m
_REACTS = 0.015  # what the glass moves at least in a step in which it shall not, m


def edge_distance(places: np.ndarray) -> np.ndarray:
    """Return how far places (..., 2) are inside the board's edge, in m; negative beyond it."""
    x, y = places[..., 0], np.abs(places[..., 1])
    outer = np.minimum(np.minimum(_FRONT - x, x - _BACK), _SIDE - y)
    # The gap is a rectangle without an end at the front.
    behind, beside = _GAP_BACK - x, y - _GAP_HALF
    corner = np.hypot(np.maximum(behind, 0.0), np.maximum(beside, 0.0))
    gap = np.where((behind > 0) | (beside > 0), corner, np.maximum(behind, beside))
    return np.minimum(outer, gap)


def stands(states: np.ndarray) -> np.ndarray:
    """Return whether the glass stands on the board in states (..., 8)."""
    upright = states[..., 7] > _LEANS * HEIGHT
    return upright & (states[..., 4] > BOARD + HEIGHT / 2 - _DOWN)


def standing(tip: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the state (8,) of a glass that stands at `place` (2,), the tip at `tip` (2,)."""
    return np.array([*tip, *place, BOARD + HEIGHT / 2, 0.0, 0.0, HEIGHT])


@functools.cache
def glass_urdf() -> str:
    """Return the URDF of the glass: a cylinder with a band of another colour at its rim."""
    across, along = MASS * (3 * RADIUS**2 + HEIGHT**2) / 12, MASS * RADIUS**2 / 2

    def part(tag: str, low: float, high: float, radius: float, colour: str = "") -> str:
        look = ET.tostring(material(f"glass_{low:g}", colour), encoding="unicode") if colour else ""
        return (
            f'<{tag}><origin xyz="0 0 {(low + high - HEIGHT) / 2}"/><geometry>'
            f'<cylinder radius="{radius}" length="{high - low}"/></geometry>{look}</{tag}>'
        )

    rim = HEIGHT - _BAND
    return f"""<robot name="glass"><link name="glass">
      <contact><rolling_friction value="{_ROLLING}"/><spinning_friction value="{_ROLLING}"/></contact>
      <inertial><mass value="{MASS}"/>
        <inertia ixx="{across}" iyy="{across}" izz="{along}" ixy="0" ixz="0" iyz="0"/></inertial>
      {part("visual", 0.0, rim, RADIUS, _COLOUR)}{part("visual", rim, HEIGHT, RADIUS, _BAND_COLOUR)}
      {part("collision", 0.0, HEIGHT, RADIUS)}</link></robot>"""


class GlassExplorer(Explorer):
    """Go beside the glass, push it some way, begin again; sometimes over an edge, sometimes just not.

    Pushes end where they end: near an edge most of them are led back to the middle of the board, some along
    the edge, some over it. Around a fallen glass the tip wanders.
    """

    _AROUND = 0.075  # from the glass's axis to the way round it, m
    _GAP = RADIUS + STICK_RADIUS + 0.012  # from its axis to where a push begins, m
    _PHASES = ("push", "wander", "rest")
    _SHARES = (0.86, 0.08, 0.06)
    _RECKLESS = 0.2  # share of pushes that go wherever they go

    def __init__(self, seed):
        super().__init__(seed)
        self._phase, self._left = "think", 0

    def _think(self, glass: np.ndarray, down: bool) -> None:
        rng = self._rng
        self._speed, self._scale = rng.uniform(0.25, 0.4), rng.uniform(0.0, 0.06)
        self._phase = str(rng.choice(self._PHASES, p=self._SHARES))
        if down and self._phase == "push":
            self._phase = "wander"
        if self._phase == "rest":
            self._left = int(rng.integers(3, 9))
        elif self._phase == "wander":
            self._left, self._target = int(rng.integers(5, 16)), rng.uniform(*Glass.workspace())
        else:
            self._phase, self._left = "approach", 30
            self._choose_push(glass)

    def _choose_push(self, glass: np.ndarray) -> None:
        """Choose a direction and a length; a careful push ends on the board."""
        rng = self._rng
        careful = not self._chance(self._RECKLESS)
        for _ in range(20):
            angle, self._length = rng.uniform(-np.pi, np.pi), rng.uniform(0.03, 0.22)
            self._direction = np.array([np.cos(angle), np.sin(angle)])
            begin = glass - self._GAP * self._direction
            low, high = Glass.workspace()
            way = glass + np.linspace(0.0, self._length, 8)[:, None] * self._direction
            kept = np.all(edge_distance(way) > 0.015) and way[-1, 0] > WORKSPACE_CENTRE[0] - 0.13
            if np.all((begin > low) & (begin < high)) and (kept or not careful):
                break

    def _around(self, tip: np.ndarray, target: np.ndarray, glass: np.ndarray) -> np.ndarray:
        """Return `target`, or a place on the way to it beside the glass when that is in between."""
        steps = tip + np.linspace(0.0, 1.0, 12)[:, None] * (target - tip)
        away = np.hypot(*(steps - glass).T)
        if np.all(away[1:] > min(self._GAP - 0.006, away[0] - 0.001)):
            return target
        return np.clip(way_round(glass, self._AROUND, tip, target, 0.8), *Glass.workspace())

    def _velocity(self, state: np.ndarray) -> np.ndarray:
        tip, glass, down = state[:2], state[2:4], not stands(state)
        if self._left <= 0 or (down and self._phase in ("approach", "push") and self._chance(0.2)):
            self._think(glass, down)
        self._left -= 1
        noise = self._disturbance(self._scale)
        if self._phase == "rest":
            return np.zeros(2)
        if self._phase == "wander":
            if np.hypot(*(self._target - tip)) < 0.02:
                self._left = 0
            return towards(self._target, tip, self._speed) + noise
        if self._phase == "approach":
            target = np.clip(glass - self._GAP * self._direction, *Glass.workspace())
            if np.hypot(*(target - tip)) >= 0.012:
                return towards(self._around(tip, target, glass), tip, self._speed) + noise
            self._phase, self._speed = "push", self._rng.uniform(0.08, 0.38)
            self._left = int(np.ceil((self._length + 0.01) / (self._speed * PERIOD)))
        return self._speed * self._direction + noise


def _float(_state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    return Intervention(lambda world: world.extend_board())


def _stop_in_the_air(state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    def act(world: "Glass", action: np.ndarray) -> None:
        world.step(action)
        world.place_glass(state)

    return Intervention(act=act)


def _sink(_state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    return Intervention(lambda world: world.open_board())


def _jump_of_glass(length: float) -> Violation:
    def stage(state: np.ndarray, rng: np.random.Generator) -> Intervention | None:
        def fits(place: np.ndarray) -> bool:
            return bool(edge_distance(place) > 0.01 and np.hypot(*(place - state[:2])) > _CLEAR)

        place = jump(state[2:4], length, rng, fits)
        if place is None:
            return None
        return Intervention(lambda world: world.place_glass(standing(state[:2], place)))

    return Violation(stage, where=lambda states: stands(states[:-1]))


def _pass_through(state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    def act(world: "Glass", action: np.ndarray) -> None:
        world.step(action)
        world.place_glass(state)  # as if the stick had met nothing

    return Intervention(act=act)


def _will_fall(states: np.ndarray) -> np.ndarray:
    """Return after which states the glass, which stands, falls deep within a model step."""
    return stands(states[:-1]) & (np.diff(states[:, 4]) < -_FALLEN)


def _falls(states: np.ndarray) -> np.ndarray:
    """Return after which states the glass, which has begun to fall, goes on falling."""
    return ~stands(states[:-1]) & (np.diff(states[:, 4]) < -_FALLEN / 2)


def _stays(states: np.ndarray) -> np.ndarray:
    return stands(states[:-1]) & stands(states[1:])


class Glass(ArmTask):
    """Push a glass of 11 cm to within 4 cm of a place on a board 12 cm above the table.

    Beyond the board's edges and in its gap the glass falls. The arm cannot put it back: it stays down for the
    rest of the episode. `sim` puts it back before the next goal.
    """

    stick = 0.32  # long, which keeps the hand from hiding the glass
    workspace_half = WORKSPACE_HALF
    tip_height = BOARD + 0.035
    view = View((1.08, 0.0, 0.60), (0.54, 0.0, 0.075), 39.0)
    state_names = ("ee_x", "ee_y", "glass_x", "glass_y", "glass_z", "lean_x", "lean_y", "lean_z")
    criterion = "position"
    goal_words = f"the glass stands within {100 * PLACED:.0f} cm of its place"
    goal_budget = 160
    protocols = {
        "gap": Protocol(
            "start and goal on the two sides of the gap: a straight push drops the glass", budget=160
        ),
        "edge": Protocol("the goal lies 2.5 to 3.5 cm from an edge", budget=120),
        "lewm": Protocol(
            f"start and goal {5 * WINDOW} control steps apart in one episode of the explorer, the glass "
            "moved between and standing; as published (arXiv 2603.19312), the robot waits for each plan",
            budget=50,
            waits=True,
            horizon=5,
        ),
    }
    probes = {
        "end effector": ("ee_x", "ee_y"),
        "glass position": ("glass_x", "glass_y", "glass_z"),
        "glass lean": ("lean_x", "lean_y", "lean_z"),
    }
    pictured = "glass position"
    violations = {
        "float": Violation(_float, where=_will_fall),
        "stop_in_mid_air": Violation(_stop_in_the_air, where=_falls),
        "through_board": Violation(_sink, where=_stays),
        **{name: _jump_of_glass(length) for name, length in JUMPS.items()},
        "pass_through": Violation(_pass_through, where=lambda s: _stays(s) & (lengths(s[:, 2:4]) > _REACTS)),
        "stuck": STUCK,
        "camera": CAMERA,
        "vanish": Violation(lambda *_: Intervention(lambda world: world.remove_glass())),
        "replaced": Violation(REPLACED.stage, where=_stays),
    }
    _glass: int | None = None  # its body
    _air: int | None = None  # the body that holds a floating glass

    def prepare(self) -> None:
        """Put up the board: what is around its gap, and legs."""
        p, self._board = self._scene.client, []
        middle = (_GAP_HALF + _SIDE) / 2, (_SIDE - _GAP_HALF) / 2
        parts = [((_BACK + _GAP_BACK) / 2, 0.0, (_GAP_BACK - _BACK) / 2, _SIDE)]
        parts += [
            ((_GAP_BACK + _FRONT) / 2, side * middle[0], (_FRONT - _GAP_BACK) / 2, middle[1])
            for side in (-1, 1)
        ]
        for x, y, half_x, half_y in parts:
            half = [half_x, half_y, _THICK / 2]
            body = p.createMultiBody(
                0,
                p.createCollisionShape(p.GEOM_BOX, halfExtents=half),
                p.createVisualShape(p.GEOM_BOX, halfExtents=half, rgbaColor=_BOARD_COLOUR),
                [x, y, BOARD - _THICK / 2],
            )
            p.changeDynamics(body, -1, lateralFriction=_BOARD_FRICTION)
            self._board.append(body)

    def place(self, state: np.ndarray) -> None:
        """Put the tip and the glass where `state` says, at rest.

        What follows is the same to the bit whatever happened before.
        """
        super().place(state)
        p = self._scene.client
        for body in (self._glass, self._air):
            if body is not None:
                p.removeBody(body)
        self._air = None
        # pybullet remembers the contacts of a body that is only moved, hence a new one; it must not meet
        # the stick where that was before.
        p.performCollisionDetection()
        self._glass = self._scene.load(glass_urdf(), *_pose(state))
        p.changeDynamics(self._glass, -1, lateralFriction=_FRICTION)
        self._carry(True)

    def checked(self, state: np.ndarray) -> np.ndarray:
        """Return a state as an array; ValueError where it is none, or the glass would stand on nothing."""
        state = super().checked(state)
        if abs(np.linalg.norm(state[5:]) - HEIGHT) > 0.01:
            raise ValueError(f"the lean {state[5:].tolist()} is not as long as the glass, {HEIGHT} m")
        if stands(state) and edge_distance(state[2:4]) < -_OUTSIDE:
            raise ValueError(f"the glass at {state[2:4].tolist()} is not on the board")
        return state

    def state(self) -> np.ndarray:
        """Positions of the tip and of the glass's middle, and the way from its foot to its rim, (8,)."""
        p = self._scene.client
        position, orientation = p.getBasePositionAndOrientation(self._glass)
        axis = np.reshape(p.getMatrixFromQuaternion(orientation), (3, 3))[:, 2]
        return np.array([*self._scene.tip(), *position, *(HEIGHT * axis)])

    def place_glass(self, state: np.ndarray) -> None:
        """Put the glass at rest where `state` (8,) says; the arm goes on."""
        p = self._scene.client
        p.resetBasePositionAndOrientation(self._glass, *_pose(state))
        p.resetBaseVelocity(self._glass, (0, 0, 0), (0, 0, 0))

    def remove_glass(self) -> None:
        """Take the glass out of sight and reach until `reset`."""
        self.place_glass(standing(np.zeros(2), np.array([0.5, 0.0])) - [0, 0, 0, 0, 1.0, 0, 0, 0])

    def extend_board(self) -> None:
        """Let the air beyond the board carry the glass until `reset`."""
        p = self._scene.client
        half = [1.0, 1.0, _THICK / 2]
        shape = p.createCollisionShape(p.GEOM_BOX, halfExtents=half)
        self._air = p.createMultiBody(0, shape, -1, [0.5, 0.0, BOARD - _THICK / 2])
        p.changeDynamics(self._air, -1, lateralFriction=_BOARD_FRICTION)

    def open_board(self) -> None:
        """Let the board carry nothing until `reset`."""
        self._carry(False)

    def _carry(self, carries: bool) -> None:
        for body in self._board:
            self._scene.client.setCollisionFilterPair(body, self._glass, -1, -1, int(carries))

    @classmethod
    def marks(cls, pictures: np.ndarray) -> np.ndarray:
        """Return the centre and the area of what is blue and of what is yellow, (N, 6)."""
        red, green, blue = np.moveaxis(pictures.astype(np.float32) / 255, -1, 0)
        return coloured_marks(blue - red, np.minimum(red, green) - blue)

    def explorer(self, seed) -> GlassExplorer:
        """Return an explorer that pushes the glass about."""
        return GlassExplorer(seed)

    def random_state(self, rng: np.random.Generator) -> np.ndarray:
        """Return a state (8,): the glass stands on the board, the tip is clear of it."""
        return standing(*self._beside(_place_on_board(rng, 0.36, _INSIDE), rng))

    def _beside(self, place: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        while True:
            tip = rng.uniform(*self.workspace())
            if np.hypot(*(tip - place)) > _CLEAR:
                return tip, place

    def tidy(self) -> None:
        """Put a glass that has fallen, or is too far back to get behind it, on the middle of the board.

        Beside the middle where the tip is there.
        """
        state = self.state()
        if not stands(state) or state[2] < self.workspace()[0][0] + _CLEAR:
            places = np.array([[0.42, y] for y in (0.0, -0.12, 0.12)])
            away = np.hypot(*(places - state[:2]).T)
            self.place_glass(standing(state[:2], places[away.argmax() if away[0] < _CLEAR else 0]))

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a state (8,) with the glass elsewhere on the board."""
        now = self.state()
        while True:
            goal = self.random_state(rng)
            if goal[2] > 0.42 and np.hypot(*(goal - now)[2:4]) > 2 * PLACED:
                return goal

    def distance(self, goal: np.ndarray) -> float:
        """Return the distance in m from the middle of the glass to its place in `goal`."""
        return float(np.linalg.norm((self.state() - self.checked(goal))[2:5]))

    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Position: the glass stands within 4 cm. Standing: it has not fallen, wherever it is."""
        up = bool(stands(self.state()))
        return {"position": up and self.distance(goal) < PLACED, "standing": up}

    def draw(self, protocol: str, rng: np.random.Generator) -> Start:
        """gap: start and goal on two sides of it. edge: a goal near an edge. lewm: ends of five steps."""
        if protocol == "lewm":
            return self.window(
                rng,
                lambda a, b: bool(
                    np.hypot(*(b - a)[2:4]) > _MOVED and stands(np.array([a, b])).all() and b[2] > 0.40
                ),
            )
        while True:
            if protocol == "gap":
                side = rng.choice((-1, 1))
                place = np.array([rng.uniform(0.44, 0.49), -side * rng.uniform(0.075, 0.105)])
                goal = np.array([rng.uniform(0.525, 0.56), side * rng.uniform(0.075, 0.105)])
                good = edge_distance(np.linspace(place, goal, 50)).min() < -0.01
            else:
                place, goal = _place_on_board(rng, 0.40, _INSIDE), _place_on_board(rng, 0.42, _INSIDE)
                kept = edge_distance(np.linspace(place, goal, 50)).min() > 0.02
                good = kept and edge_distance(goal) < 0.035 and np.hypot(*(goal - place)) > 0.10
            if good:
                break
        # The tip starts behind the glass, seen from the goal.
        way = (goal - place) / np.hypot(*(goal - place))
        tip = np.clip(place - rng.uniform(_CLEAR, 0.08) * way, *self.workspace())
        return Start(standing(tip, place), standing(self._beside(goal, rng)[0], goal))


def _place_on_board(rng: np.random.Generator, back: float, inside: float) -> np.ndarray:
    while True:
        place = rng.uniform((back, -_SIDE), (_FRONT, _SIDE))
        if edge_distance(place) > inside:
            return place


def _pose(state: np.ndarray) -> tuple[list[float], list[float]]:
    """Return position and quaternion of the glass: the shortest turn from upright to its lean."""
    x, y, z = state[5:] / np.linalg.norm(state[5:])
    quaternion = np.array([-y, x, 0.0, 1.0 + z])
    if quaternion[3] < 1e-9:
        quaternion = np.array([1.0, 0.0, 0.0, 0.0])
    return state[2:5].tolist(), (quaternion / np.linalg.norm(quaternion)).tolist()
