"""The ``goal`` verb with real nodes: what is taken, refused, reached and left."""

import json
import shutil
import signal

import cv2
import numpy as np
import pytest

from world_model_ros.data.episodes import EpisodeWriter

pytestmark = pytest.mark.ros


@pytest.fixture
def near_checkpoint(checkpoint, tmp_path):
    """Return a checkpoint by which everything is near everything."""
    folder = shutil.copytree(checkpoint, tmp_path / "near")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"goal_reached": 1e6}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = {}
    for name, pixels in (
        ("a", rng.integers(0, 255, (64, 64, 3))),
        ("b", rng.integers(0, 255, (64, 64, 3))),
        ("black", np.zeros((64, 64, 3))),
    ):
        paths[name] = str(tmp_path / f"{name}.png")
        cv2.imwrite(paths[name], pixels.astype(np.uint8))
    return paths


class Camera:
    """Publishes noise, 20 frames a second."""

    def __init__(self, observer):
        from sensor_msgs.msg import Image

        self.kind, self.node = Image, observer.node
        self.images = observer.node.create_publisher(Image, "camera/image_raw", 5)
        self.rng = np.random.default_rng(1)

    def __call__(self):
        message = self.kind(height=64, width=64, encoding="rgb8", step=192)
        message.data = self.rng.integers(0, 255, 64 * 64 * 3, dtype=np.uint8).tobytes()
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.images.publish(message)


class Status:
    """Publishes ``status`` as command_node does: the newest one stays."""

    def __init__(self, observer, text):
        from std_msgs.msg import String

        from world_model_ros.nodes.qos import LATCHED

        self.kind = String
        self.out = observer.node.create_publisher(String, "status", LATCHED)
        self.say(text)

    def say(self, text):
        self.out.publish(self.kind(data=text))


@pytest.fixture
def far_checkpoint(checkpoint, tmp_path):
    """Return a checkpoint by which no goal is ever reached."""
    folder = shutil.copytree(checkpoint, tmp_path / "far")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"goal_reached": 1e-9}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.fault
def test_a_robot_that_is_stopped_gets_no_further_goals(processes, far_checkpoint, pictures, observer):
    camera = Camera(observer)
    for node in ("encoder_node", "planner_node"):
        processes.node(node, config=False, checkpoint=far_checkpoint)
    old = "RUNNING: the goal is reached: standing still until the robot is away from it"
    status = Status(observer, old)
    process = processes.start("-m", "world_model_ros", "goal", pictures["a"], pictures["b"])
    observer.until(lambda: "taken, planning" in process.log.read_text(), again=camera)
    status.say("HOLD: of this goal")
    observer.until(lambda: "  HOLD: of this goal" in process.log.read_text(), again=camera)
    status.say("FAULT: emergency stop: call command/reset to go on")
    observer.until(lambda: process.poll() is not None, again=camera)
    text = process.log.read_text()
    assert process.returncode == 1
    assert "goal 1/2 given up: FAULT: emergency stop: call command/reset to go on" in text
    assert "goal 2/2" not in text
    assert old not in text  # of the goal before
    for told in ("FAULT: emergency stop: call command/reset", "RELEASED: command/release was called"):
        status.say(told)
        process = processes.start("-m", "world_model_ros", "goal", pictures["a"], pictures["b"])
        observer.until(lambda: process.poll() is not None, again=camera)  # noqa: B023
        assert process.returncode == 1
        assert process.log.read_text().strip() == f"goal 1/2, a.png: not sent: {told}"
    # A goal to go on with, before the reset, can be sent.
    process = processes.start("-m", "world_model_ros", "goal", "--no-wait", pictures["a"])
    observer.until(lambda: process.poll() is not None, again=camera)
    assert process.returncode == 0


@pytest.mark.fault
def test_what_still_holds_the_robot_up_is_said_a_moment_after_the_goal_was_taken(
    processes, far_checkpoint, pictures, observer
):
    camera = Camera(observer)
    for node in ("encoder_node", "planner_node"):
        processes.node(node, config=False, checkpoint=far_checkpoint)
    told = "READY: waiting for the first plan: planner_node is not enabled: call planner/enable"
    status = Status(observer, told)
    process = processes.start("-m", "world_model_ros", "goal", "--timeout", "3", pictures["a"])
    observer.until(lambda: process.poll() is not None, again=camera)
    assert status
    assert process.returncode == 1
    assert f"  {told}\ngoal 1 not reached within 3 s (distance " in process.log.read_text()


@pytest.mark.fault
def test_a_frame_of_another_robot_is_refused_with_both_sides(processes, checkpoint, observer, tmp_path):
    paths = {"own": ["linear_x", "linear_y"], "others": ["lbr_iiwa_joint_1", "lbr_iiwa_joint_4"]}
    rng = np.random.default_rng(0)
    for name, names in paths.items():
        attributes = {
            "action_names": names,
            "action_kind": "twist",
            "action_unit": "m/s",
            "action_low": [-1.0, -1.0],
            "action_high": [1.0, 1.0],
            "period": 0.05,
            "block": 5,
            "steps_per_row": 1,
            "source": "test",
        }
        with EpisodeWriter(tmp_path / f"{name}.h5", attributes) as writer:
            frames = rng.integers(0, 255, (4, 64, 64, 3), np.uint8)
            writer.append(frames, np.zeros((4, 2), np.float32))
            paths[name] = str(writer.finish())
    camera = Camera(observer)
    for node in ("encoder_node", "planner_node"):
        processes.node(node, config=False, checkpoint=checkpoint)
    process = processes.start(
        "-m", "world_model_ros", "goal", "--timeout", "1", paths["others"], paths["own"]
    )
    observer.until(lambda: process.poll() is not None, again=camera)
    text = process.log.read_text()
    assert process.returncode == 1
    refused = f"refused: it was not recorded for what planner_node plans with, {checkpoint}: "
    assert f"others.h5, episode 0, step 3: {refused}" in text
    sides = "actions lbr_iiwa_joint_1, lbr_iiwa_joint_4 in the file and linear_x, linear_y in the checkpoint"
    assert sides in text
    assert "own.h5, episode 0, step 3: taken, planning" in text


def test_goals_are_sent_one_after_another_and_what_becomes_of_them_is_said(
    processes, near_checkpoint, pictures, observer
):
    camera = Camera(observer)
    elsewhere = processes.start("-m", "world_model_ros", "goal", "--namespace", "left", pictures["a"])
    for node in ("encoder_node", "planner_node"):
        processes.node(node, config=False, checkpoint=near_checkpoint)

    def goal(*words):
        process = processes.start("-m", "world_model_ros", "goal", *words)
        observer.until(lambda: process.poll() is not None, again=camera)
        return process.returncode, process.log.read_text()

    code, text = goal(pictures["a"], pictures["b"], "camera")
    assert code == 0, text
    for line in ("goal 1/3, a.png: taken, planning", "goal 2/3, b.png: taken, planning"):
        assert line in text
    assert "goal 3/3, the camera's view: taken" in text
    assert text.count("reached after") == 3
    assert "threshold 1000000.00)" in text
    code, text = goal(pictures["black"])
    assert code == 1
    assert "goal 1, black.png: refused: the picture is black" in text
    assert "Traceback" not in text
    observer.until(lambda: elsewhere.poll() is not None, again=camera)
    assert elsewhere.returncode == 2
    assert "nobody subscribes to /left/goal/image: start encoder_node" in elsewhere.log.read_text()
    # A list without an end, until somebody ends it.
    process = processes.start("-m", "world_model_ros", "goal", "--loop", pictures["a"], pictures["b"])
    observer.until(lambda: process.log.read_text().count("reached after") >= 3, again=camera)
    process.send_signal(signal.SIGINT)
    observer.until(lambda: process.poll() is not None, again=camera)
    assert process.returncode == 130
    assert "Traceback" not in process.log.read_text()
