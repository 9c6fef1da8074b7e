"""pybullet worlds (reach, push), scripted explorers, collection of episodes."""

TASKS = ("reach", "push")
