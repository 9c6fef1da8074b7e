"""Every task passes Gymnasium's own checker."""

import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed: pip install gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from world_model_ros.sim.gym_env import TaskEnv  # noqa: E402
from world_model_ros.sim.tasks import task_names  # noqa: E402


@pytest.mark.parametrize("name", task_names())
def test_gymnasium_finds_nothing_wrong(name):
    env = gymnasium.make(f"world_model_ros.sim.gym_env:world_model_ros/{name}-v0", image_size=32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*normalized space")  # actions are in physical units
        warnings.filterwarnings("error", module="gymnasium")
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


def test_an_episode_starts_and_ends_where_it_is_told():
    env = TaskEnv("reach", image_size=16, render_mode="rgb_array")
    observation, info = env.reset(seed=1, options={"state": (0.45, 0.0), "goal": (0.55, 0.0)})
    np.testing.assert_allclose(info["state"], (0.45, 0.0), atol=1e-6)
    np.testing.assert_array_equal(env.render(), observation["image"])
    assert info["success"] == {"position": False}
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.array([0.4, 0.0], np.float32))
        assert not truncated
        rewards.append(reward)
    assert rewards == sorted(rewards)
    assert info["success"] == {"position": True}
    env.reset(seed=2)
    ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(env.budget)]
    assert ends.index(True) == env.budget - 1
    env.close()
