"""Results of closed-loop problems: plain data for JSON, and a few lines for people."""

import dataclasses

from world_model_ros.evaluation.closed_loop import Outcome
from world_model_ros.evaluation.statistics import percentile, wilson_interval

_NAMES = {
    "position": "position",
    "pose": "pose",
    "pose_with_effector": "pose and effector",
}


def rates(outcomes: list[Outcome]) -> dict:
    """Return how often each criterion was met, at any time and at the end, with 95 % Wilson intervals."""
    n = len(outcomes)
    found = {}
    for name in outcomes[0].criteria:
        found[name] = {}
        for when in ("any", "end"):
            met = sum(o.criteria[name][when] for o in outcomes)
            found[name][when] = met / n
            found[name][f"{when}_interval"] = wilson_interval(met, n)
    successes, at_end = sum(o.success for o in outcomes), sum(o.success_at_end for o in outcomes)
    return {
        "successes": successes,
        "success_rate": successes / n,
        "interval": wilson_interval(successes, n),
        "success_at_end": at_end / n,
        "interval_at_end": wilson_interval(at_end, n),
        "criteria": found,
    }


def closed_loop_results(
    planned: list[Outcome],
    baselines: dict[str, list[Outcome]],
    milliseconds: list[float],
    candidates: list[int],
) -> dict:
    """Return what the outcomes of the planner and of the baselines say, as plain data."""
    steps = [o.first_success for o in planned if o.success]
    final = [o.final_distance for o in planned]
    return {
        "n": len(planned),
        **rates(planned),
        "baselines": {name: rates(outcomes) for name, outcomes in baselines.items()},
        "steps": {"p50": percentile(steps, 50), "p95": percentile(steps, 95)},
        "final_distance": {"p50": percentile(final, 50), "p95": percentile(final, 95)},
        "planning_ms": {"p50": percentile(milliseconds, 50), "p95": percentile(milliseconds, 95)},
        "candidates_per_plan": sum(candidates) / len(candidates) if candidates else None,
        "outcomes": [dataclasses.asdict(o) for o in planned],
    }


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
            f"{number(results['candidates_per_plan'], '{:.0f}')} futures imagined a plan",
        ]
    )
