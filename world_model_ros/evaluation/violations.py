"""Things that a world model should not expect, done to a simulated episode between two model steps.

An episode is repeated from its start for every event, so that all events of an episode have the same
past and the same actions, and differ in the event alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from world_model_ros.sim.block import clearance
from world_model_ros.sim.explorers import make_explorer
from world_model_ros.sim.robot_description import STICK_RADIUS
from world_model_ros.sim.scene import WORKSPACE_CENTRE, WORKSPACE_HIGH, WORKSPACE_LOW
from world_model_ros.sim.worlds import World

STEPS = 16  # model steps of an episode
PUSHED = 0.015  # what the block moves at least in a step that it shall not react to, m
MOVED = 0.03  # what the tip moves at least in a step in which the arm shall be stuck, m
CAMERA_SHIFT = 0.02  # m
COLOUR = (0.85, 0.10, 0.10, 1.0)
_JUMPS = {"teleport": 0.08, "teleport_4cm": 0.04, "teleport_2cm": 0.02}
_FREE = STICK_RADIUS + 0.01  # around the tip, for a block that appears there, m
_BLOCK_HALF = 0.15  # a block that jumps stays in this square, m
_DIRECTIONS = 24


class Episode(NamedTuple):
    """What the explorer did and where everything was; it can be repeated to the bit."""

    seed: tuple[int, int]
    actions: np.ndarray  # (K, block, 2) m/s
    states: np.ndarray  # (K + 1, S)


class Event(NamedTuple):
    """How to bring an event about after frame ``step`` of an episode."""

    kind: str
    step: int  # model steps before it
    begin: Callable[[World], None]  # once, between the model steps
    act: Callable[[World, np.ndarray], None]  # instead of World.step, in the model step that follows


def kinds(task: str) -> tuple[str, ...]:
    """Return the kinds of events of a task; `replaced` is the control that must not surprise."""
    if task == "reach":
        return (*_JUMPS, "stuck", "camera", "replaced")
    return (*_JUMPS, "turn_90", "pass_through", "stuck", "colour", "camera", "vanish", "replaced")


def explore(world: World, seed: tuple[int, int], steps: int = STEPS) -> Episode:
    """Let the explorer act for ``steps`` model steps, without a picture."""
    world.reset(seed)
    explorer = make_explorer(world.task, (*seed, 1))
    actions, states = [], [world.state()]
    for _ in range(steps):
        block = []
        for _ in range(world.block):
            block.append(explorer.action(world.state()))
            world.step(block[-1])
        actions.append(block)
        states.append(world.state())
    return Episode(seed, np.array(actions), np.array(states))


def replay(world: World, episode: Episode, frames: range, event: Event | None = None) -> list[np.ndarray]:
    """Repeat an episode up to the last of ``frames`` with an event in it; return these frames."""
    world.reset(episode.seed)
    pictures = [world.render()] if 0 in frames else []
    for step in range(frames.stop - 1):
        happening = event is not None and step == event.step
        if happening:
            event.begin(world)
        for action in episode.actions[step]:
            if happening:
                event.act(world, action)
            else:
                world.step(action)
        if step + 1 in frames:
            pictures.append(world.render())
    return pictures


def make_event(kind: str, task: str, episode: Episode, first: int, rng: np.random.Generator) -> Event | None:
    """Return an event of ``kind`` after frame ``first`` or later; None where the episode has no place for it.

    Raises ValueError for a kind that the task does not have.
    """
    if kind not in kinds(task):
        raise ValueError(f"{task} has no event {kind!r}, only {', '.join(kinds(task))}")
    states = episode.states
    steps = np.arange(first, len(states) - 1)
    if kind == "pass_through":
        steps = steps[_lengths(states[:, 2:4])[first:] > PUSHED]
    if kind == "stuck":
        steps = steps[_lengths(states[:, :2])[first:] > MOVED]
    if len(steps) == 0:
        return None
    step = int(rng.choice(steps))
    begin, act = _nothing, World.step
    if kind == "pass_through":
        act = _stepping_through(states[step, 2:])
    elif kind == "stuck":
        act = _standing_still
    elif kind == "camera":
        angle = rng.uniform(-np.pi, np.pi)
        begin = _camera(CAMERA_SHIFT * np.array([np.cos(angle), np.sin(angle), 0.0]))
    elif kind == "colour":
        begin = _paint
    elif kind == "vanish":
        begin = _vanish
    elif kind == "replaced":
        begin = _replace
    elif task == "reach":
        tip = _jump(states[step], _JUMPS[kind], rng, _tip_fits)
        begin = None if tip is None else _placing_tip(tip)
    else:
        turn = np.pi / 2 if kind == "turn_90" else 0.0
        pose = _jump(states[step], _JUMPS.get(kind, 0.0), rng, _block_fits, turn)
        begin = None if pose is None else _placing_block(pose)
    return None if begin is None else Event(kind, step, begin, act)


def _lengths(places: np.ndarray) -> np.ndarray:
    return np.hypot(*np.diff(places, axis=0).T)


def _jump(
    state: np.ndarray,
    length: float,
    rng: np.random.Generator,
    fits: Callable[[np.ndarray, np.ndarray], bool],
    turn: float = 0.0,
) -> np.ndarray | None:
    """Return where the tip (2,) of a reach state, or the block (3,) of a push state, may jump to."""
    thing = state[2:] if len(state) > 2 else state
    for angle in rng.uniform(-np.pi, np.pi, _DIRECTIONS):
        jumped = thing.copy()
        jumped[:2] += length * np.array([np.cos(angle), np.sin(angle)])
        jumped[2:] += turn * rng.choice((-1, 1))
        if fits(state, jumped):
            return jumped
    return None


def _tip_fits(_: np.ndarray, tip: np.ndarray) -> bool:
    return bool(np.all((tip > WORKSPACE_LOW) & (tip < WORKSPACE_HIGH)))


def _block_fits(state: np.ndarray, pose: np.ndarray) -> bool:
    near = np.all(np.abs(pose[:2] - WORKSPACE_CENTRE) < _BLOCK_HALF)
    return bool(near and clearance(state[:2], pose) > _FREE)


def _nothing(_: World) -> None:
    pass


def _replace(world: World) -> None:
    world.reset(state=world.state())


def _paint(world: World) -> None:
    world.paint_block(COLOUR)


def _vanish(world: World) -> None:
    world.remove_block()


def _camera(offset: np.ndarray):
    return lambda world: world.move_camera(offset)


def _placing_tip(tip: np.ndarray):
    return lambda world: world.reset(state=tip)


def _placing_block(pose: np.ndarray):
    return lambda world: world.place_block(pose)


def _standing_still(world: World, _: np.ndarray) -> None:
    world.step(np.zeros(2))


def _stepping_through(pose: np.ndarray):
    def act(world: World, action: np.ndarray) -> None:
        world.step(action)
        world.place_block(pose)  # as if the stick had met nothing

    return act
