import numpy as np
import pytest

from world_model_ros.sim.arm import SPEED
from world_model_ros.sim.scene import WORKSPACE_CENTRE, WORKSPACE_HIGH, WORKSPACE_LOW
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.push import BAR_Y, STEM_Y, PushExplorer, clearance
from world_model_ros.sim.tasks.reach import ReachExplorer


def wander(task, episodes, steps=100):
    world = make_world(task, image_size=16)
    states, actions = [], []
    for seed in range(episodes):
        world.reset(seed)
        explorer = world.explorer(seed)
        for _ in range(steps):
            states.append(world.state())
            actions.append(explorer.action(states[-1]))
            world.step(actions[-1])
    world.close()
    return np.array(states), np.array(actions)


@pytest.mark.parametrize(("task", "make_explorer"), [("reach", ReachExplorer), ("push", PushExplorer)])
def test_actions_keep_the_limits_and_follow_the_seed(task, make_explorer):
    states, actions = wander(task, 3)
    assert np.abs(actions).max() <= SPEED
    np.testing.assert_array_equal(wander(task, 3)[1], actions)
    first, second = make_explorer(1), make_explorer(2)
    assert any(not np.array_equal(first.action(s), second.action(s)) for s in states[:30])


def test_reach_goes_everywhere_at_every_speed():
    states, actions = wander("reach", 20)
    cells = ((states - WORKSPACE_LOW) / (WORKSPACE_HIGH - WORKSPACE_LOW) * 4).astype(int).clip(0, 3)
    visits = np.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16)
    assert visits.min() > len(states) / 16 / 3
    assert np.mean(np.all(actions == 0, axis=1)) > 0.01
    assert np.mean(np.any(np.abs(actions) == SPEED, axis=1)) > 0.02
    assert 0.12 < actions.std() < 0.3


def test_push_moves_the_block_and_keeps_it_on_the_table():
    states, _ = wander("push", 12)
    blocks = states[:, 2:4].reshape(12, 100, 2)
    moving = np.hypot(*np.moveaxis(np.diff(blocks, axis=1), -1, 0)) > 1e-4
    assert moving.mean() > 0.25
    assert np.abs(blocks - WORKSPACE_CENTRE).max() < 0.3
    assert np.mean(np.abs(blocks - WORKSPACE_CENTRE).max(axis=-1) < 0.15) > 0.7


def test_clearance_is_the_distance_to_the_t():
    pose = np.array([0.5, 0.1, np.pi / 2])
    along = np.array([-1.0, 0.0])  # where y of the block points to
    bar_end = pose[:2] + along * BAR_Y + np.array([0.0, 0.075])
    assert clearance(pose[:2], pose) == 0
    assert clearance(bar_end + (0.0, 0.02), pose) == pytest.approx(0.02)
    assert clearance(pose[:2] + along * (STEM_Y - 0.0525 - 0.03), pose) == pytest.approx(0.03)
    assert clearance(np.zeros((4, 3, 2)), pose).shape == (4, 3)
