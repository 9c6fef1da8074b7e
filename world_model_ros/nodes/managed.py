"""The base of the managed nodes: configure, activate, deactivate, clean up, health and diagnostics."""

import threading
import traceback
import uuid

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32

from world_model_ros.camera.images import Complaints, ImageRejectedError
from world_model_ros.data.robot import read_robot
from world_model_ros.errors import UserError
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.nodes.declaring import declare
from world_model_ros.nodes.messages import latent_array, planned_actions
from world_model_ros.nodes.polling import NewestJoints, polled_subscription
from world_model_ros.nodes.qos import JOINTS, Publications, describe_mismatch
from world_model_ros.planning.timeline import Timeline
from world_model_ros.safety.health import Health

LEVELS = {
    Health.FINE: DiagnosticStatus.OK,
    Health.WARNING: DiagnosticStatus.WARN,
    Health.HOLD: DiagnosticStatus.ERROR,
    Health.FAULT: DiagnosticStatus.ERROR,
}
ASKS = "asks_for"  # key of a health message: go_on, hold or fault
ASKED = {Health.FINE: "go_on", Health.WARNING: "go_on", Health.HOLD: "hold", Health.FAULT: "fault"}
INSTANCE = "instance"  # key of a health message: differs from process to process
STATE = "state"  # key of a health message: active, inactive or ended
HEARTBEAT = 0.05  # seconds between two health messages
# Of the health topics: the newest one is kept for latecomers.
HEALTH = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
CLOCK_REPORTS = 2  # without a clock after which that is logged: a simulation starts with its nodes
NAME_REPORTS = 5  # that discovery may take to find a node's name
COMMAND_DEPTH = 100  # commands of any publishers that may wait while a node is busy, for a second or two


def health_of(message: DiagnosticStatus) -> Health:
    """Return what a health message asks for; one without that key asks for nothing."""
    asked = {pair.key: pair.value for pair in message.values}.get(ASKS)
    if asked in ("hold", "fault"):
        return Health.HOLD if asked == "hold" else Health.FAULT
    return Health.WARNING if message.level != DiagnosticStatus.OK else Health.FINE


class ManagedNode(LifecycleNode):
    """A node fills in ``set_up``, ``start``, ``stop``, ``tear_down`` and ``metrics``.

    What is made with ``publisher``, ``subscribe``, ``serve`` and ``timer`` in ``set_up`` is destroyed by the
    clean-up. Callbacks are called while the node is active, so that nothing is accepted before or after.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.active = False
        self.exit_code: int | None = None  # of the process, once the node wants it to end
        self.failure = ""  # why the last transition failed
        self.complaints = Complaints()
        self.instance = uuid.uuid4().hex
        self._made: list = []
        self._kept: dict = {}  # topic -> call that delivers the newest command that came while not active
        self._mismatches: dict = {}  # topic -> [our profile, whether we publish, reports to wait for names]
        self._health: tuple[Health, str, dict[str, str]] | None = None
        self._health_lock = threading.Lock()  # worker threads report, too
        self._ended = False
        self._clockless = 0  # reports in a row without a clock
        self.values = declare(self, name, self.refuse, self.changed)
        self.robot = read_robot(self.values["robot"]) if self.values.get("robot") else None
        self._health_out = self.create_publisher(DiagnosticStatus, f"{name}/health", HEALTH)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self.report, clock=steady)
        # In the executor's thread: a callback that hangs stops the heartbeat.
        self.create_timer(HEARTBEAT, self.beat, clock=steady)

    # To be filled in by a node.

    def set_up(self) -> None:
        """Load, check and warm up. Raises UserError where that cannot be."""

    def start(self) -> None:
        """Begin to act; callbacks are called from now on."""

    def stop(self) -> None:
        """End: the worker first, the safe command last. No callback is called any more."""

    def tear_down(self) -> None:
        """Free what ``set_up`` has loaded."""

    def metrics(self) -> dict[str, object]:
        """Return the values of the diagnostics."""
        return {}

    def health_values(self) -> dict[str, str]:
        """Return further values of every health message; called from any thread."""
        return {}

    def may_have_missed(self, reason: str) -> None:
        """Make safe since messages may have been lost, and why; ``stop`` is not called any more."""

    def watch(self) -> tuple[Health, str]:
        """Return a health beside the published one, and why; called once a second while active."""
        return Health.FINE, ""

    def refuse(self, changes: dict) -> str:  # noqa: ARG002
        """Return why these changed parameters cannot be, or ""."""
        return ""

    def changed(self) -> None:
        """Take over changed parameters, which are in ``values``."""

    # With which a node makes its topics, services and timers.

    def publisher(self, kind, topic: str, profile):
        """Make a publisher that logs which subscribers have an incompatible quality of service."""
        events = PublisherEventCallbacks(incompatible_qos=lambda _: self._mismatch(topic, profile, True))
        made = self.create_publisher(kind, topic, profile, event_callbacks=events)
        self._made.append((self.destroy_publisher, made))
        return made

    def subscribe(
        self, kind, topic: str, callback, profile, always: bool = False, with_info: bool = False, **events
    ):
        """Subscribe while active; ``events`` are further callbacks of SubscriptionEventCallbacks.

        Where ``with_info``, the callback takes rclpy's message info too.
        """
        events.setdefault("incompatible_qos", lambda _: self._mismatch(topic, profile, False))

        def heard(message, info):
            if self.active or always:
                callback(message, info) if with_info else callback(message)

        made = self.create_subscription(
            kind, topic, heard, profile, event_callbacks=SubscriptionEventCallbacks(**events)
        )
        self._made.append((self.destroy_subscription, made))
        return made

    def polled(self, kind, topic: str, profile):
        """Subscribe to messages that are read when they are needed, instead of one by one: see polling.py."""
        made = polled_subscription(self, kind, topic, profile)
        self._made.append((self.destroy_subscription, made))
        return made

    def newest_joints(self, topic: str) -> NewestJoints:
        """Subscribe to joint states that are read when they are needed.

        Of several topics in the robot file the first one is ``topic``, which robot.launch.py remaps.
        """
        more = self.robot.joints.topics[1:] if self.robot is not None and self.robot.joints else ()
        return NewestJoints(*(self.polled(JointState, each, JOINTS) for each in (topic, *more)))

    def subscribe_command(
        self, kind, topic: str, callback, always: bool = False, newest: bool = False
    ) -> None:
        """Subscribe to commands in whatever quality of service they are published.

        Each publication is delivered once, also if it equals the last one. Before the node is active the
        newest one is kept, and delivered when the node becomes active; with ``always`` all of them are
        delivered at once. With ``newest`` only a publisher's newest one counts: for large messages that
        replace each other.
        """
        # A transient-local reader never matches a volatile writer, a volatile one receives nothing of the
        # past, a reliable one never matches a best-effort writer, and a best-effort one may miss a message.
        publications = Publications()

        def heard(message, info):
            if not publications.new(info, newest):
                return
            if self.active or always:
                callback(message)
            else:
                self._kept[topic] = lambda: callback(message)

        depth = 1 if newest else COMMAND_DEPTH
        latched, reliable, best_effort = (
            QoSProfile(depth=depth, reliability=reliability, durability=durability)
            for reliability, durability in (
                (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL),
                (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE),
                (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE),
            )
        )
        # The best-effort reader matches whatever one of the others does.
        for profile, mismatch in (
            (latched, lambda _: None),
            (reliable, lambda _: None),
            (best_effort, lambda _: self._mismatch(topic, best_effort, False)),
        ):
            made = self.create_subscription(
                kind,
                topic,
                heard,
                profile,
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=mismatch),
            )
            self._made.append((self.destroy_subscription, made))

    def keep_for_good(self) -> None:
        """Keep what was made so far as long as the node, instead of until it is cleaned up."""
        self._made.clear()

    def serve(self, kind, name: str, callback, always: bool = False) -> None:
        """Offer a std_srvs service, which answers with a refusal while the node is not active."""

        def answer(request, response):
            if self.active or always:
                return callback(request, response)
            response.success, response.message = False, f"{self.get_name()} is not active"
            return response

        self._made.append((self.destroy_service, self.create_service(kind, name, answer)))

    def timer(self, seconds: float, callback, steady: bool = False) -> None:
        """Call back while active: on the node's clock, or on real time where ``steady``."""
        clock = {"clock": Clock(clock_type=ClockType.STEADY_TIME)} if steady else {}
        made = self.create_timer(seconds, lambda: self.active and callback(), **clock)
        self._made.append((self.destroy_timer, made))

    def _mismatch(self, topic: str, profile, publishing: bool) -> None:
        # The other side's name is known a moment later than the mismatch: see report.
        self._mismatches[topic] = [profile, publishing, NAME_REPORTS]

    def _log_mismatches(self) -> None:
        for topic, (profile, publishing, left) in list(self._mismatches.items()):
            problem = describe_mismatch(self, topic, profile, publishing, wait=left > 0)
            if problem is None:
                self._mismatches[topic][2] -= 1
                continue
            del self._mismatches[topic]
            if problem and self.complaints.trouble(f"{topic} (QoS)", problem):
                self.get_logger().warning(problem)

    # Health and diagnostics.

    def publish_health(self, health: Health, reason: str = "", quiet: bool = False, **values: str) -> None:
        """Publish the health of this node, from any thread.

        A change is published at once, and logged unless ``quiet``; the heartbeat repeats the newest health,
        with these ``values``.
        """
        with self._health_lock:
            before, self._health = self._health, (health, reason, values)
        if before == (health, reason, values):
            return
        if not quiet and (before or (Health.FINE, ""))[:2] != (health, reason):
            # Three lines, as rclpy allows one severity for each line of code.
            if health is Health.FINE:
                self.get_logger().info("what was reported last no longer holds")
            elif health is Health.FAULT:
                self.get_logger().error(reason)
            else:
                self.get_logger().warning(reason)
        self.beat()

    @property
    def health(self) -> Health:
        """The health that was published last."""
        return Health.FINE if self._health is None else self._health[0]

    def beat(self) -> None:
        """Publish the newest health: the heartbeat."""
        values = self.health_values()
        with self._health_lock:  # the last message has the last health
            health, reason, given = self._health or (Health.FINE, "", {})
            message = self._status(health, reason)
            state = "ended" if self._ended else "active" if self.active else "inactive"
            pairs = {INSTANCE: self.instance, STATE: state} | values | given
            message.values += [KeyValue(key=key, value=str(value)) for key, value in pairs.items()]
            self._health_out.publish(message)

    def _status(self, health: Health, reason: str) -> DiagnosticStatus:
        message = DiagnosticStatus(name=self.get_fully_qualified_name(), level=LEVELS[health])
        message.message = reason or ("fine" if self.active else "not active")
        message.values = [KeyValue(key=ASKS, value=ASKED[health])]
        return message

    def report(self) -> None:
        """Publish the diagnostics."""
        self._log_mismatches()
        clock = self.clock_problem()
        self._clockless = self._clockless + 1 if clock else 0
        if self._clockless == CLOCK_REPORTS:
            self.get_logger().warning(clock)
        worst = (Health.FINE, "") if self._health is None else self._health[:2]
        if self.active:
            worst = max(worst, self.watch(), key=lambda report: report[0])
        if clock:
            # First, as it is the cause of whatever else is missing.
            worst = max((Health.WARNING, clock), worst, key=lambda report: report[0])
        status = self._status(*worst)
        counts = {f"rejected {topic}": count for topic, count in self.complaints.counts.items()}
        metrics = {"state": "active" if self.active else "not active"} | self.metrics() | counts
        status.values += [KeyValue(key=key, value=str(value)) for key, value in metrics.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def clock_problem(self) -> str:
        """Return why there is no time yet, or "": use_sim_time, and nobody publishes the clock."""
        if not self.get_parameter("use_sim_time").value or self.get_clock().now().nanoseconds:
            return ""
        topic = self.resolve_topic_name("/clock")
        if self.count_publishers(topic):
            return f"use_sim_time is true and {topic} has not begun: start the simulation, or let it go on"
        return (
            f"use_sim_time is true and nobody publishes {topic}: start the simulation, or set use_sim_time "
            "to false"
        )

    def reject(self, topic: str, reason: str) -> None:
        """Count a rejected message, and log why unless that was logged before."""
        if self.complaints.trouble(topic, reason):
            self.get_logger().warning(f"a message on {topic} was rejected: {reason}")

    def accept(self, topic: str) -> None:
        """Note that messages on ``topic`` are fine, and log it where they were not."""
        if self.complaints.fine(topic):
            self.get_logger().info(f"messages on {topic} are fine again")

    def actions_of(self, message, names: tuple[str, ...]) -> np.ndarray | None:
        """Return a plan's actions (rows, dim), one at least; None after logging once why not."""
        try:
            actions = planned_actions(message, names)
        except ValueError as error:
            self.reject("plan", str(error))
            return None
        self.accept("plan")
        return actions

    def latent_of(self, message: Image, topic: str, width: int) -> np.ndarray | None:
        """Return the latent (width,) of a message on ``topic``; None after logging once why there is none."""
        try:
            latent = latent_array(message, width)
        except ImageRejectedError as reason:
            self.reject(topic, str(reason))
            return None
        self.accept(topic)
        return latent

    def take_latency(self, message: Float32, timeline: Timeline) -> None:
        """Take the camera's latency, which monitor_node estimates, in whole control steps."""
        seconds = message.data
        steps = round(1e9 * seconds / timeline.period) if np.isfinite(seconds) else -1
        try:
            timeline.take_latency(steps * timeline.period)
        except ValueError:
            self.reject(
                "camera/latency", f"{seconds:g} s is no part of a model step of {1e-9 * timeline.length:g} s"
            )
        else:
            self.accept("camera/latency")

    # Transitions.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Set up."""
        return self._transition("configure", self._set_up, self._free)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Start."""
        return self._transition("activate", self._begin, self._end)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Stop accepting, stop working, make safe."""
        return self._transition("deactivate", self._end)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Free everything."""
        return self._transition("clean up", self._free)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Stop, and end the process."""
        result = self._transition("shut down", self.close)
        self.exit_code = 0
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Go back to the beginning."""
        return self._transition("recover", self._free)

    def close(self) -> None:
        """Stop, whatever the state; the last call before the process ends."""
        if self.active:
            self._end()

    def publish_end(self) -> None:
        """Publish that this process ends on purpose."""
        self._ended = True
        self.beat()

    def destroy_node(self) -> None:
        """Destroy the node, and its state machine, which would keep the DDS participant."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _set_up(self) -> None:
        if self.robot is not None and self.values.get("checkpoint"):
            checkpoint = find_checkpoint(self.values["checkpoint"])
            self.robot.check(read_spec(checkpoint), str(checkpoint))
        self.set_up()

    def _begin(self) -> None:
        self.start()
        self.active = True
        with self._health_lock:
            self._health = (Health.FINE, "", {})
        self.beat()
        while self._kept:
            self._kept.pop(next(iter(self._kept)))()

    def _end(self) -> None:
        self.active = False
        with self._health_lock:  # a problem ends with the activity that had it
            self._health = None
        self.beat()
        self.stop()

    def _free(self) -> None:
        try:
            self.close()
            self.tear_down()
        finally:
            self._kept.clear()
            while self._made:
                destroy, made = self._made.pop()
                destroy(made)

    def _transition(self, name: str, act, undo=None) -> TransitionCallbackReturn:
        """Run ``act`` and log what it raises, which rclpy would hide."""
        self.failure = ""
        try:
            act()
            return TransitionCallbackReturn.SUCCESS
        except Exception as error:
            self.failure = str(error)
            expected = isinstance(error, UserError)
            text = str(error) if expected else "".join(traceback.format_exception(error))
            self.get_logger().error(f"cannot {name}: {text}")
            if undo is not None:
                try:
                    undo()
                except Exception as second:
                    text = "".join(traceback.format_exception(second))
                    self.get_logger().error(f"cannot undo it either: {text}")
                    expected = False
            return TransitionCallbackReturn.FAILURE if expected else TransitionCallbackReturn.ERROR
