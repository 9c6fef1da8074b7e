"""The task detour: bring the tip of the stick to a place on the other side of walls, round their ends."""

import numpy as np

from world_model_ros.sim.arm import SPEED, Explorer, TipTask, tip_violations
from world_model_ros.sim.scene import PERIOD, STICK_RADIUS, SUBSTEPS, WORKSPACE_CENTRE, View
from world_model_ros.sim.task import Protocol, Start

REACHED = 0.02  # tip to goal, m
WORKSPACE_HALF = 0.20  # of the square that the tip moves in, m
_APART = 0.05  # least distance of a goal that is drawn anywhere, m

# Three walls along x divide the table. Each leaves an opening at one end: the middle one at the back, the
# others at the front, where the camera is, so the way from side to side is round the end of each.
WALLS_Y = (-0.10, 0.0, 0.10)  # of their middles, m
OPENING = 0.09  # from the end of a wall to the edge of the workspace, m
_HALF = 0.008  # of a wall's width, m
_HEIGHT = 0.04  # m
_BEYOND = 0.015  # how far a wall reaches beyond the edge of the workspace at its other end, m
_COLOUR = (0.20, 0.30, 0.55, 1)
_TOUCHES = 1e-3  # how deep in a wall a given tip may be, m: one that slides along it is not quite at its face


def _walls() -> np.ndarray:
    """Return the lowest and the highest corner of each wall, (walls, 2, 2), in m."""
    back, front = WORKSPACE_CENTRE[0] - WORKSPACE_HALF, WORKSPACE_CENTRE[0] + WORKSPACE_HALF
    ends = [(back - _BEYOND, front - OPENING), (back + OPENING, front + _BEYOND)]
    return np.array(
        [[(ends[i % 2][0], y - _HALF), (ends[i % 2][1], y + _HALF)] for i, y in enumerate(WALLS_Y)]
    )


WALLS = _walls()
# Where the middle of the stick cannot be.
_CLOSED_LOW, _CLOSED_HIGH = WALLS[:, 0] - STICK_RADIUS, WALLS[:, 1] + STICK_RADIUS


def depth(places: np.ndarray) -> np.ndarray:
    """Return how deep in a wall a stick at places (..., 2) would be, in m; negative where it is free."""
    places = np.asarray(places, float)[..., None, :]
    return np.minimum(places - _CLOSED_LOW, _CLOSED_HIGH - places).min(-1).max(-1)


def slide(tip: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Return where a stick at `tip` (2,) ends that is sent along `way` (2,), in m.

    It goes in small parts, first along x, then along y, and a coordinate stops at a wall or at the edge of
    the workspace: so the stick slides along a wall that it is pressed against.
    """
    low, high = WORKSPACE_CENTRE - WORKSPACE_HALF, WORKSPACE_CENTRE + WORKSPACE_HALF
    tip = np.array(tip, float)
    for _ in range(SUBSTEPS):
        for axis in (0, 1):
            before, part = tip[axis], way[axis] / SUBSTEPS
            tip[axis] = np.clip(before + part, low[axis], high[axis])
            for closed_low, closed_high in zip(_CLOSED_LOW, _CLOSED_HIGH, strict=True):
                if np.all((tip > closed_low) & (tip < closed_high)):
                    tip[axis] = closed_low[axis] if part > 0 else closed_high[axis]
    return tip


def lane(place: np.ndarray) -> int:
    """Return the number of the lane between the walls that `place` (2,) is in, from 0 on."""
    return int(np.searchsorted(WALLS_Y, place[1]))


class DetourExplorer(Explorer):
    """Keep a direction for a while and slide along whatever is in the way; it knows no walls."""

    _MANNERS = ("go", "along", "wander", "stop")
    _SHARES = (0.55, 0.25, 0.14, 0.06)

    def __init__(self, seed):
        super().__init__(seed)
        self._left = 0

    def _choose(self) -> None:
        rng = self._rng
        self._manner = str(rng.choice(self._MANNERS, p=self._SHARES))
        self._left = int(rng.integers(6, 31))
        self._scale = rng.uniform(0.0, 0.08)
        angle = rng.uniform(-np.pi, np.pi)
        self._constant = rng.uniform(0.08, np.sqrt(2) * SPEED) * np.array([np.cos(angle), np.sin(angle)])
        if self._manner == "along":  # an axis, with a bias to one side
            self._constant = rng.choice((-1, 1), 2) * rng.permutation([SPEED, rng.uniform(0.0, 0.5 * SPEED)])
        elif self._manner == "wander":
            self._constant, self._scale = np.zeros(2), rng.uniform(0.1, 0.35)
        elif self._manner == "stop":
            self._left = int(rng.integers(3, 11))

    def _velocity(self, state: np.ndarray) -> np.ndarray:  # noqa: ARG002
        if self._left <= 0:
            self._choose()
        self._left -= 1
        noise = self._disturbance(self._scale)
        return np.zeros(2) if self._manner == "stop" else self._constant + noise


def _free(tip: np.ndarray) -> bool:
    low, high = Detour.workspace()
    return np.all((tip > low) & (tip < high)) and depth(tip) < 0


class Detour(TipTask):
    """Bring the tip within 2 cm of a place; walls stand in the straight way."""

    stick = 0.32  # long, which keeps the hand from hiding the walls
    workspace_half = WORKSPACE_HALF
    view = View((0.90, 0.0, 0.66), (0.505, 0.0, 0.01), 40.0)
    reached, apart = REACHED, _APART  # two places beside a wall are farther apart than reached
    goal_words = f"the tip of the stick is within {100 * REACHED:.0f} cm of its place"
    goal_budget = 200
    protocols = {
        "far": Protocol("start and goal in the two outer lanes: the way leads round three walls", budget=200),
        "random": Protocol("start and goal drawn at random, in any lane", budget=200),
        "lewm": TipTask.lewm,
    }
    violations = tip_violations(_free)

    def prepare(self) -> None:
        """Put up the walls. `slide` stops the stick at them; in the physics engine nothing touches them."""
        p = self._scene.client
        for low, high in WALLS:
            half = [*(high - low) / 2, _HEIGHT / 2]
            look = p.createVisualShape(p.GEOM_BOX, halfExtents=half, rgbaColor=_COLOUR)
            p.createMultiBody(0, -1, look, [*(low + high) / 2, _HEIGHT / 2])

    def place(self, state: np.ndarray) -> None:
        """Put the tip where `state` says, at rest; out of a wall that it is a little in."""
        place = np.array(state)
        for low, high in zip(_CLOSED_LOW, _CLOSED_HIGH, strict=True):
            if np.all((place > low) & (place < high)):
                place[1] = min(low[1], high[1], key=lambda y: abs(y - state[1]))
        super().place(place)

    def move(self, action: np.ndarray, after) -> None:
        """Move the tip for a control step, within the workspace and outside the walls."""
        end = slide(self._command, action * PERIOD)
        self._command = self._scene.move(self._command, end, after)

    def checked(self, state: np.ndarray) -> np.ndarray:
        """Return a state as an array; ValueError for another shape, or a tip outside or in a wall."""
        state = super().checked(state)
        if depth(state) > _TOUCHES:
            raise ValueError(f"the tip at {state.tolist()} is in a wall")
        return state

    def explorer(self, seed) -> DetourExplorer:
        """Return an explorer that goes everywhere between the walls."""
        return DetourExplorer(seed)

    def random_state(self, rng: np.random.Generator) -> np.ndarray:
        """Return a place (2,) in the workspace, outside the walls."""
        while True:
            place = rng.uniform(*self.workspace())
            if depth(place) < 0:
                return place

    def draw(self, protocol: str, rng: np.random.Generator) -> Start:
        """far: a place in each of the two outer lanes. random: anywhere. lewm: ends of five steps."""
        if protocol != "far":
            return super().draw(protocol, rng)
        outer = 0, len(WALLS_Y)
        start = self.random_state(rng)
        while lane(start) not in outer:
            start = self.random_state(rng)
        goal = self.random_state(rng)
        while lane(goal) not in outer or lane(goal) == lane(start):
            goal = self.random_state(rng)
        return Start(start, goal)
