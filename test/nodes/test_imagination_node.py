"""What imagination_node shows, and that nothing depends on it, on real processes."""

import dataclasses
import importlib
import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from test.nodes.conftest import Asking
from test.observer import Observer, said
from test.processes import Domain, Processes

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
PERIOD, STEPS, TILE = 50_000_000, 3, 96
WIDTH, HEIGHT = 4 + (STEPS + 2) * (TILE + 4), 24 + 2 * (40 + TILE + 8)  # pixels
RVIZ = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/Path": "nav_msgs/msg/Path",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
}


@pytest.fixture(scope="module")
def drawing(checkpoint, tmp_path_factory):
    """Return a checkpoint with a decoder (its weights are random, as all of them)."""
    from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
    from world_model_ros.model.lewm import LeWorldModel

    model, spec = load_checkpoint(checkpoint)
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, decoder_width=32, decoder_size=64))
    drawing = LeWorldModel(spec.model)
    drawing.load_state_dict(model.state_dict(), strict=False)
    return str(save_checkpoint(tmp_path_factory.mktemp("models") / "drawing", drawing, spec))


class World:
    """The nodes that imagination_node reads from, and somebody who looks at its pictures."""

    def __init__(self, observer):
        from sensor_msgs.msg import CompressedImage, Image, JointState
        from std_msgs.msg import Float32
        from trajectory_msgs.msg import JointTrajectory

        self.observer, node = observer, observer.node
        self.kinds = {"imagination": Image, "imagination/compressed": CompressedImage}
        self.latents = node.create_publisher(Image, "latent", 10)
        self.goals = node.create_publisher(Image, "goal/latent", 10)
        self.cameras = node.create_publisher(Image, "camera/image_raw", 10)
        self.executed = node.create_publisher(JointState, "command/executed", 50)
        self.plans = node.create_publisher(JointTrajectory, "plan", 10)
        self.surprises = node.create_publisher(Float32, "surprise", 10)
        self.time = 1_000_000_000
        self.planning = True

    def watch(self, topic="imagination"):
        """Subscribe; return the list of messages and the call that ends it."""
        messages = []
        subscription = self.observer.node.create_subscription(self.kinds[topic], topic, messages.append, 10)
        return messages, lambda: self.observer.node.destroy_subscription(subscription)

    def stamped(self, message, time):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
        return message

    def latent(self, value=0.1, dim=64):
        from sensor_msgs.msg import Image

        data = np.full(dim, value, np.float32).tobytes()
        message = Image(height=1, width=dim, encoding="32FC1", step=4 * dim, data=data)
        return self.stamped(message, self.time)

    def plan(self, rows=10, speed=0.1, names=("linear_x", "linear_y")):
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        message = self.stamped(JointTrajectory(joint_names=list(names)), self.time + 5 * PERIOD)
        message.points = [JointTrajectoryPoint(velocities=[speed, 0.0]) for _ in range(rows)]
        return message

    def step(self, plan=None, latent=None):
        """Let a model step pass."""
        from sensor_msgs.msg import JointState

        for _ in range(5):
            message = JointState(name=["linear_x", "linear_y"], velocity=[0.1, 0.0])
            self.executed.publish(self.stamped(message, self.time))
            self.time += PERIOD
        self.latents.publish(latent or self.latent())
        if self.planning:
            self.plans.publish(plan or self.plan())

    def frame(self, value):
        from sensor_msgs.msg import Image

        message = Image(height=48, width=64, encoding="rgb8", step=192, data=bytes([value]) * 48 * 64 * 3)
        self.cameras.publish(self.stamped(message, self.time))


def pixels(message):
    """Return a message's picture, uint8 (H, W, 3)."""
    if hasattr(message, "format"):
        return cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def empty(part):
    """Return whether a tile has one colour only."""
    return (part == part[0, 0]).all()


def tile(picture, row, column):
    """Return a tile without its frame."""
    top, left = 24 + row * (40 + TILE + 8) + 20, 4 + column * (TILE + 4)
    return picture[top + 4 : top + TILE - 4, left + 4 : left + TILE - 4]


@pytest.fixture(scope="module")
def shared(drawing, fork_server, tmp_path_factory):
    """Return one running imagination_node for several tests: (process, World, Asking)."""
    pytest.importorskip("rclpy")
    domain = Domain.claim()
    processes = Processes(tmp_path_factory.mktemp("imagination"), domain, fork_server)
    given = {"checkpoint": drawing, "steps": STEPS, "tile": TILE}
    process = processes.node("imagination_node", config=False, **given)
    observer = Observer(domain)
    world = World(observer)
    observer.until(lambda: world.latents.get_subscription_count() and world.plans.get_subscription_count())
    yield process, world, Asking(observer)
    observer.close()
    processes.end()
    domain.release()


def metric(ask, name):
    return float(ask.diagnosis("imagination_node")[2].get(name, 0))


def test_nothing_is_made_or_read_while_nobody_subscribes(shared):
    process, world, ask = shared
    world.observer.repeat(world.step, 20)
    count = len(ask.reports)
    world.observer.until(lambda: len(ask.reports) > count + 1, again=world.step)
    assert ask.diagnosis("imagination_node")[1] == "fine"
    assert metric(ask, "pictures") == 0
    assert world.cameras.get_subscription_count() == 0
    assert "rejected" not in process.log.read_text()


def test_now_the_plan_and_the_goal_are_shown_to_who_subscribes(shared):
    process, world, ask = shared
    images, end_images = world.watch()
    jpegs, end_jpegs = world.watch("imagination/compressed")
    world.observer.until(lambda: images and jpegs, again=world.step)
    picture = pixels(images[-1])
    assert images[-1].encoding == "rgb8"
    assert picture.shape == (HEIGHT, WIDTH, 3)
    stamp = images[-1].header.stamp
    assert (stamp.sec * 1_000_000_000 + stamp.nanosec - 1_000_000_000) % (5 * PERIOD) == 0
    assert jpegs[-1].format == "jpeg"
    assert pixels(jpegs[-1]).shape == picture.shape
    assert empty(tile(picture, 0, STEPS + 1))  # no goal
    world.observer.until(lambda: world.goals.get_subscription_count())
    world.observer.until(lambda: world.cameras.get_subscription_count())

    def again():
        world.goals.publish(world.latent(2.0))
        world.frame(200)
        world.step()

    # what the camera sees is shown as it is, and the goal as it is decoded
    world.observer.until(lambda: (tile(pixels(images[-1]), 0, 0) == 200).all(), again=again)
    world.observer.until(lambda: not empty(tile(pixels(images[-1]), 0, STEPS + 1)), again=again)
    end_images()
    count = len(jpegs)
    world.observer.until(lambda: len(jpegs) > count + 1, again=world.step)
    end_jpegs()
    world.observer.until(lambda: world.cameras.get_subscription_count() == 0)
    made = []
    for _ in range(2):
        seen = len(ask.reports)
        world.observer.until(lambda: len(ask.reports) > seen + 2, again=world.step)  # noqa: B023
        made.append(metric(ask, "pictures"))
    assert made[0] == made[1] > 0


def nan_action(world):
    from sensor_msgs.msg import JointState

    world.executed.publish(JointState(name=["linear_x", "linear_y"], velocity=[float("nan"), 0.0]))
    return {}


def wrong_goal(world):
    world.goals.publish(world.latent(dim=7))
    return {}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda w: {"plan": w.plan(rows=0)}, "plan was rejected: it is empty"),
        (lambda w: {"plan": w.plan(speed=np.nan)}, "plan was rejected: it holds numbers that are not finite"),
        (lambda w: {"plan": w.plan(names=("a", "b"))}, "plan was rejected: it is of a, b, not of linear_x"),
        (lambda w: {"latent": w.latent(dim=32)}, "latent was rejected: it is 32 x 1"),
        (lambda w: {"latent": w.latent(np.nan)}, "latent was rejected: it holds numbers that are not finite"),
        (wrong_goal, "goal/latent was rejected: it is 7 x 1"),
        (nan_action, "command/executed was rejected"),
    ],
)
def test_what_cannot_be_used_is_rejected_and_the_next_one_is_shown(shared, bad, reason):
    process, world, _ = shared
    images, end = world.watch()
    world.observer.until(lambda: images, again=world.step)
    world.observer.until(lambda: reason in process.log.read_text(), again=lambda: world.step(**bad(world)))
    count = len(images)
    world.observer.until(lambda: len(images) > count + 2, again=world.step)
    assert process.poll() is None
    end()


def test_without_plans_now_and_standing_still_are_shown(shared):
    _, world, _ = shared
    images, end = world.watch()
    world.planning = False

    def shows_no_plan():
        return bool(images) and all(empty(tile(pixels(images[-1]), 0, 1 + k)) for k in range(STEPS))

    world.observer.until(shows_no_plan, again=world.step)
    assert not empty(tile(pixels(images[-1]), 1, 1))  # standing still is imagined all the same
    world.planning = True
    world.observer.until(lambda: not shows_no_plan(), again=world.step)
    end()


def test_it_ends_with_exit_code_zero_while_somebody_watches(shared):
    process, world, _ = shared
    images, end = world.watch()
    world.observer.until(lambda: images, again=world.step)
    process.send_signal(signal.SIGINT)
    world.observer.until(lambda: process.poll() is not None, again=world.step)
    assert process.returncode == 0
    assert "Traceback" not in process.log.read_text()
    end()


def test_a_checkpoint_without_decoder_is_said_once_and_shown(processes, observer, checkpoint, ask):
    from diagnostic_msgs.msg import DiagnosticStatus

    process = processes.node("imagination_node", config=False, checkpoint=checkpoint)
    world = World(observer)
    images, _ = world.watch()
    health = observer.collect(DiagnosticStatus, "imagination_node/health")
    observer.until(lambda: images and health, again=world.step)
    assert images[-1].height < 150  # a sentence, no tiles
    words = "train-heads --decoder --checkpoint"
    observer.until(lambda: ask.diagnosed("imagination_node", words))
    assert process.log.read_text().count(words) == 1
    # it asks for nothing: no robot stops because nothing can be drawn
    assert {pair.key: pair.value for pair in health[-1].values}["asks_for"] == "go_on"
    assert process.poll() is None
    assert said(health) in ("fine", "not active")


def rviz_topics():
    """Return {topic: type} of the displays in the RViz configuration."""
    content = yaml.safe_load((ROOT / "config" / "rviz" / "world_model.rviz").read_text())
    displays = [d for d in content["Visualization Manager"]["Displays"] if "Topic" in d]
    return {display["Topic"]["Value"]: RVIZ[display["Class"]] for display in displays}


def foxglove_panels():
    """Return (kind of panel, its configuration) of the Foxglove layout; each is in the arrangement once."""
    content = json.loads((ROOT / "config" / "foxglove" / "world_model.json").read_text())

    def placed(part):
        return [part] if isinstance(part, str) else placed(part["first"]) + placed(part["second"])

    assert sorted(placed(content["layout"])) == sorted(content["configById"])
    return [(name.partition("!")[0], panel) for name, panel in content["configById"].items()]


def field_type(kind, path):
    """Return the type of a field such as "a.b" in a message type such as std_msgs/msg/String."""
    package, _, name = kind.split("/")
    fields = getattr(importlib.import_module(f"{package}.msg"), name).get_fields_and_field_types()
    first, _, rest = path.partition(".")
    return field_type(fields[first], rest) if rest else fields[first]


def test_the_viewers_layouts_are_installed():
    assert {"rviz/world_model.rviz", "foxglove/world_model.json"} <= {
        str(path.relative_to(ROOT / "config")) for path in (ROOT / "config").rglob("*.*")
    }
    assert '*tree("config")' in (ROOT / "setup.py").read_text()


def check_layouts(node):
    """Compare the layouts' topics, types, fields and services with what a node sees in the graph."""
    topics = {name: kinds[0] for name, kinds in node.get_topic_names_and_types()}
    services = dict(node.get_service_names_and_types())
    for topic, kind in rviz_topics().items():
        assert topics[topic] == kind
        assert node.count_publishers(topic)
    shown = {"Image": "imageTopic", "DiagnosticSummary": "topicToRender"}
    kinds = {"Image": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")}
    for kind, panel in foxglove_panels():
        if kind in shown:
            topic = (panel.get("imageMode") or panel)[shown[kind]]
            assert topics[topic] in kinds.get(kind, ("diagnostic_msgs/msg/DiagnosticArray",))
        elif kind == "3D":
            wanted = {RVIZ[f"rviz_default_plugins/{display}"] for display in ("Path", "MarkerArray")}
            assert {topics[topic] for topic in panel["topics"]} == wanted
        elif kind in ("Plot", "RawMessages"):
            for path in [p["value"] for p in panel.get("paths", [])] or [panel["topicPath"]]:
                topic, _, field = path.partition(".")
                assert field_type(topics[topic], field) == ("float" if kind == "Plot" else "string")
        else:
            assert kind == "CallService"
            (answering,) = services[panel["serviceName"]]
            request = getattr(importlib.import_module("std_srvs.srv"), answering.split("/")[-1]).Request
            assert set(json.loads(panel["requestPayload"])) == set(request.get_fields_and_field_types())


@pytest.mark.fault
def test_the_simulation_shows_everything_and_goes_on_when_the_viewer_is_killed(processes, observer, drawing):
    from nav_msgs.msg import Path as Poses
    from sensor_msgs.msg import Image
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory
    from visualization_msgs.msg import MarkerArray

    simulation = processes.sim("--task", "reach", "--checkpoint", drawing)
    images = observer.collect(Image, "imagination", 10)
    paths = observer.collect(Poses, "plan/path", 10)
    candidates = observer.collect(MarkerArray, "plan/candidates", 10)
    plans, status = observer.collect(JointTrajectory, "plan", 10), observer.collect(String, "status", 10)
    observer.until(lambda: images and paths and candidates and status, seconds=120)
    check_layouts(observer.node)

    first = paths[-1].poses[0].pose.position
    assert paths[-1].header.frame_id == "panda_link0"
    assert 0.3 < first.x < 0.8  # where the tool is, not at the origin
    assert 0 < first.z < 0.02
    assert len(paths[-1].poses) > 5  # a block at least
    (marker,) = candidates[-1].markers
    assert marker.header.frame_id == "panda_link0"
    assert len(marker.points) % 2 == 0
    start = marker.points[0]
    assert 0.3 < start.x < 0.8
    assert len({(p.x, p.y) for p in marker.points}) > 10

    (viewer,) = [pid for pid, line in processes.ours().items() if "nodes imagination_node" in line]
    os.kill(viewer, signal.SIGKILL)
    observer.until(lambda: "the simulation goes on" in simulation.log.read_text())
    observer.drain()  # what it had sent before
    count, shown = len(plans), len(images)
    observer.until(lambda: len(plans) > count + 4)
    assert len(images) <= shown + 1
    assert not [message.data for message in status if "imagination" in message.data]
    assert simulation.poll() is None
