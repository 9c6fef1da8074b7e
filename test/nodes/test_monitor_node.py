"""The monitor's doubts, on a real node."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.ros
BLOCK, PERIOD = 250_000_000, 50_000_000


@pytest.fixture
def doubtful(checkpoint, tmp_path):
    """Return a checkpoint that nothing but a wild latent surprises."""
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "doubtful")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"surprise": 1e4, "norm_low": 0.1, "norm_high": 1e3}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


class World:
    """Latents and executed actions, one model step at a time."""

    def __init__(self, observer):
        from diagnostic_msgs.msg import DiagnosticStatus
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Float32

        self.latents = observer.node.create_publisher(Image, "latent", 10)
        self.executed = observer.node.create_publisher(JointState, "command/executed", 50)
        self.surprises = observer.collect(Float32, "surprise")
        self.health = observer.collect(DiagnosticStatus, "monitor_node/health")
        self.time = 1_000_000_000
        self.value = 0.1

    def step(self, value=None):
        from sensor_msgs.msg import Image, JointState

        for _ in range(5):
            message = JointState(name=["linear_x", "linear_y"], velocity=[0.1, 0.0])
            self.stamp(message)
            self.executed.publish(message)
            self.time += PERIOD
        message = Image(height=1, width=64, encoding="32FC1", step=256)
        message.data = np.full(64, self.value if value is None else value, np.float32).tobytes()
        self.stamp(message)
        self.latents.publish(message)

    def stamp(self, message):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.time, 1_000_000_000)

    def asks(self):
        return {v.key: v.value for v in self.health[-1].values}.get("asks_for") if self.health else None


@pytest.fixture
def world(observer):
    return World(observer)


@pytest.mark.fault
def test_fault_36_surprise_for_some_steps_asks_for_a_standstill(processes, doubtful, world, observer, ask):
    processes.node("monitor_node", config=False, checkpoint=doubtful)
    observer.until(lambda: world.latents.get_subscription_count() > 0)
    observer.until(lambda: len(world.surprises) > 3 and world.asks() == "go_on", again=world.step)
    signs = iter(range(1000))
    observer.until(lambda: world.asks() == "hold", again=lambda: world.step(30.0 * (-1) ** next(signs)))
    assert "does not do what the model expects" in world.health[-1].message
    observer.until(lambda: world.asks() == "go_on", again=world.step)

    def figure(name):
        return float(ask.diagnosis("monitor_node")[2].get(name, 0))

    observer.until(lambda: figure("surprises") >= 3 and figure("latent_hz") > 0, again=world.step)


@pytest.mark.fault
def test_fault_36_pictures_like_none_in_training_are_doubted_or_only_said(
    processes, doubtful, world, observer, ask
):
    processes.node("monitor_node", config=False, checkpoint=doubtful)
    observer.until(lambda: world.latents.get_subscription_count() > 0)
    observer.until(lambda: world.asks() == "hold", again=lambda: world.step(900.0))
    assert "like none seen in training" in world.health[-1].message
    observer.until(lambda: world.asks() == "go_on", again=world.step)
    assert ask.set_parameter("monitor_node", "hold", False)[0].successful
    observer.until(lambda: "like none" in world.health[-1].message, again=lambda: world.step(900.0))
    assert world.asks() == "go_on"


def test_what_the_monitor_asks_for_is_what_the_command_side_does(
    processes, checkpoint, doubtful, robot, world, observer
):
    processes.node("command_node", config=False, checkpoint=checkpoint)
    processes.node("monitor_node", config=False, checkpoint=doubtful)
    robot.get_moving()
    signs = iter(range(1000))

    def surprise():
        robot.drive()
        world.step(30.0 * (-1) ** next(signs))

    observer.until(lambda: robot.state() == "HOLD" and "monitor_node" in robot.reason(), again=surprise)
    observer.until(robot.at_rest, again=surprise)

    def calm():
        robot.drive()
        world.step()

    observer.until(robot.moving, again=calm)
