"""Every task as a Gymnasium environment (`pip install gymnasium`); importing this registers them.

gymnasium.make("world_model_ros.sim.gym_env:world_model_ros/NAME-v0") makes the task NAME. TaskEnv(name) makes
any task, also one given as module:Class.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

from world_model_ros.sim.tasks import make_world, task_names


class TaskEnv(gymnasium.Env):
    """A task with one step a control step.

    Observation: `image` is the camera image and `goal` the camera image at the goal, both uint8
    (image_size, image_size, 3). Action: float32 (A,), in the task's unit, between its limits. Reward: minus
    the distance to the goal in m. An episode terminates where the goal is reached and is truncated after
    the budget of the task's own protocol. `info` has state, goal_state, distance, and success by each
    criterion. `reset` takes the options `state` and `goal`, two states.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, task: str, image_size: int = 64, render_mode: str | None = None):
        self.render_mode = render_mode
        self.world = make_world(task, image_size=image_size)
        self.metadata = self.metadata | {"render_fps": round(1 / self.world.period)}
        self.budget = next(iter(self.world.protocols.values())).budget
        picture = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": picture, "goal": picture})
        low, high = (
            np.asarray(limit, np.float32) for limit in (self.world.action_low, self.world.action_high)
        )
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Begin an episode at a random start, with a random goal, or at those given."""
        super().reset(seed=seed)
        options = options or {}
        self.world.reset(seed=int(self.np_random.integers(2**31)), state=options.get("state"))
        goal = options.get("goal")
        self.goal = self.world.sample_goal(self.np_random) if goal is None else self.world.checked(goal)
        self.goal_picture = self.world.goal_image(self.goal)
        self.steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Move for a control step."""
        self.world.step(action)
        self.steps += 1
        info = self._info()
        reached = info["success"][self.world.criterion]
        return self._observation(), -info["distance"], reached, self.steps >= self.budget, info

    def render(self) -> np.ndarray | None:
        """Return what the camera sees."""
        return self.world.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the world."""
        self.world.close()

    def _observation(self) -> dict:
        return {"image": self.world.render(), "goal": self.goal_picture.copy()}

    def _info(self) -> dict:
        return {
            "state": self.world.state(),
            "goal_state": self.goal.copy(),
            "distance": float(self.world.distance(self.goal)),
            "success": {name: bool(met) for name, met in self.world.criteria(self.goal).items()},
        }


for _name in task_names():
    if f"world_model_ros/{_name}-v0" not in gymnasium.registry:
        gymnasium.register(f"world_model_ros/{_name}-v0", entry_point=TaskEnv, kwargs={"task": _name})
