"""The protocol continuous: goals one after another in one world that nobody resets, as `sim` runs them.

A protocol that begins each problem anew says nothing about a robot that has to go on from where its last
failure left it. A run has the seed, the start and the goals that `sim --seed` has; the goals depend on where
the world is when they are drawn.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from world_model_ros.evaluation.closed_loop import percent, percentiles
from world_model_ros.evaluation.policies import Promise
from world_model_ros.evaluation.problems import Problem
from world_model_ros.sim.lockstep import GoalCounter, missed_because, wilson_interval

# Model steps after which the gain of a plan is compared with what it promised; a shorter plan's at its end.
PROMISE = 4
LEAST_GAIN = 1.0  # of the objective, that a plan must promise to be judged: model steps to the goal
KEPT = 0.5  # share of the promised gain that must have come


@dataclass(frozen=True)
class GoalOutcome:
    """How one goal ended."""

    goal: tuple[float, ...]
    reached: bool
    distance: float  # m, at the end
    angle: float | None  # rad
    steps: int  # control steps since its first plan
    reason: str  # of a miss; empty where it was reached


@dataclass(frozen=True)
class RunOutcome:
    """One run: its goals in order, and the planner's promises."""

    seed: int
    goals: tuple[GoalOutcome, ...]
    promises: tuple[
        tuple[float, float], ...
    ] = ()  # gain promised and gain reached, in units of the objective

    @property
    def reached(self) -> int:
        """Number of goals that were reached."""
        return sum(goal.reached for goal in self.goals)


def run_goals(world, policy, seed: int, goals: int, budget: int) -> RunOutcome:
    """Let `policy` reach `goals` goals one after another, each `budget` control steps after its first plan.

    As in `sim`, a goal is reached when the task's criterion held for some control steps in a row, and the
    next one is drawn at the next model step.
    """
    world.reset(seed=seed)
    rng = np.random.default_rng((seed, 1))
    outcomes: list[GoalOutcome] = []
    promises: list[Promise] = []
    while len(outcomes) < goals:
        world.tidy()
        goal = world.sample_goal(rng)
        picture = world.goal_image(goal)
        if outcomes:
            policy.change_goal(picture)
        else:
            policy.start(picture, Problem(0, seed, (), tuple(goal)))
        counter, result = GoalCounter(budget), None
        while result is None:
            # The first block of a goal is what was going on before; what was planned follows it.
            for action in policy.act(world.render()):
                world.step(action)
                result = result or counter.step(world.success(goal), float(world.distance(goal)))
            counter.first_plan()
        angle = world.turned(goal)
        reason = "" if result.reached else missed_because(world, goal)
        outcomes.append(
            GoalOutcome(tuple(map(float, goal)), result.reached, result.distance, angle, result.steps, reason)
        )
        promises += policy.promises(PROMISE)
    judged = [(p.gain, p.reached) for p in promises if p.gain >= LEAST_GAIN]
    return RunOutcome(seed, tuple(outcomes), tuple(judged))


def continuous_results(
    runs: list[RunOutcome], baselines: dict[str, list[RunOutcome]], milliseconds: list[float], candidates
) -> dict:
    """Return rates and metrics of the runs of planner and baselines, as plain data."""
    promises = [promise for run in runs for promise in run.promises]
    broken = sum(bool(reached < KEPT * gain) for gain, reached in promises)
    goals = [goal for run in runs for goal in run.goals]
    return {
        **_rates(runs),
        "baselines": {name: _rates(outcomes) for name, outcomes in baselines.items()},
        "steps": percentiles([goal.steps for goal in goals if goal.reached]),
        "planning_ms": percentiles(milliseconds),
        "candidates_per_plan": sum(candidates) / len(candidates) if candidates else None,
        "promises": len(promises),
        "promises_broken": broken,
        "promises_broken_rate": broken / len(promises) if promises else None,
        "runs": [dataclasses.asdict(run) | {"reached": run.reached} for run in runs],
    }


def _rates(runs: list[RunOutcome]) -> dict:
    n, successes = sum(len(run.goals) for run in runs), sum(run.reached for run in runs)
    return {
        "n": n,
        "successes": successes,
        "success_rate": successes / n,
        "interval": wilson_interval(successes, n),
        "worst_run": min(run.reached for run in runs),
    }


def summary(results: dict) -> str:
    """Return results as a few lines for people."""
    runs = results["runs"]
    length = len(runs[0]["goals"])
    lines = [
        f"{results['task']}, continuous: {len(runs)} runs of {length} goals without a reset, budget "
        f"{results['budget']} control steps a goal, seeds {results['seed']} to {runs[-1]['seed']}",
        f"  reached           {percent(results['success_rate'], results['interval'])}"
        + "".join(f", {name} {percent(b['success_rate'])}" for name, b in results["baselines"].items()),
        f"  of {length} in each run  " + ", ".join(str(run["reached"]) for run in runs),
    ]
    reasons: dict[str, int] = {}
    for goal in (goal for run in runs for goal in run["goals"] if not goal["reached"]):
        reasons[goal["reason"]] = reasons.get(goal["reason"], 0) + 1
    if reasons:
        counted = sorted(reasons.items(), key=lambda pair: -pair[1])
        lines.append("  missed            " + ", ".join(f"{count} {reason}" for reason, count in counted))
    if results["promises"]:
        lines.append(
            f"  broken promises   {percent(results['promises_broken_rate'])} of {results['promises']} plans, "
            f"whose promised gain was not even half reached {PROMISE} model steps later"
        )
    steps, ms = results["steps"], results["planning_ms"]
    if steps["p50"] is not None:
        lines.append(f"  steps to success  p50 {steps['p50']:.0f}, p95 {steps['p95']:.0f}")
    if ms["p50"] is not None:
        lines.append(f"  planning          p50 {ms['p50']:.1f} ms, p95 {ms['p95']:.1f} ms")
    return "\n".join(lines)
