"""Closed-loop problems: start here, get to what this picture shows, within a budget of control steps."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world_model_ros.data.atomic import write_json
from world_model_ros.errors import UserError

_FORMAT = 1


@dataclass(frozen=True)
class Problem:
    """A start and a goal, as simulator states, and the seed of what happens in between."""

    index: int
    seed: int
    start: tuple[float, ...]
    goal: tuple[float, ...]
    last_action: tuple[float, ...] | None = None  # what an explorer did just before the start


@dataclass(frozen=True)
class ProblemSet:
    """Problems anyone can run again: the same numbers for the same seed, whatever came before."""

    task: str
    protocol: str
    seed: int
    budget: int  # control steps
    problems: tuple[Problem, ...]


def make_problems(world, n: int, seed: int, protocol: str | None = None) -> list[Problem]:
    """Draw ``n`` unsolved problems of a world, by default of its first protocol.

    The first ones are the same for every ``n``.
    """
    children = np.random.SeedSequence(seed).generate_state(n, np.uint32)
    problems = []
    for index, child in enumerate(map(int, children)):
        drawn = world.problem(protocol or next(iter(world.protocols)), child)
        start, goal, last = (None if v is None else tuple(map(float, v)) for v in drawn)
        problems.append(Problem(index, child, start, goal, last))
    return problems


def save_problems(path: Path, problems: ProblemSet) -> None:
    """Write a problem file. Raises UserError where that is impossible."""
    write_json(path, {"format": _FORMAT, **dataclasses.asdict(problems)})


def load_problems(path: Path, world) -> ProblemSet:
    """Read a problem file for the task of ``world``.

    Raises UserError where it is missing, damaged, of another format or task, or holds a problem that the
    world does not know or that is solved from the start.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): write one with --save-problems.") from None
    if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
        raise UserError(f"{path} is no problem file of format {_FORMAT}: write one with --save-problems.")
    if isinstance(values.get("task"), str) and values["task"] != world.task:
        raise UserError(f"{path} holds problems of {values['task']}: give --task {values['task']}.")
    try:
        listed = [Problem(**problem) for problem in values.pop("problems")]
        found = ProblemSet(**values, problems=tuple(_checked(p, world) for p in listed))
        if not found.problems or type(found.budget) is not int or found.budget < 1:
            raise ValueError("no problems, or no budget")
        _check_seed(found.seed)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): write it again with --save-problems.") from None
    if found.protocol not in world.protocols:
        raise UserError(
            f"{path} holds problems of protocol {found.protocol}, {world.task} has "
            f"{' and '.join(world.protocols)}: write it again with --save-problems."
        )
    for problem in found.problems:
        try:
            world.reset(state=np.asarray(problem.start))
            solved = world.success(np.asarray(problem.goal))
        except ValueError as error:
            raise UserError(f"{path}, problem {problem.index}: {error}.") from None
        if solved:
            raise UserError(f"{path}, problem {problem.index}: it is solved from the start; take it out.")
    return found


def _checked(problem: Problem, world) -> Problem:
    width, dim = len(world.state_names), len(world.action_names)
    last = problem.last_action
    states = [tuple(map(float, state)) for state in (problem.start, problem.goal)]
    action = None if last is None else tuple(map(float, last))
    if any(len(state) != width for state in states) or (action is not None and len(action) != dim):
        raise ValueError(f"problem {problem.index} has numbers missing")
    if not all(map(math.isfinite, [*states[0], *states[1], *(action or ())])):
        raise ValueError(f"problem {problem.index} has numbers that are not finite")
    if type(problem.index) is not int:
        raise ValueError(f"the index {problem.index} is no whole number")
    _check_seed(problem.seed)
    return Problem(problem.index, problem.seed, *states, action)


def _check_seed(seed) -> None:
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"the seed {seed} is no whole number from 0 to 2^63 - 1")
