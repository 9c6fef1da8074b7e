"""The ``evaluate`` verb: what a checkpoint can do, in the simulator and on held-out episodes, without ROS."""

import argparse
import contextlib
import dataclasses
import importlib
from pathlib import Path

from world_model_ros.errors import UserError
from world_model_ros.evaluation import results as closed_loop
from world_model_ros.evaluation import robustness
from world_model_ros.evaluation.files import check_target, write_json
from world_model_ros.evaluation.filmstrip import save_filmstrip
from world_model_ros.evaluation.problems import ProblemSet, load_problems, make_problems, save_problems
from world_model_ros.evaluation.workers import Job, Settings, run_in_workers
from world_model_ros.model.config import read_spec
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.planning.config import OBJECTIVES, PROPOSALS, PlannerConfig
from world_model_ros.planning.precision import PRECISIONS
from world_model_ros.planning.solvers import SOLVERS
from world_model_ros.provenance import command_line, source_commit
from world_model_ros.sim.tasks import check_world, find_task, make_world, task_names

BASELINES = ("random", "repeat")
# protocol -> a module with measure(checkpoint, task, data, n, seed) -> dict and summary(dict) -> str
OPEN_LOOP = {
    "knowledge": "world_model_ros.evaluation.probing",
    "surprise": "world_model_ros.evaluation.surprise",
}
CLOSED_LOOP_ONLY = ("problems", "save_problems", "budget", "filmstrip")  # options
_CHOICES = {  # beside the task's own
    "robustness": "the task's own protocol under noisy and partial pictures",
    "knowledge": "probes, open-loop error, straightness",
    "surprise": "what the one-step error makes of impossible events",
}
_DEFAULT_N = {"robustness": 50}
_CHANGE_NOTHING = ("workers", "json", "save_problems", "filmstrip")  # options, in the results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    planner = PlannerConfig()
    names = ", ".join(task_names())
    parser.add_argument(
        "--task", help=f"{names}, or module:Class (knowledge: not for recorded episodes given by --data)"
    )
    parser.add_argument("--checkpoint", help="folder or shipped model (default: the one named like the task)")
    parser.add_argument(
        "--protocol",
        help="one of the task's, which draws problems (default: its first one); "
        + "; ".join(f"{name}: {words}" for name, words in _CHOICES.items()),
    )
    parser.add_argument("-n", type=int, help="number of problems, episodes or events (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="draws the problems")
    parser.add_argument("--problems", type=Path, metavar="FILE", help="run these instead of drawing some")
    parser.add_argument("--save-problems", type=Path, metavar="FILE", help="write the problems there")
    parser.add_argument("--data", type=Path, help="episode file of the training (knowledge, surprise)")
    parser.add_argument("--budget", type=int, help="control steps a problem (default: the protocol's)")
    parser.add_argument("--workers", type=int, default=1, help="processes; no outcome depends on them")
    parser.add_argument("--no-baselines", action="store_true", help="leave out random and repeat")
    timing = parser.add_mutually_exclusive_group()
    timing.add_argument(
        "--blocking", action="store_true", help="the robot waits for each plan (lewm's default, as published)"
    )
    timing.add_argument(
        "--pipelined", action="store_true", help="it plans while it moves, as the nodes do (else the default)"
    )
    parser.add_argument("--samples", type=int, help="candidates an iteration (default: suits the objective)")
    parser.add_argument("--elites", type=int, help="best ones that the next draw follows (likewise)")
    parser.add_argument("--iterations", type=int, help="of the solver (likewise)")
    parser.add_argument(
        "--first_solve_multiplier",
        type=int,
        help="times as many candidates where the moment of arrival is chosen (likewise)",
    )
    parser.add_argument(
        "--horizon", type=int, help="model steps (default: suits the objective; 5 for lewm, as published)"
    )
    parser.add_argument("--initial-std", type=float, help="in z-scores (default: likewise)")
    parser.add_argument("--correlation", type=float, help="of the noise, in time (default: likewise)")
    parser.add_argument("--solver", choices=("auto", *SOLVERS), default=planner.solver)
    parser.add_argument(
        "--proposal", choices=PROPOSALS, default=planner.proposal, help="what the first candidates hold"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=planner.precision, help="of the imagination"
    )
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default=planner.objective, help="what candidates are judged by"
    )
    parser.add_argument(
        "--ood-penalty",
        type=float,
        help="cost of imagining what is inside the range of latent norms (likewise)",
    )
    parser.add_argument(
        "--squared-distance-weight",
        type=float,
        help="what the squared distance adds near the goal (likewise)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--filmstrip", type=Path, metavar="PNG", help="draw the first problems there")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print a table, write the JSON."""
    _check(arguments)
    source_commit()
    checkpoint = str(find_checkpoint(arguments.checkpoint or arguments.task or ""))
    if arguments.protocol in OPEN_LOOP:
        module = importlib.import_module(OPEN_LOOP[arguments.protocol])
        results = module.measure(
            checkpoint, arguments.task or "", arguments.data, arguments.n, arguments.seed
        ) | _provenance(arguments.task or "", arguments.protocol, checkpoint, arguments.seed)
        print(module.summary(results))
    else:
        results = _closed_loop(arguments, checkpoint)
    if arguments.json:
        command = command_line("evaluate", arguments, add_arguments, _CHANGE_NOTHING)
        write_json(arguments.json, results | {"command": command})
        print(f"results: {arguments.json}")
    return 0


def _closed_loop(arguments: argparse.Namespace, checkpoint: str) -> dict:
    problems = _problems(arguments, checkpoint)
    protocol = find_task(arguments.task).protocols[problems.protocol]
    names = {field.name for field in dataclasses.fields(PlannerConfig)} & set(vars(arguments)) - {"seed"}
    heads = read_spec(checkpoint).model
    given = {name: getattr(arguments, name) for name in names}
    if arguments.horizon is None:
        given["horizon"] = protocol.horizon
    settings = Settings(
        task=arguments.task,
        checkpoint=checkpoint,
        budget=problems.budget,
        pipelined=arguments.pipelined or not (arguments.blocking or protocol.waits),
        planner=PlannerConfig(**given).resolved(
            temporal=heads.temporal_hidden > 0, inverse=heads.inverse_hidden > 0
        ),
    )
    if arguments.save_problems:
        save_problems(arguments.save_problems, problems)
        print(f"problems: {arguments.save_problems}")
    if arguments.protocol == "robustness":
        results = evaluate_robustness(settings, problems, arguments.workers)
        print(robustness.summary(results))
    else:
        results = evaluate(settings, problems, arguments.workers, () if arguments.no_baselines else BASELINES)
        print(closed_loop.summary(results))
    if arguments.filmstrip:
        save_filmstrip(arguments.filmstrip, settings, results["problems"])
        print(f"pictures: {arguments.filmstrip}")
    return results


def evaluate(settings: Settings, problems: ProblemSet, workers: int = 1, baselines=BASELINES) -> dict:
    """Return the results of planner and ``baselines`` on the same problems as plain data, ready for JSON."""
    policies = ("planner", *baselines)
    jobs = [Job(problem, policy) for problem in problems.problems for policy in policies]
    done = run_in_workers(settings, jobs, workers)
    by_policy = {name: done[i :: len(policies)] for i, name in enumerate(policies)}
    outcomes = {name: [d.outcome for d in found] for name, found in by_policy.items()}
    milliseconds = [ms for d in by_policy["planner"] for ms in d.milliseconds]
    planned = outcomes.pop("planner")
    candidates = [count for d in by_policy["planner"] for count in d.candidates]
    results = closed_loop.closed_loop_results(planned, outcomes, milliseconds, candidates)
    return results | _settings(settings, problems, problems.protocol)


def evaluate_robustness(settings: Settings, problems: ProblemSet, workers: int = 1) -> dict:
    """Return the planner's results under each perturbation as plain data, ready for JSON."""
    results = robustness.measure(settings, list(problems.problems), workers)
    return results | _settings(settings, problems, "robustness") | {"problems_protocol": problems.protocol}


def _settings(settings: Settings, problems: ProblemSet, protocol: str) -> dict:
    return {
        **_provenance(settings.task, protocol, settings.checkpoint, problems.seed),
        "budget": settings.budget,
        "pipelined": settings.pipelined,
        "planner": dataclasses.asdict(settings.planner),
        "problems": [dataclasses.asdict(p) for p in problems.problems],
    }


def _provenance(task: str, protocol: str, checkpoint: str, seed: int) -> dict:
    training = read_spec(checkpoint).training
    return {
        "task": task,
        "protocol": protocol,
        "checkpoint": training | {"name": Path(checkpoint).name},
        "commit": source_commit(),
        "seed": seed,
    }


def _problems(arguments: argparse.Namespace, checkpoint: str) -> ProblemSet:
    with contextlib.closing(make_world(arguments.task)) as world:
        check_world(read_spec(checkpoint), arguments.task)
        if arguments.problems:
            found = load_problems(arguments.problems, world)
            if arguments.protocol not in (None, "robustness", found.protocol):
                raise UserError(
                    f"{arguments.problems} holds problems of protocol {found.protocol}: leave --protocol out."
                )
            if arguments.n is not None and arguments.n > len(found.problems):
                raise UserError(
                    f"{arguments.problems} holds {len(found.problems)} problems, -n asks for {arguments.n}: "
                    "leave -n out to run them all."
                )
            kept = found.problems[: arguments.n]
            return dataclasses.replace(found, problems=kept, budget=arguments.budget or found.budget)
        own = next(iter(world.protocols))
        protocol = own if arguments.protocol in (None, "robustness") else arguments.protocol
        n = arguments.n or _DEFAULT_N.get(arguments.protocol, 100)
        problems = tuple(make_problems(world, n, arguments.seed, protocol))
    budget = arguments.budget or world.protocols[protocol].budget
    return ProblemSet(arguments.task, protocol, arguments.seed, budget, problems)


def _check(arguments: argparse.Namespace) -> None:
    recorded = arguments.protocol == "knowledge" and arguments.data
    if not (arguments.task or recorded):
        raise UserError(f"give --task: {', '.join(task_names())}, or module:Class.")
    protocols = find_task(arguments.task).protocols if arguments.task else {}
    if arguments.protocol not in (None, *protocols, *_CHOICES):
        raise UserError(
            f"{arguments.task} has no protocol {arguments.protocol}: choose "
            f"{' or '.join(protocols)}, or {', '.join(_CHOICES)}."
        )
    for option, value, least in (
        ("-n", arguments.n, 1),
        ("--workers", arguments.workers, 1),
        ("--seed", arguments.seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, it is {value}.")
    if arguments.budget is not None and arguments.budget < 1:
        raise UserError(f"--budget must be at least 1 control step, it is {arguments.budget}.")
    for option in ("json", "filmstrip", "save_problems"):
        path = getattr(arguments, option)
        if path:
            check_target(_flag(option), path)
    open_loop = arguments.protocol in OPEN_LOOP
    for option in CLOSED_LOOP_ONLY if open_loop else ("data",):
        if getattr(arguments, option):
            others = "the other protocols" if open_loop else " and ".join(OPEN_LOOP)
            raise UserError(f"{_flag(option)} is for {others}: leave it out, or choose another --protocol.")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
