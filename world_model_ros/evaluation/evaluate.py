"""The ``evaluate`` verb: measures a checkpoint in the simulator and on held-out episodes, without ROS."""

import argparse
import contextlib
import dataclasses
import importlib
import sys
from pathlib import Path

import cv2
import numpy as np

from world_model_ros.data.atomic import check_target, write_json
from world_model_ros.errors import UserError
from world_model_ros.evaluation import closed_loop, continuous, robustness
from world_model_ros.evaluation.problems import (
    Problem,
    ProblemSet,
    load_problems,
    make_problems,
    save_problems,
)
from world_model_ros.evaluation.workers import Job, RunJob, Settings, Worker, run_in_workers
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.planning.config import OPTIONS, PlannerConfig
from world_model_ros.provenance import command_line, source_commit
from world_model_ros.sim.tasks import check_world, find_task, make_world, other_task, task_names

BASELINES = ("random", "repeat")
# protocol -> a module with measure(checkpoint, task, data, n, seed) -> dict and summary(dict) -> str
OPEN_LOOP = {
    "imagination": "world_model_ros.evaluation.imagination",
    "probing": "world_model_ros.evaluation.probing",
    "surprise": "world_model_ros.evaluation.surprise",
    "risk": "world_model_ros.evaluation.risk",
}
CLOSED_LOOP_ONLY = ("problems", "save_problems", "budget", "filmstrip")  # options
_CHOICES = {  # beside the task's own
    "continuous": "goals one after another without a reset, as `sim` runs them",
    "robustness": "the task's own protocol under noisy and partial camera images",
    "imagination": "pictures that the checkpoint's decoder makes of latents, seen and imagined",
    "probing": "probes of the latents, open-loop error, straightness of latent paths",
    "surprise": "one-step error at physically impossible events (violation of expectation)",
    "risk": "how long before the pictures show it the event of the risk head is announced",
}
_DEFAULT_N = {"robustness": 50, "continuous": 200}
_CHANGE_NOTHING = ("workers", "json", "save_problems", "filmstrip")  # options, in the results
_GAP = 4  # pixels between the images of a filmstrip
_GOAL_COLOUR = (40, 160, 60)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--task",
        help=f"{', '.join(task_names())}, or module:Class (probing with --data: not required)",
    )
    parser.add_argument(
        "--checkpoint", help="folder or shipped model (default: the shipped model named like the task)"
    )
    parser.add_argument(
        "--protocol",
        help="one of the task's, which draws problems (default: its first one); "
        + "; ".join(f"{name}: {words}" for name, words in _CHOICES.items()),
    )
    parser.add_argument(
        "-n",
        type=int,
        help="number of problems, of episodes (imagination, probing) or violations of each kind (surprise) "
        "(default: 100 problems, 50 for robustness, 200 goals for continuous; 200 episodes, 150 with --data; "
        "200 violations)",
    )
    parser.add_argument(
        "--runs", type=int, default=10, help="of continuous: number of runs that share the n goals"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems and of everything random")
    parser.add_argument("--problems", type=Path, metavar="FILE", help="run the problems in this file")
    parser.add_argument("--save-problems", type=Path, metavar="FILE", help="write the problems to this file")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="episode file of the training (imagination, probing, surprise)",
    )
    parser.add_argument("--budget", type=int, help="control steps for a problem (default: the protocol's)")
    parser.add_argument(
        "--workers", type=int, default=1, help="number of processes; the outcomes do not depend on it"
    )
    parser.add_argument(
        "--no-baselines", action="store_true", help="leave out the baselines (random, repeat the last action)"
    )
    timing = parser.add_mutually_exclusive_group()
    timing.add_argument(
        "--blocking",
        action="store_true",
        help="the robot waits for each plan (default of the protocol lewm, as published)",
    )
    timing.add_argument(
        "--pipelined",
        action="store_true",
        help="planning while the robot moves, as the nodes do (default of the other protocols)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--filmstrip", type=Path, metavar="PNG", help="draw the first problems to this file")
    planner = parser.add_argument_group("planner", "Also parameters of planner_node, of the same names.")
    for field in dataclasses.fields(PlannerConfig):
        if field.name != "seed":  # each problem brings its own
            _add_planner_option(planner, field)


def _add_planner_option(group, field: dataclasses.Field) -> None:
    option = OPTIONS[field.name]
    words = option.description[0].lower() + option.description[1:].rstrip(".")
    if field.default is None:
        protocols = (
            "the protocol's where it sets one, as lewm does; otherwise " if field.name == "horizon" else ""
        )
        words += f" (default: {protocols}{option.unset})"
    values = {"choices": option.choices} if option.choices else {"type": option.kind, "metavar": "NUMBER"}
    group.add_argument(_flag(field.name), default=field.default, help=words, **values)


def _planner(arguments: argparse.Namespace) -> PlannerConfig:
    """Return the planner's options that were given. Raises UserError where they make no sense."""
    return PlannerConfig(**{name: getattr(arguments, name) for name in OPTIONS if name != "seed"})


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print a table, write the JSON."""
    _check(arguments)
    source_commit()
    checkpoint = str(find_checkpoint(arguments.checkpoint or arguments.task or ""))
    if warning := other_task(read_spec(checkpoint), arguments.task or ""):
        print(f"{warning}: expect it to fail.", file=sys.stderr)
    if arguments.protocol in OPEN_LOOP:
        module = importlib.import_module(OPEN_LOOP[arguments.protocol])
        results = module.measure(
            checkpoint, arguments.task or "", arguments.data, arguments.n, arguments.seed
        ) | _provenance(arguments.task or "", arguments.protocol, checkpoint, arguments.seed)
        print(module.summary(results))
    elif arguments.protocol == "continuous":
        results = _continuous(arguments, checkpoint)
    else:
        results = _closed_loop(arguments, checkpoint)
    if arguments.json:
        command = command_line("evaluate", arguments, add_arguments, _CHANGE_NOTHING)
        write_json(arguments.json, results | {"command": command})
        print(f"results: {arguments.json}")
    return 0


def _settings_of(
    arguments: argparse.Namespace, checkpoint: str, budget: int, waits: bool, horizon: int | None = None
) -> Settings:
    planner = _planner(arguments)
    if planner.horizon is None:
        planner = dataclasses.replace(planner, horizon=horizon)
    return Settings(
        task=arguments.task,
        checkpoint=checkpoint,
        budget=budget,
        pipelined=arguments.pipelined or not (arguments.blocking or waits),
        planner=planner.for_checkpoint(read_spec(checkpoint)),
    )


def _continuous(arguments: argparse.Namespace, checkpoint: str) -> dict:
    check_world(read_spec(checkpoint), arguments.task)
    budget = arguments.budget or find_task(arguments.task).goal_budget
    settings = _settings_of(arguments, checkpoint, budget, waits=False)
    n = arguments.n or _DEFAULT_N["continuous"]
    policies = ("planner",) if arguments.no_baselines else ("planner", *BASELINES)
    results = evaluate_continuous(
        settings, n // arguments.runs, arguments.runs, arguments.seed, arguments.workers, policies
    )
    print(continuous.summary(results))
    return results


def evaluate_continuous(
    settings: Settings, goals: int, runs: int, seed: int, workers: int = 1, policies=("planner", *BASELINES)
) -> dict:
    """Return the results of ``runs`` runs of ``goals`` goals each as plain data, ready for JSON."""
    jobs = [RunJob(seed + run, goals, policy) for run in range(runs) for policy in policies]
    return {
        **continuous.continuous_results(*_by_policy(settings, jobs, policies, workers)),
        **_provenance(settings.task, "continuous", settings.checkpoint, seed),
        "budget": settings.budget,
        "pipelined": settings.pipelined,
        "planner": dataclasses.asdict(settings.planner),
    }


def _closed_loop(arguments: argparse.Namespace, checkpoint: str) -> dict:
    problems = _problems(arguments, checkpoint)
    protocol = find_task(arguments.task).protocols[problems.protocol]
    settings = _settings_of(arguments, checkpoint, problems.budget, protocol.waits, protocol.horizon)
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
        print(f"filmstrip: {arguments.filmstrip}")
    return results


def evaluate(settings: Settings, problems: ProblemSet, workers: int = 1, baselines=BASELINES) -> dict:
    """Return the results of planner and ``baselines`` on the same problems as plain data, ready for JSON."""
    policies = ("planner", *baselines)
    jobs = [Job(problem, policy) for problem in problems.problems for policy in policies]
    results = closed_loop.closed_loop_results(*_by_policy(settings, jobs, policies, workers))
    return results | _settings(settings, problems, problems.protocol)


def _by_policy(settings: Settings, jobs: list, policies: tuple[str, ...], workers: int) -> tuple:
    """Run jobs, the policies in turn; return the planner's outcomes, the others' by name, and two lists.

    The lists have the milliseconds and the number of candidates of each plan.
    """
    done = run_in_workers(settings, jobs, workers)
    planned, *others = (done[i :: len(policies)] for i in range(len(policies)))
    outcomes = [[d.outcome for d in runs] for runs in (planned, *others)]
    milliseconds = [ms for d in planned for ms in d.milliseconds]
    candidates = [count for d in planned for count in d.candidates]
    return outcomes[0], dict(zip(policies[1:], outcomes[1:], strict=True)), milliseconds, candidates


def evaluate_robustness(settings: Settings, problems: ProblemSet, workers: int = 1) -> dict:
    """Return the planner's results under each perturbation as plain data, ready for JSON."""
    jobs = [Job(p, perturbation=name) for name in robustness.PERTURBATIONS for p in problems.problems]
    results = robustness.robustness_results(run_in_workers(settings, jobs, workers), len(problems.problems))
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
            loaded = load_problems(arguments.problems, world)
            if arguments.protocol not in (None, "robustness", loaded.protocol):
                raise UserError(
                    f"{arguments.problems} holds problems of protocol {loaded.protocol}: "
                    "leave --protocol out."
                )
            if arguments.n is not None and arguments.n > len(loaded.problems):
                raise UserError(
                    f"{arguments.problems} holds {len(loaded.problems)} problems, -n asks for {arguments.n}: "
                    "leave -n out to run them all."
                )
            kept = loaded.problems[: arguments.n]
            return dataclasses.replace(loaded, problems=kept, budget=arguments.budget or loaded.budget)
        own = next(iter(world.protocols))
        protocol = own if arguments.protocol in (None, "robustness") else arguments.protocol
        n = arguments.n or _DEFAULT_N.get(arguments.protocol, 100)
        problems = tuple(make_problems(world, n, arguments.seed, protocol))
    budget = arguments.budget or world.protocols[protocol].budget
    return ProblemSet(arguments.task, protocol, arguments.seed, budget, problems)


def _check(arguments: argparse.Namespace) -> None:
    recorded = arguments.protocol == "probing" and arguments.data
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
    if arguments.runs < 1:
        raise UserError(f"--runs must be at least 1, it is {arguments.runs}.")
    if arguments.protocol == "continuous":
        n = arguments.n or _DEFAULT_N["continuous"]
        if n % arguments.runs:
            raise UserError(
                f"{n} goals cannot be shared by {arguments.runs} runs: give -n a multiple of --runs."
            )
        for option in ("problems", "save_problems", "filmstrip"):
            if getattr(arguments, option):
                raise UserError(
                    f"{_flag(option)} is for the other protocols: leave it out, or choose another --protocol."
                )
    if arguments.budget is not None and arguments.budget < 1:
        raise UserError(f"--budget must be at least 1 control step, it is {arguments.budget}.")
    _planner(arguments)
    for option in ("json", "filmstrip", "save_problems"):
        path = getattr(arguments, option)
        if path:
            check_target(_flag(option), path)
    open_loop = arguments.protocol in OPEN_LOOP
    for option in CLOSED_LOOP_ONLY if open_loop else ("data",):
        if getattr(arguments, option):
            others = "the other protocols" if open_loop else "imagination, probing and surprise"
            raise UserError(f"{_flag(option)} is for {others}: leave it out, or choose another --protocol.")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def save_filmstrip(
    path: Path, settings: Settings, problems: list[dict], rows: int = 3, columns: int = 7
) -> None:
    """Run the first ``rows`` problems again and draw each as a row of ``columns`` images and its goal image.

    Raises UserError when the image cannot be written.
    """
    worker = Worker(settings)
    strips = []
    for problem in (Problem(**values) for values in problems[:rows]):
        pictures = worker.watch(problem)
        chosen = np.linspace(0, len(pictures) - 1, columns).round().astype(int)
        goal = worker.world.goal_image(np.asarray(problem.goal))
        strips.append(_row([pictures[i] for i in chosen], goal))
    worker.world.close()
    sheet = cv2.cvtColor(np.concatenate(strips), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), sheet):
        raise UserError(f"{path} could not be written: give a name that ends with .png.")


def _row(pictures: list[np.ndarray], goal: np.ndarray) -> np.ndarray:
    """Return the images side by side, and the goal image in a frame."""
    margin = ((_GAP, _GAP), (_GAP, _GAP), (0, 0))
    framed = [np.pad(p, margin, constant_values=255) for p in pictures]
    goal = np.pad(goal, margin)
    border = np.ones(goal.shape[:2], bool)
    border[_GAP:-_GAP, _GAP:-_GAP] = False
    goal[border] = _GOAL_COLOUR
    return np.concatenate([*framed, goal], axis=1)
