"""A node that only listens: to the declared streams of a robot, whatever their quality of service."""

import time
from collections import defaultdict

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from world_model_ros.data.records import types_of
from world_model_ros.data.robot import RobotFile, Stream
from world_model_ros.data.stream_check import (
    Endpoint,
    Finding,
    StreamWatch,
    command_finding,
    joint_names,
    short,
)
from world_model_ros.nodes.messages import KINDS, STREAMED
from world_model_ros.nodes.qos import (
    GID,
    RELIABLE,
    Senders,
    compatible,
    describe_policies,
    endpoint_name,
    type_name,
)
from world_model_ros.nodes.running import FairExecutor

# Best effort and volatile: matches every publisher. Deep enough that no joint states are lost at 1 kHz.
ANY = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
# None of a robot's.
OURS = (
    *("goal/image", "goal/latent", "latent", "command/executed"),
    *("imagination", "imagination/compressed"),
)
LOOK = 0.2  # seconds between two looks at the graph
DISCOVERY = 2.0  # seconds at most until the first message, before the listening begins


class Listener(Node):
    """Subscribes to each stream of a robot file as soon as somebody publishes it."""

    def __init__(self, robot: RobotFile, use_sim_time: bool = False, namespace: str = ""):
        simulated = [rclpy.Parameter("use_sim_time", value=True)] if use_sim_time else []
        super().__init__("robot_check", namespace=namespace, parameter_overrides=simulated)
        self.robot = robot
        self.watches = [StreamWatch(robot, stream, use_sim_time) for stream in robot.streams]
        self._heard: set[tuple[str, str]] = set()  # topics and types that were subscribed to
        self.executor_of_its_own = FairExecutor()
        self.executor_of_its_own.add_node(self)

    def topics_of(self, stream: Stream) -> tuple[str, ...]:
        """Return the full topics that a stream may be on."""
        topic = self.resolve_topic_name(stream.topic)
        compressed = stream.role == "camera" and not topic.endswith("/compressed")
        return (topic, f"{topic}/compressed") if compressed else (topic,)

    def look(self) -> None:
        """Subscribe to what is published by now."""
        for watch in self.watches:
            for topic in self.topics_of(watch.stream):
                for info in self.get_publishers_info_by_topic(topic):
                    kind = short(info.topic_type)
                    if kind in types_of(self.robot, watch.stream):
                        self._subscribe(watch, topic, kind)
                        break
                else:
                    continue
                break  # of an image and its compressed copy the first one

    def _subscribe(self, watch: StreamWatch, topic: str, kind: str) -> None:
        if (topic, watch.stream.name) in self._heard:
            return
        self._heard.add((topic, watch.stream.name))
        # Joints may be shared: there two are only told apart by numbers where both send the same ones.
        senders: dict[tuple, Senders] = defaultdict(Senders)
        shared = watch.stream.role == "joints"

        def heard(message, info):
            sender = senders[tuple(message.name) if shared else ()].of(info)
            publisher = sender.hex() if len(sender) == GID else sender.decode()
            now = self.get_clock().now().nanoseconds
            if now:  # else a simulated clock has not begun
                watch.take(kind, message, now, publisher)

        self.create_subscription(STREAMED[kind], topic, heard, ANY)

    def listen(self, seconds: float) -> None:
        """Hear all streams for so many seconds of real time, not counting the first discovery."""
        began = time.monotonic()
        end, next_look = began + DISCOVERY + seconds, 0.0
        while (now := time.monotonic()) < end:
            if now >= next_look:
                self.look()
                next_look = now + LOOK
            if now < began + DISCOVERY and all(watch.count for watch in self.watches):
                end = min(end, now + seconds)
            self.executor_of_its_own.spin_once(timeout_sec=max(0.0, min(next_look, end) - now))

    def findings(self) -> list[Finding]:
        """Return what was found, stream by stream."""
        end = self.get_clock().now().nanoseconds
        if not end:  # nothing can be judged without time
            problem = "nobody publishes it: start the simulation, or leave out --use-sim-time"
            return [Finding("clock", "/clock", problems=[problem])]
        found = []
        for watch in self.watches:
            topics = self.topics_of(watch.stream)
            publishers = [e for topic in topics[:1] for e in self._publishing(topic)]
            publishers = publishers or [e for topic in topics for e in self._publishing(topic)]
            found.append(watch.finding(publishers, end, self._elsewhere(watch.stream)))
        if self.robot.joints is not None:
            found.append(joint_names(self.robot, [w for w in self.watches if w.stream.role == "joints"]))
        if self.robot.interface:
            found.append(self._command())
        return found

    def _command(self) -> Finding:
        message, topic = KINDS[self.robot.interface]
        topic = self.resolve_topic_name(self.robot.command.topic or topic)
        ours = (self.get_name(), self.get_namespace())  # where the commands are the recorded actions, too
        infos = [
            info
            for info in self.get_subscriptions_info_by_topic(topic)
            if (info.node_name, info.node_namespace) != ours
        ]
        deaf = [endpoint(info) for info in infos if not compatible(RELIABLE, info.qos_profile)]
        source = self.resolve_topic_name(self.robot.actions.source.topic)
        return command_finding(
            self.robot,
            topic,
            type_name(message),
            self._publishing(topic),
            [endpoint(info) for info in infos],
            deaf,
            recorded=topic == source,
        )

    def _publishing(self, topic: str) -> list[Endpoint]:
        return [endpoint(info) for info in self.get_publishers_info_by_topic(topic)]

    def _elsewhere(self, stream: Stream) -> list[str]:
        """Return other topics of a type that the stream may have, which somebody publishes."""
        known = {topic for watch in self.watches for topic in self.topics_of(watch.stream)}
        known |= set(map(self.resolve_topic_name, OURS))
        wanted = set(types_of(self.robot, stream))
        return [
            topic
            for topic, kinds in self.get_topic_names_and_types()
            if topic not in known and wanted & set(map(short, kinds)) and self.count_publishers(topic)
        ]


def endpoint(info) -> Endpoint:
    """Return rclpy's information about an endpoint as plain data."""
    identity = bytes(info.endpoint_gid)[:GID].hex()
    return Endpoint(endpoint_name(info), info.topic_type, describe_policies(info.qos_profile), identity)


def listen(robot: RobotFile, seconds: float, use_sim_time: bool, namespace: str = "") -> list[Finding]:
    """Return what is found on a running system within so many seconds."""
    # A Ctrl-C is Python's: rclpy's own handler would end the context below the listening.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Listener(robot, use_sim_time, namespace)
    try:
        node.listen(seconds)
        return node.findings()
    finally:
        node.executor_of_its_own.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
