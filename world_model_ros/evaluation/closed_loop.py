"""Closed-loop evaluation: a policy acts in the simulator, and the success of many problems is summed up."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from world_model_ros.evaluation.policies import Policy
from world_model_ros.evaluation.problems import Problem
from world_model_ros.sim.lockstep import wilson_interval

_NAMES = {
    "position": "position",
    "pose": "pose",
    "pose_with_effector": "pose and effector",
}


@dataclass(frozen=True)
class Outcome:
    """Outcome of one problem. The first fields refer to the criterion that decides success."""

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
    """Stands between the images of the simulator and the policy: it may change, lose or delay them."""

    delay: int  # control steps between the time of an image and its stamp

    def start(self, seed: int) -> None:
        """Begin a problem."""

    def show(self, picture: np.ndarray) -> np.ndarray | None:
        """Return the image (H, W, 3) uint8 that the policy gets; None where the frame is lost."""


def run_problem(
    world,
    policy: Policy,
    problem: Problem,
    budget: int,
    watch: Callable[[np.ndarray], None] = lambda _: None,
    camera: Camera | None = None,
) -> Outcome:
    """Let ``policy`` act for ``budget`` control steps, and check the criteria after each of them.

    ``watch`` gets the image (H, W, 3) uint8 at the start of each block, before ``camera`` changes it.
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
    earlier = None  # the image of ``delay`` control steps ago
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
    """Return when a criterion was met; ``first`` counts control steps, from one."""
    return {
        "any": any(met),
        "end": bool(met[-1]),
        "first": met.index(True) + 1 if any(met) else None,
    }


def rates(outcomes: list[Outcome]) -> dict:
    """Return how often each criterion was met, at any time and at the end, with 95 % Wilson intervals."""
    n = len(outcomes)
    criteria: dict[str, dict] = {}
    for name in outcomes[0].criteria:
        criteria[name] = {}
        for when in ("any", "end"):
            met = sum(o.criteria[name][when] for o in outcomes)
            criteria[name][when] = met / n
            criteria[name][f"{when}_interval"] = wilson_interval(met, n)
    successes, at_end = sum(o.success for o in outcomes), sum(o.success_at_end for o in outcomes)
    return {
        "successes": successes,
        "success_rate": successes / n,
        "interval": wilson_interval(successes, n),
        "success_at_end": at_end / n,
        "interval_at_end": wilson_interval(at_end, n),
        "criteria": criteria,
    }


def closed_loop_results(
    planned: list[Outcome],
    baselines: dict[str, list[Outcome]],
    milliseconds: list[float],
    candidates: list[int],
) -> dict:
    """Return rates and metrics of the planner and of the baselines, as plain data."""
    return {
        "n": len(planned),
        **rates(planned),
        "baselines": {name: rates(outcomes) for name, outcomes in baselines.items()},
        "steps": percentiles([o.first_success for o in planned if o.success]),
        "final_distance": percentiles([o.final_distance for o in planned]),
        "planning_ms": percentiles(milliseconds),
        "candidates_per_plan": sum(candidates) / len(candidates) if candidates else None,
        "outcomes": [dataclasses.asdict(o) for o in planned],
    }


def percentiles(values: list[float]) -> dict[str, float | None]:
    """Return median and 95th percentile, None without values."""
    return {f"p{q}": float(np.percentile(values, q)) if values else None for q in (50, 95)}


def percent(rate: float, interval=None) -> str:
    """Return a rate as text, with its interval where given."""
    text = f"{100 * rate:.1f} %"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def summary(results: dict) -> str:
    """Return closed-loop results as a few lines for people."""

    def number(value, pattern: str) -> str:
        return "-" if value is None else pattern.format(value)

    baselines = results["baselines"]
    lines = [
        f"{results['task']}, protocol {results['protocol']}, n = {results['n']}, "
        f"budget {results['budget']} control steps, seed {results['seed']}, "
        + ("planning while moving" if results.get("pipelined", True) else "waiting for each plan"),
        f"  {'within the goal':<35}{'planner':<26}" + "".join(f"{name:<10}" for name in baselines),
    ]
    for name, rate in results["criteria"].items():
        for when, words in (("any", "at some moment"), ("end", "at the end")):
            label = f"{_NAMES.get(name, name)}, {words}"
            beside = "".join(f"{percent(f['criteria'][name][when]):<10}" for f in baselines.values())
            lines.append(f"  {label:<35}{percent(rate[when], rate[f'{when}_interval']):<26}{beside}".rstrip())
    steps, distance, ms = results["steps"], results["final_distance"], results["planning_ms"]
    return "\n".join(
        [
            *lines,
            f"  steps to success  p50 {number(steps['p50'], '{:.0f}')}, p95 {number(steps['p95'], '{:.0f}')}",
            f"  final distance    p50 {1e3 * distance['p50']:.1f} mm, p95 {1e3 * distance['p95']:.1f} mm",
            f"  planning          p50 {ms['p50']:.1f} ms, p95 {ms['p95']:.1f} ms, "
            f"{number(results['candidates_per_plan'], '{:.0f}')} candidates a plan",
        ]
    )
