"""The tray of push: whatever happens to the block, every goal can be reached without anybody's help."""

import numpy as np
import pytest

from world_model_ros.sim.arm import towards
from world_model_ros.sim.scene import RIM_HEIGHT, STICK_RADIUS, TIP_HEIGHT, WORKSPACE_CENTRE
from world_model_ros.sim.task import yaw_difference
from world_model_ros.sim.tasks.push import (
    BLOCK_HEIGHT,
    TRAY_HALF,
    WORKSPACE_HALF,
    Push,
    PushExplorer,
    clearance,
    in_tray,
    outline,
)

BLOCKS = 10_000
INTO_THE_RIM = 0.005  # m, that a pressed block may sink into it in the simulation
TRIES = 24  # pushes that the expert rehearses before each one that it makes


@pytest.fixture(scope="module")
def world():
    world = Push(image_size=16)
    yield world
    world.close()


def test_the_stick_passes_above_the_rim_and_fits_behind_a_block_at_it():
    assert RIM_HEIGHT < TIP_HEIGHT
    assert TRAY_HALF + STICK_RADIUS < WORKSPACE_HALF


def pushes(rng):
    """Yield how to push for a block: at random, through the block, or against an edge of the workspace."""
    while True:
        angle, speed = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 0.56)
        straight = speed * np.array([np.cos(angle), np.sin(angle)])
        manner = rng.integers(3)
        for _ in range(int(rng.integers(2, 10))):
            yield manner, straight


def press(world, manner, straight):
    for _ in range(world.block):
        state = world.state()
        away = state[2:4] - state[:2]
        through = 0.4 * away / max(np.hypot(*away), 1e-6)
        outwards = 0.4 * np.sign(state[:2] - WORKSPACE_CENTRE)
        world.step((straight, through, outwards + straight)[manner])


@pytest.mark.timeout(1800)  # nothing but arithmetic, a minute on a quiet computer
def test_ten_thousand_blocks_of_hard_pushes_leave_the_block_in_the_tray_and_flat(world):
    rng = np.random.default_rng(0)
    world.reset(seed=1)
    at_the_rim = 0
    for _, (manner, straight) in zip(range(BLOCKS), pushes(rng), strict=False):
        press(world, manner, straight)
        state = world.state()
        assert in_tray(state[2:], -INTO_THE_RIM), state
        position, orientation = world._scene.client.getBasePositionAndOrientation(world._block)
        roll, pitch, _ = world._scene.client.getEulerFromQuaternion(orientation)
        assert position[2] - BLOCK_HEIGHT / 2 < RIM_HEIGHT
        assert max(abs(roll), abs(pitch)) < np.radians(6)
        at_the_rim += not in_tray(state[2:], 0.003)
    assert at_the_rim > BLOCKS / 10  # else the rim was not tried


def cost(state, goal):
    return np.hypot(*(state - goal)[2:4]) + 0.1 * abs(yaw_difference(state[4], goal[4]))


def expert(world, goal, rng, most=30):
    """Push until the block has its pose: of some rehearsed pushes the one that leaves least to do."""
    walker = PushExplorer(0)
    for _ in range(most):
        if world.success(goal):
            return True
        _, begin, push, steps = min(
            (rehearsed(world, goal, rng) for _ in range(TRIES)), key=lambda way: way[0]
        )
        for _ in range(80):  # to where the push begins, round the block
            state = world.state()
            if np.hypot(*(begin - state[:2])) < 0.004:
                break
            world.step(towards(walker._around(state[:2], begin, state[2:]), state[:2], 0.3))
        for _ in range(steps):
            world.step(push)
    return world.success(goal)


def rehearsed(world, goal, rng):
    """Return what is left to do after a push at a random spot, where it begins, its velocity, its length."""
    twin, block = world.twin(), world.state()[2:]
    cosine, sine = np.cos(block[2]), np.sin(block[2])
    frame = np.array([[cosine, -sine], [sine, cosine]])
    spot, normal = outline(rng.random())
    begin = frame @ (spot + (STICK_RADIUS + 0.006) * normal) + block[:2]
    turn, speed = rng.normal(0.0, 0.4), rng.uniform(0.1, 0.3)
    x, y = frame @ -normal
    push = speed * np.array([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    best = np.inf, begin, push, 0
    if np.any(np.abs(begin - WORKSPACE_CENTRE) > WORKSPACE_HALF) or clearance(begin, block) < STICK_RADIUS:
        return best
    twin.reset(state=np.concatenate([begin, block]))
    for step in range(1, int(rng.uniform(0.02, 0.2) / speed / world.period) + 2):
        twin.step(push)
        left = cost(twin.state(), goal)
        if left < best[0]:
            best = left, begin, push, step
    return best


@pytest.mark.timeout(1800)
def test_from_where_pushes_leave_the_block_a_scripted_expert_reaches_every_goal(world):
    rng = np.random.default_rng(2)
    world.reset(seed=3)
    solved = []
    for _ in range(8):
        for _, (manner, straight) in zip(range(60), pushes(rng), strict=False):
            press(world, manner, straight)
        goal = world.sample_goal(rng) if len(solved) % 2 else world.random_state(rng)
        solved.append(expert(world, goal, rng))
    assert all(solved), solved
