"""plan/path and plan/candidates: on the running planner, and that they cost nothing unwatched."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros
BLOCK = 250_000_000
STEPS = 5


class Feed:
    """Latents, a goal and a tool; somebody who watches the paths."""

    def __init__(self, observer):
        from geometry_msgs.msg import PoseStamped
        from nav_msgs.msg import Path
        from sensor_msgs.msg import Image
        from visualization_msgs.msg import MarkerArray

        node = observer.node
        self.latents = node.create_publisher(Image, "latent", 10)
        self.goals = node.create_publisher(Image, "goal/latent", 10)
        self.tools = node.create_publisher(PoseStamped, "tool_pose", 10)
        self.paths = observer.collect(Path, "plan/path", 10)
        self.candidates = observer.collect(MarkerArray, "plan/candidates", 10)
        self.time, self.tool, self.calls = 1_000_000_000, None, 0

    def stamped(self, message, time):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
        return message

    def latent(self, value):
        from sensor_msgs.msg import Image

        data = np.full(64, value, np.float32).tobytes()
        return self.stamped(Image(height=1, width=64, encoding="32FC1", step=256, data=data), self.time)

    def next(self):
        """Let a model step pass, once the plan of the last one is there: a busy machine falls behind."""
        from geometry_msgs.msg import PoseStamped

        self.calls += 1
        if self.paths and self.paths[-1].header.stamp != self.latent(0.0).header.stamp and self.calls % 40:
            return
        self.time += BLOCK
        if self.tool is not None:
            message = self.stamped(PoseStamped(), self.time + self.tool.get("late", 0))
            message.header.frame_id = self.tool.get("frame", "panda_link0")
            message.pose.position.x = self.tool.get("x", 0.5)
            message.pose.orientation.w = self.tool.get("w", 1.0)
            self.tools.publish(message)
        self.latents.publish(self.latent(0.1))
        self.goals.publish(self.latent(1.0))

    def begin(self):
        """Return where the newest path begins."""
        return self.paths[-1].poses[0].pose.position.x if self.paths else None


def test_paths_begin_at_the_tool_where_its_pose_can_be_used(processes, observer, checkpoint):
    node = processes.node("planner_node", config=False, checkpoint=checkpoint, frame_moves="false")
    feed = Feed(observer)
    observer.until(lambda: feed.latents.get_subscription_count() and feed.goals.get_subscription_count())
    observer.until(lambda: feed.paths and feed.candidates, again=feed.next)
    path, (marker,) = feed.paths[-1], feed.candidates[-1].markers
    assert path.header.frame_id == marker.header.frame_id == "panda_link0"
    assert feed.begin() == 0.0
    assert (len(path.poses) - 1) % STEPS == 0
    stamp, last = (p.header.stamp.sec * 10**9 + p.header.stamp.nanosec for p in (path, path.poses[-1]))
    assert stamp % BLOCK == 0
    assert last - stamp == (len(path.poses) - 1) * BLOCK // STEPS
    assert marker.type == marker.LINE_LIST
    assert len(marker.points) >= 2 * 8

    feed.tool = {}
    observer.until(lambda: feed.begin() == 0.5, again=feed.next)
    for wrong, why in (
        ({"frame": "camera"}, "it is in frame 'camera', the actions are in 'panda_link0'"),
        ({"x": float("nan")}, "it is no pose"),
        ({"w": 0.0}, "it is no pose"),
        # On a busy machine the pose of the next model step can be there already: 2.8 s.
        ({"late": -3 * 10**9}, "s away from the frame that was planned for"),
    ):
        feed.tool = wrong
        observer.until(lambda: feed.begin() == 0.0 and why in node.log.read_text(), again=feed.next)  # noqa: B023
        feed.tool = {}
        observer.until(lambda: feed.begin() == 0.5, again=feed.next)


def test_of_joint_velocities_there_is_no_path(processes, observer, arm_checkpoint):
    processes.node("planner_node", config=False, checkpoint=arm_checkpoint)

    def services():
        known = ("planner_node", "/") in observer.node.get_node_names_and_namespaces()
        return dict(observer.node.get_service_names_and_types_by_node("planner_node", "/") if known else ())

    observer.until(lambda: "/planner/enable" in services())  # made, and so discovered, after the topics
    topics = dict(observer.node.get_publisher_names_and_types_by_node("planner_node", "/"))
    assert "/goal/distance" in topics
    assert not {"/plan/path", "/plan/candidates"} & set(topics)


def test_nothing_is_computed_for_nobody(checkpoint):
    pytest.importorskip("rclpy")
    from world_model_ros.model.config import read_spec
    from world_model_ros.nodes.plan_paths import PlanPaths

    class Unwatched:
        def get_subscription_count(self):
            return 0

    class Node:
        def publisher(self, *_):
            return Unwatched()

    paths = PlanPaths(Node(), read_spec(checkpoint), moves=True)
    assert None not in (paths.path, paths.candidates)
    paths.publish(step=None, actions=None, planner=None)  # touches none of them


@pytest.mark.fault
def test_an_error_in_what_is_shown_does_not_reach_the_planner(checkpoint):
    pytest.importorskip("rclpy")
    from world_model_ros.camera.images import Complaints
    from world_model_ros.model.config import read_spec
    from world_model_ros.nodes.plan_paths import PlanPaths

    class Watched:
        def get_subscription_count(self):
            return 1

    class Node:
        complaints, said = Complaints(), []

        def publisher(self, *_):
            return Watched()

        def get_logger(self):
            return self

        def error(self, text):
            self.said.append(text)

    paths = PlanPaths(Node(), read_spec(checkpoint), moves=True)
    for _ in range(2):
        paths.publish(step=None, actions=None, planner=None)
    assert len(Node.said) == 1
    assert "NoneType" in Node.said[0]
