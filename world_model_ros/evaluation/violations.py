"""Repeats a simulated episode and stages one of its task's violations between two model steps.

An episode is repeated from its start for every violation, so that all violations of an episode have the same
past and the same actions, and differ in the violation alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import find_task

STEPS = 16  # model steps of an episode


class Episode(NamedTuple):
    """What the explorer did and where everything was; it can be repeated to the bit."""

    seed: tuple[int, int]
    actions: np.ndarray  # (K, block, A)
    states: np.ndarray  # (K + 1, S)


class StagedViolation(NamedTuple):
    """How to bring a violation about after frame ``step`` of an episode."""

    kind: str
    step: int  # model steps before it
    begin: Callable[[Task], None]  # once, between the model steps
    act: Callable[[Task, np.ndarray], None]  # instead of Task.step, in the model step that follows


def kinds(task: str) -> tuple[str, ...]:
    """Return the kinds of violations that a task can stage; UserError where there is none."""
    found = tuple(find_task(task).violations)
    if not found:
        raise UserError(
            f"the task {task} stages no violations: add some to its class, or choose another protocol."
        )
    return found


def explore(world: Task, seed: tuple[int, int], steps: int = STEPS) -> Episode:
    """Let the explorer act for ``steps`` model steps, without a picture."""
    world.reset(seed)
    explorer = world.explorer((*seed, 1))
    actions, states = [], [world.state()]
    for _ in range(steps):
        block = []
        for _ in range(world.block):
            block.append(explorer.action(world.state()))
            world.step(block[-1])
        actions.append(block)
        states.append(world.state())
    return Episode(seed, np.array(actions), np.array(states))


def replay(
    world: Task, episode: Episode, frames: range, violation: StagedViolation | None = None
) -> list[np.ndarray]:
    """Repeat an episode up to the last of ``frames`` with a violation in it; return these frames."""
    world.reset(episode.seed)
    pictures = [world.render()] if 0 in frames else []
    for step in range(frames.stop - 1):
        happening = violation is not None and step == violation.step
        if happening:
            violation.begin(world)
        for action in episode.actions[step]:
            if happening:
                violation.act(world, action)
            else:
                world.step(action)
        if step + 1 in frames:
            pictures.append(world.render())
    return pictures


def stage_violation(
    kind: str, task: str, episode: Episode, first: int, rng: np.random.Generator
) -> StagedViolation | None:
    """Return a violation of ``kind`` after frame ``first`` or later; None where the episode has none.

    Raises ValueError for a kind that the task does not have.
    """
    if kind not in kinds(task):
        raise ValueError(f"{task} has no violation {kind!r}, only {', '.join(kinds(task))}")
    kind_of, states = find_task(task).violations[kind], episode.states
    steps = np.arange(first, len(states) - 1)
    if kind_of.where is not None:
        steps = steps[kind_of.where(states)[first:]]
    if len(steps) == 0:
        return None
    step = int(rng.choice(steps))
    intervention = kind_of.stage(states[step], rng)
    return None if intervention is None else StagedViolation(kind, step, *intervention)
