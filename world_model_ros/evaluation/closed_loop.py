"""One problem in the simulator: the policy acts, the world judges every control step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from world_model_ros.evaluation.policies import Policy
from world_model_ros.evaluation.problems import Problem


@dataclass(frozen=True)
class Outcome:
    """What became of a problem. The first fields are by the criterion that decides success."""

    index: int
    success: bool  # the criterion was met at some control step within the budget
    success_at_end: bool  # and when the budget was used up
    first_success: int | None  # control steps until then
    start_distance: float  # metres
    final_distance: float  # metres
    start_angle: float | None = None  # rad, of the block
    final_angle: float | None = None  # rad
    criteria: dict[str, dict] = field(default_factory=dict)  # name -> any, end (bool), first (steps)


class Camera(Protocol):
    """What reaches the policy of what there is to see."""

    delay: int  # control steps between a picture and the moment it is stamped with

    def start(self, seed: int) -> None:
        """Begin a problem."""

    def show(self, picture: np.ndarray) -> np.ndarray | None:
        """Return what the policy gets of a picture (H, W, 3) uint8; None where the frame is lost."""


def run_problem(
    world,
    policy: Policy,
    problem: Problem,
    budget: int,
    watch: Callable[[np.ndarray], None] = lambda _: None,
    camera: Camera | None = None,
) -> Outcome:
    """Let ``policy`` act for ``budget`` control steps; the world judges every one of them.

    ``watch`` sees the picture (H, W, 3) uint8 at the start of each block; ``camera`` stands between it
    and the policy.
    """
    goal = np.asarray(problem.goal)
    world.reset(seed=problem.seed, state=np.asarray(problem.start))
    policy.start(world.goal_image(goal), problem)
    delay = 0
    if camera is not None:
        camera.start(problem.seed)
        delay = camera.delay
    angle = getattr(world, "turned", lambda _: None)
    start = float(world.distance(goal)), angle(goal)
    met: list[dict[str, bool]] = []
    earlier = None  # the picture taken ``delay`` control steps ago
    while len(met) < budget:
        picture = world.render()
        watch(picture)
        shown = picture if earlier is None else earlier
        block = policy.act(shown if camera is None else camera.show(shown))
        for left, action in zip(range(len(block), 0, -1), block, strict=True):
            if left == delay:
                earlier = world.render()
            if len(met) < budget:
                world.step(action)
                met.append(world.criteria(goal))
    criteria = {name: _summary([step[name] for step in met]) for name in met[0]}
    decisive = criteria[world.criterion]
    return Outcome(
        index=problem.index,
        success=decisive["any"],
        success_at_end=decisive["end"],
        first_success=decisive["first"],
        start_distance=start[0],
        final_distance=float(world.distance(goal)),
        start_angle=start[1],
        final_angle=angle(goal),
        criteria=criteria,
    )


def _summary(met: list[bool]) -> dict:
    """When a criterion was met; ``first`` counts control steps, from one."""
    return {
        "any": any(met),
        "end": bool(met[-1]),
        "first": met.index(True) + 1 if any(met) else None,
    }
