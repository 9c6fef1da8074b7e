"""Publishes goals and follows what encoder_node and planner_node report of them."""

import array
import contextlib
import itertools
import signal
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from world_model_ros.data.goals import Goal
from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec, find_checkpoint, read_spec
from world_model_ros.nodes.managed import HEALTH
from world_model_ros.nodes.messages import set_stamp
from world_model_ros.nodes.qos import LATCHED
from world_model_ros.safety.health import ENCODER, PLANNER

ANSWER = 10.0  # seconds for the nodes to be found, and to answer
ASK_AGAIN = 3.0  # seconds: the first answer of a service can be lost
STATUS = 2.0  # seconds for the status to be heard; goals can be sent without a command_node, too
SETTLED = 1.0  # seconds after a goal was taken, in which a state that came before is that of the goal before
SPIN = 0.05  # seconds until a signal is noticed at the latest
GOING = ("fine", "")  # what a node says of itself that needs no word
STOPPED = ("FAULT", "RELEASED")  # states of command_node that no goal ends


class InterruptedByUserError(Exception):
    """Ctrl-C."""


class GoalRefusedError(Exception):
    """The nodes do not take this goal."""


class GoalClient:
    """One node that sends goals and keeps the newest reports."""

    def __init__(self, namespace: str):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("goal_client", namespace=namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.stopping = False
        self.reports: dict[str, tuple[str, dict]] = {}  # node -> its sentence and values
        self.status = self.shown = ""  # of command_node, and what was printed of it
        self.statuses = 0  # that were heard
        # What is planned with, where it can be read here.
        self.checkpoint: tuple[str, CheckpointSpec] | None = None
        self.before: tuple[str, int] = "", 0  # what was told when the goal was taken
        self.taken = 0.0  # when that was, in seconds of steady time
        for name in (ENCODER, PLANNER):
            self.node.create_subscription(DiagnosticStatus, f"{name}/health", self.hearer(name), HEALTH)
        self.node.create_subscription(String, "status", self.hear_status, LATCHED)
        self.images = self.node.create_publisher(Image, "goal/image", LATCHED)
        self.camera = self.node.create_client(Trigger, "planner/goal_from_camera")

    def hearer(self, name: str):
        """Return the callback that keeps the newest report of a node."""

        def hear(message: DiagnosticStatus) -> None:
            self.reports[name] = message.message, {pair.key: pair.value for pair in message.values}

        return hear

    def hear_status(self, message: String) -> None:
        """Keep the newest status of command_node."""
        self.status, self.statuses = message.data, self.statuses + 1

    def stopped(self) -> str:
        """Return the status where no goal moves the robot until a person does something, or ""."""
        return self.status if self.status.partition(":")[0] in STOPPED else ""

    def value(self, name: str, key: str) -> str:
        """Return a value of a node's newest report, or ""."""
        return self.reports.get(name, ("", {}))[1].get(key, "")

    def until(self, condition, seconds: float = 0.0) -> bool:
        """Hear messages until ``condition()``; return whether that was within ``seconds``; 0: no limit."""
        end = time.monotonic() + seconds
        while not condition():
            if self.stopping:
                raise InterruptedByUserError
            if seconds and time.monotonic() > end:
                return False
            self.executor.spin_once(timeout_sec=SPIN)
        return True

    def find_nodes(self) -> None:
        """Wait for the nodes that take goals. Raises UserError where one of them is not there."""
        topic = self.images.topic_name
        if not self.until(self.images.get_subscription_count, ANSWER):
            raise UserError(f"nobody subscribes to {topic}: start encoder_node, or give its --namespace.")
        for name in (ENCODER, PLANNER):
            if not self.until(lambda name=name: self.value(name, "state") == "active", ANSWER):
                raise UserError(
                    f"{name} is not active in {self.node.get_namespace()}: start it, or give its --namespace."
                )
        self.until(lambda: self.status, STATUS)
        if self.node.count_publishers("/clock"):
            self.node.set_parameters([Parameter("use_sim_time", value=True)])
            self.until(lambda: self.node.get_clock().now().nanoseconds > 0, ANSWER)

    def find_checkpoint(self) -> None:
        """Ask planner_node which checkpoint it plans with, and read what it is for, where that can be."""
        client = self.node.create_client(GetParameters, f"{PLANNER}/get_parameters")
        end = time.monotonic() + ANSWER
        asked = None
        while time.monotonic() < end and (asked is None or not asked.done()):
            if self.until(client.service_is_ready, ASK_AGAIN):
                asked = client.call_async(GetParameters.Request(names=["checkpoint"]))
                self.until(asked.done, ASK_AGAIN)
        values = asked.result().values if asked is not None and asked.done() else []
        with contextlib.suppress(UserError):  # it is on another computer
            folder = find_checkpoint(values[0].string_value if values else "")
            self.checkpoint = str(folder), read_spec(folder)

    def check(self, goal: Goal) -> None:
        """Raise GoalRefusedError, both sides in it, for a frame of another robot, task or other actions."""
        if goal.origin is None or self.checkpoint is None:
            return
        folder, spec = self.checkpoint
        if differing := goal.origin.differences(spec):
            raise GoalRefusedError(
                f"it was not recorded for what planner_node plans with, {folder}: {'; '.join(differing)}; "
                "give a frame of this robot's own recordings"
            )

    def send(self, goal: Goal) -> str:
        """Send a goal, wait until it is taken, return its stamp. Raises GoalRefusedError with the reason."""
        self.check(goal)
        if goal.pixels is None:
            return self.send_view()
        height, width = goal.pixels.shape[:2]
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        message.data = array.array("B", goal.pixels.tobytes())
        now = self.node.get_clock().now().nanoseconds
        set_stamp(message.header.stamp, now)
        self.images.publish(message)
        stamp = str(now)
        if not self.until(lambda: self.value(ENCODER, "goal_stamp") == stamp, ANSWER):
            raise GoalRefusedError(f"encoder_node has not answered for {ANSWER:g} s")
        if problem := self.value(ENCODER, "goal_problem"):
            raise GoalRefusedError(problem)
        if not self.until(lambda: self.value(PLANNER, "goal_stamp") == stamp, ANSWER):
            raise GoalRefusedError(f"planner_node has not answered for {ANSWER:g} s")
        return stamp

    def send_view(self) -> str:
        """Make the camera's present view the goal, and return its stamp."""
        before = self.value(PLANNER, "goal_stamp")
        if not self.until(self.camera.service_is_ready, ANSWER):
            raise GoalRefusedError("planner_node offers no planner/goal_from_camera")
        asked = self.camera.call_async(Trigger.Request())
        if not self.until(asked.done, ANSWER):
            raise GoalRefusedError(f"planner_node has not answered for {ANSWER:g} s")
        if not asked.result().success:
            raise GoalRefusedError(asked.result().message)
        self.until(lambda: self.value(PLANNER, "goal_stamp") != before, ANSWER)
        return self.value(PLANNER, "goal_stamp")

    def follow(self, stamp: str, timeout: float) -> str:
        """Wait until the goal is reached and return ""; or else why it is not waited for any longer."""

        self.before, self.taken = self.told(), time.monotonic()

        def ended() -> bool:
            if self.stopped():
                return True
            self.show_status()
            known = self.value(PLANNER, "reached")
            return known in ("true", "unknown") or self.value(PLANNER, "goal_stamp") != stamp

        in_time = self.until(ended, timeout)
        if told := self.stopped():
            return f"given up: {told}"
        if not in_time:
            return f"not reached within {timeout:g} s ({self.distance()})"
        if self.value(PLANNER, "goal_stamp") != stamp:
            return "another goal has replaced it"
        if self.value(PLANNER, "reached") == "unknown":
            return "planner_node cannot tell when it is reached: the checkpoint has no threshold for it"
        return ""

    def told(self) -> tuple[str, int]:
        """Return what the planner or else command_node says, and which of its messages that is."""
        sentence = self.reports[PLANNER][0]
        return (f"planner_node: {sentence}", 0) if sentence not in GOING else (self.status, self.statuses)

    def show_status(self) -> None:
        """Print what holds the robot or the planner up, once for each change."""
        if self.told() == self.before and time.monotonic() - self.taken < SETTLED:
            return
        told = self.told()[0]
        if told != self.shown:
            self.shown = told
            if told and not told.startswith("RUNNING: playing"):
                print(f"  {told}", flush=True)

    def distance(self) -> str:
        """Return how far from the goal the robot is, in words."""
        return self.value(PLANNER, "arrival")

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def send_goals(goals: list[Goal], namespace: str, loop: bool, wait: bool, timeout: float) -> int:
    """Send goals one after another, each when the one before is reached; return the exit code."""
    client = GoalClient(namespace)

    def stop(*_):
        client.stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    failed = 0
    try:
        client.find_nodes()
        if any(goal.origin for goal in goals):
            client.find_checkpoint()
        for number, goal in enumerate(itertools.cycle(goals) if loop else goals, start=1):
            began = time.monotonic()
            of = f"goal {number}" if loop or len(goals) == 1 else f"goal {number}/{len(goals)}"
            if wait and (told := client.stopped()):
                print(f"{of}, {goal.name}: not sent: {told}", flush=True)
                return 1
            print(f"{of}, {goal.name}: ", end="", flush=True)
            try:
                stamp = client.send(goal)
            except GoalRefusedError as reason:
                print(f"refused: {reason}", flush=True)
                failed += 1
                if loop and failed >= len(goals):
                    return 1  # none is taken: to go on would only repeat it
                continue
            print(f"taken, {client.value(PLANNER, 'doing')}", flush=True)
            if not wait:
                continue
            problem = client.follow(stamp, timeout)
            failed = failed + 1 if problem else 0 if loop else failed
            took = time.monotonic() - began
            print(f"{of} {problem or f'reached after {took:.1f} s ({client.distance()})'}", flush=True)
            if client.stopped():
                return 1
        return 1 if failed else 0
    except InterruptedByUserError:
        print(flush=True)
        return 130
    finally:
        client.close()
