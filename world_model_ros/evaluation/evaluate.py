"""The ``evaluate`` verb: closed-loop success in the simulator, without ROS."""

import argparse
import contextlib
import dataclasses
import json
import os
from pathlib import Path

from world_model_ros.errors import UserError
from world_model_ros.evaluation.closed_loop import make_problems
from world_model_ros.evaluation.filmstrip import save_filmstrip
from world_model_ros.evaluation.statistics import percentile, wilson_interval
from world_model_ros.evaluation.workers import Settings, run_in_workers
from world_model_ros.model.config import CheckpointSpec, read_spec
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.planning.receding import PlannerConfig
from world_model_ros.provenance import source_commit
from world_model_ros.sim import TASKS
from world_model_ros.sim.worlds import make_world

PROTOCOLS = {"random": "start and goal drawn at random, unsolved at the start, far enough apart"}
# Control steps: twice the longest way through the workspace, for a block has to be walked around.
BUDGETS = {"reach": 50, "push": 200}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    planner = PlannerConfig()
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--checkpoint", help="folder or shipped model (default: the one named like the task)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="random")
    parser.add_argument("-n", type=int, default=100, help="number of problems")
    parser.add_argument("--seed", type=int, default=0, help="draws the problems")
    parser.add_argument("--budget", type=int, help="control steps a problem (default: the task's)")
    parser.add_argument("--workers", type=int, default=1, help="processes; no outcome depends on them")
    parser.add_argument("--blocking", action="store_true", help="the robot waits for each plan")
    parser.add_argument("--samples", type=int, default=planner.samples, help="candidates an iteration")
    parser.add_argument("--elites", type=int, default=planner.elites)
    parser.add_argument("--iterations", type=int, default=planner.iterations)
    parser.add_argument("--horizon", type=int, default=planner.horizon, help="model steps")
    parser.add_argument("--initial-std", type=float, default=planner.initial_std, help="in z-scores")
    parser.add_argument(
        "--correlation", type=float, default=planner.correlation, help="of the noise, in time"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--filmstrip", type=Path, metavar="PNG", help="draw the first problems there")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print a table, write the JSON."""
    for option, value in (("-n", arguments.n), ("--workers", arguments.workers)):
        if value < 1:
            raise UserError(f"{option} must be at least 1, it is {value}.")
    for option in ("json", "filmstrip"):
        path = getattr(arguments, option)
        if path and not path.parent.is_dir():
            raise UserError(f"--{option} {path}: there is no folder {path.parent}, make it first.")
    settings = Settings(
        task=arguments.task,
        checkpoint=str(find_checkpoint(arguments.checkpoint or arguments.task)),
        budget=BUDGETS[arguments.task] if arguments.budget is None else arguments.budget,
        pipelined=not arguments.blocking,
        planner=PlannerConfig(
            samples=arguments.samples,
            elites=arguments.elites,
            iterations=arguments.iterations,
            horizon=arguments.horizon,
            initial_std=arguments.initial_std,
            correlation=arguments.correlation,
        ),
    )
    if settings.budget < 1:
        raise UserError(f"--budget must be at least 1 control step, it is {settings.budget}.")
    results = evaluate(settings, arguments.protocol, arguments.n, arguments.seed, arguments.workers)
    print(summary(results))
    if arguments.json:
        temporary = arguments.json.with_name(arguments.json.name + ".tmp")
        temporary.write_text(json.dumps(results, indent=2) + "\n")
        os.replace(temporary, arguments.json)
        print(f"results: {arguments.json}")
    if arguments.filmstrip:
        save_filmstrip(arguments.filmstrip, settings, results["problems"])
        print(f"pictures: {arguments.filmstrip}")
    return 0


def evaluate(settings: Settings, protocol: str, n: int, seed: int, workers: int = 1) -> dict:
    """Return the results of ``n`` problems as plain data, ready for JSON.

    The planner and the floor face the same problems; outcomes do not depend on ``workers``.
    """
    spec = read_spec(settings.checkpoint)
    with _world(settings.task) as world:
        _check_actions(spec, world)
        problems = make_problems(world, n, seed)
    outcomes, milliseconds = run_in_workers(settings, problems, workers)
    planned, random = outcomes["planner"], outcomes["random"]
    successes = sum(o.success for o in planned)
    at_end = sum(o.success_at_end for o in planned)
    return {
        "task": settings.task,
        "protocol": protocol,
        "n": n,
        "successes": successes,
        "success_rate": successes / n,
        "interval": wilson_interval(successes, n),
        "success_at_end": at_end / n,
        "interval_at_end": wilson_interval(at_end, n),
        "floors": {
            "random": {
                "success_rate": sum(o.success for o in random) / n,
                "success_at_end": sum(o.success_at_end for o in random) / n,
            }
        },
        "steps": {
            "p50": percentile([o.first_success for o in planned if o.success], 50),
            "p95": percentile([o.first_success for o in planned if o.success], 95),
        },
        "final_distance": {
            q: percentile([o.final_distance for o in planned], int(q[1:])) for q in ("p50", "p95")
        },
        "planning_ms": {q: percentile(milliseconds, int(q[1:])) for q in ("p50", "p95")},
        "budget": settings.budget,
        "pipelined": settings.pipelined,
        "planner": dataclasses.asdict(settings.planner),
        "checkpoint": spec.training | {"name": Path(settings.checkpoint).name},
        "commit": source_commit(),
        "seed": seed,
        "problems": [dataclasses.asdict(p) for p in problems],
        "outcomes": [dataclasses.asdict(o) for o in planned],
    }


def summary(results: dict) -> str:
    """Return the results as a few lines for people."""

    def percent(rate: float, interval=None) -> str:
        text = f"{100 * rate:.1f} %"
        return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"

    def number(value, pattern: str) -> str:
        return "-" if value is None else pattern.format(value)

    floor, steps, ms = results["floors"]["random"], results["steps"], results["planning_ms"]
    distance = results["final_distance"]
    return "\n".join(
        [
            f"{results['task']}, protocol {results['protocol']}, n = {results['n']}, "
            f"budget {results['budget']} control steps, seed {results['seed']}",
            f"  success           {percent(results['success_rate'], results['interval'])}"
            f"   random policy {percent(floor['success_rate'])}",
            f"  success at end    {percent(results['success_at_end'], results['interval_at_end'])}"
            f"   random policy {percent(floor['success_at_end'])}",
            f"  steps to success  p50 {number(steps['p50'], '{:.0f}')}, p95 {number(steps['p95'], '{:.0f}')}",
            f"  final distance    p50 {1e3 * distance['p50']:.1f} mm, p95 {1e3 * distance['p95']:.1f} mm",
            f"  planning          p50 {ms['p50']:.1f} ms, p95 {ms['p95']:.1f} ms",
        ]
    )


def _world(task: str):
    return contextlib.closing(make_world(task))


def _check_actions(spec: CheckpointSpec, world) -> None:
    """Refuse a checkpoint of another robot: names, kind and timing must be the world's."""
    theirs = (spec.action.names, spec.action.kind, spec.period, spec.block)
    ours = (tuple(world.action_names), world.action_kind, world.period, world.block)
    if theirs != ours:
        raise UserError(
            "the checkpoint does not fit the task: action names, kind, period and block are "
            f"{theirs} in the checkpoint and {ours} in the world."
        )
