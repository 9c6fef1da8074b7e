"""command_node: plays the plan at the control rate; has the last word on what the robot does."""

import math
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.control.commander import Commander, Rules, State
from world_model_ros.control.health import Health
from world_model_ros.control.interfaces import check_interface
from world_model_ros.control.joints import match_joints
from world_model_ros.control.limits import Limits, narrowed
from world_model_ros.control.statistics import Percentiles, Rate
from world_model_ros.errors import UserError
from world_model_ros.model.config import read_spec
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.nodes.commands import KINDS, Commands
from world_model_ros.nodes.managed import HEALTH, ManagedNode, health_of
from world_model_ros.nodes.qos import FRESH, HISTORY, LATCHED, RELIABLE
from world_model_ros.nodes.running import nanoseconds, set_stamp
from world_model_ros.planning.action_buffer import ActionBuffer

ACKNOWLEDGE = Duration(seconds=0.3)  # for the last command, when ending
HEEDED = ("encoder_node", "planner_node", "monitor_node")  # whose health counts, and whose death
WATCH_CLOCK = 0.1  # seconds of real time between two looks at the clock


class CommandNode(ManagedNode):
    """Asks the Commander once a control step and sends what it says."""

    def __init__(self):
        self.commander: Commander | None = None
        super().__init__("command_node")

    def rules(self) -> Rules:
        """Return when to stand still, as the parameters say."""
        step = self.spec.period * self.spec.block
        return Rules(
            image_timeout=self.values["image_timeout"] or 1.1 * step,
            joint_timeout=self.values["joint_timeout"],
            fresh_frames=self.values["fresh_frames"],
            clamped_steps=self.values["clamped_steps"],
        )

    def changed(self) -> None:
        """Stand still by the new rules."""
        if self.commander is not None:
            self.commander.rules = self.rules()

    def set_up(self) -> None:
        """Read limits and timing; nothing is sent yet."""
        self.spec = read_spec(find_checkpoint(self.values["checkpoint"]))
        interface = self.values["command.interface"]
        check_interface(self.spec.action, interface)
        limits = self.limits(interface)
        self.period = round(self.spec.period * 1e9)
        timeout = max(self.period, round(self.values["plan_timeout"] * 1e9))
        self.commander = Commander(limits, ActionBuffer(self.period, timeout), self.rules())
        self.commands = Commands(self.spec.action, interface, self.spec.period, limits)
        self.waking, self.tick_ms, self.tick_rate = time.monotonic(), Percentiles(), Rate()
        self.last_time = 0  # of the clock
        self.seen = -math.inf  # when the newest frame came, in real time
        self.beats: dict[str, float] = {}  # node -> when its newest health message came, in real time
        self.out = self.publisher(KINDS[interface], f"command/{interface}", RELIABLE)
        self.executed = self.publisher(JointState, "command/executed", HISTORY)
        self.status = self.publisher(String, "status", LATCHED)
        self.subscribe(JointTrajectory, "plan", self.on_plan, RELIABLE)
        self.subscribe(JointState, "joint_states", self.on_joints, FRESH)
        self.subscribe(Image, "latent", self.on_latent, RELIABLE)
        for name in HEEDED:
            self.heed(name)
        # Always: a stop that comes before the node is active must not be forgotten.
        self.subscribe_command(Bool, "command/emergency_stop", self.on_stop_message, always=True)
        self.serve(Trigger, "command/emergency_stop", self.on_stop, always=True)
        self.serve(Trigger, "command/reset", self.on_reset, always=True)
        self.timer(self.spec.period, self.tick)
        self.timer(WATCH_CLOCK, self.watch_clock, steady=True)
        self.timer(WATCH_CLOCK, self.watch_beats, steady=True)

    def limits(self, interface: str) -> Limits:
        """Return the checkpoint's limits, narrowed by the parameters'. Raises UserError."""
        action = narrowed(self.spec.action, self.values["limits.low"], self.values["limits.high"])
        given = {
            name: self.values[f"limits.{name}"] or None
            for name in ("max_step", "position_low", "position_high")
        }
        if interface == "joint_trajectory" and given["position_low"] is None:
            raise UserError(
                "the parameters limits.position_low and limits.position_high are missing: give the joints' "
                f"ranges in rad, one number for each of {list(action.names)}."
            )
        if action.kind == "twist" and given["position_low"] is not None:
            raise UserError(
                "limits.position_low is for joint actions, the checkpoint's are a twist: leave it out."
            )
        return Limits(action.names, action.low, action.high, **given)

    def heed(self, name: str) -> None:
        """Follow how a node fares, and whether it lives."""

        def on_health(message: DiagnosticStatus) -> None:
            self.beats[name] = time.monotonic()
            self.commander.sources.set_alive(name, True)
            self.commander.sources.say(name, health_of(message), message.message.partition("\n")[0])

        self.subscribe(DiagnosticStatus, f"{name}/health", on_health, HEALTH, always=True)

    def watch_beats(self) -> None:
        """Miss the nodes that have not been heard for a lease."""
        late = time.monotonic() - self.values["lease"]
        for name in [name for name, heard in self.beats.items() if heard < late]:
            del self.beats[name]
            self.commander.sources.set_alive(name, False)

    def start(self) -> None:
        """Begin with nothing known; a fault stays."""
        self.commander.forget()
        self.waking = time.monotonic()

    def stop(self) -> None:
        """Send the safe command last, and see that it is taken."""
        moved = self.commander.ever_moved
        if moved:
            self.send(self.get_clock().now().nanoseconds, np.zeros(self.spec.action.dim), moving=False)
            self.out.wait_for_all_acked(ACKNOWLEDGE)
        self.commander.forget()
        self.status.publish(String(data="WAITING: command_node is not active"))

    def on_plan(self, message: JointTrajectory) -> None:
        """Take a plan, or say once why not."""
        lengths = {len(point.velocities) for point in message.points}
        actions = [point.velocities for point in message.points] if len(lengths) == 1 else []
        problem = self.commander.plan(message.joint_names, nanoseconds(message.header.stamp), actions)
        if problem:
            self.reject("plan", problem)
        else:
            self.accept("plan")

    def on_joints(self, message: JointState) -> None:
        """Note that the robot is there, and where its joints are."""
        now = self.get_clock().now().nanoseconds
        try:
            positions = None
            if self.spec.action.kind == "joint_velocity":
                positions = match_joints(self.spec.action.names, message.name, message.position)
            elif len(message.position):  # a base may report velocities alone
                # Nothing is computed from them, but a robot that reports nonsense is not to be moved.
                match_joints(message.name, message.name, message.position)
            self.commander.joints(now, positions)
            self.accept("joint_states")
        except ValueError as error:
            self.reject("joint_states", str(error))

    def on_latent(self, message: Image) -> None:
        """Note that a camera frame was perceived."""
        self.seen = time.monotonic()
        self.commander.frame(self.get_clock().now().nanoseconds, nanoseconds(message.header.stamp))

    def on_stop_message(self, message: Bool) -> None:
        """Stand still on true; false changes nothing, as only the reset service does."""
        if message.data:
            self.on_stop(None, Trigger.Response())

    def on_stop(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Stand still at once, and until reset."""
        self.commander.emergency_stop()
        if self.active:
            self.tick()
        response.success, response.message = True, "stopped until command/reset"
        return response

    def on_reset(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Clear a fault."""
        self.commander.reset()
        response.success, response.message = True, "reset: the next plan moves the robot again"
        return response

    def tick(self) -> None:
        """Send the command of the control step that begins now."""
        now = self.get_clock().now().nanoseconds
        if now == 0:
            return  # use_sim_time, and no /clock yet
        woken = time.monotonic()
        self.tick_rate.heard(woken)
        decision = self.commander.tick(now, frame_age=woken - self.seen)
        if decision.changed:
            self.status.publish(String(data=f"{decision.state.name}: {decision.reason}"))
            self.get_logger().info(f"{decision.state.name}: {decision.reason}")
        # The label first: what the command brings about must not overtake it. Where nothing is sent the
        # robot stands still, and the others must not take the plan for what it did.
        sent = np.zeros(self.spec.action.dim) if decision.action is None else decision.action
        message = JointState(name=list(self.spec.action.names), velocity=sent.tolist())
        set_stamp(message.header.stamp, now)
        self.executed.publish(message)
        if decision.action is not None:
            self.send(now, decision.action, decision.moving)
        self.tick_ms.add(1e3 * (time.monotonic() - woken))

    def send(self, now: int, action: np.ndarray, moving: bool) -> None:
        """Publish one action (dim,) on the interface; standing still keeps the measured positions."""
        message = self.commands.message(now, action, moving, self.commander.positions)
        if message is not None:
            self.out.publish(message)

    def watch_clock(self) -> None:
        """Stop the robot when time stands still: no control step would come to do it."""
        now, real = self.get_clock().now().nanoseconds, time.monotonic()
        if now != self.last_time:
            self.last_time, self.waking = now, real
        elif real - self.waking > self.values["clock_timeout"] and self.commander.moving:
            self.commander.forget()
            self.get_logger().warning(
                f"the clock has stood for {self.values['clock_timeout']:g} s: is /clock published? "
                "The robot stands still"
            )
            self.status.publish(String(data="WAITING: the clock stands"))
            self.commander.settle()
            self.send(now, np.zeros(self.spec.action.dim), moving=False)

    def watch(self):
        """Say who else commands the robot, and whether anybody listens."""
        topic = self.out.topic_name
        state, reason = self.commander.state
        if state is State.FAULT:
            return Health.FAULT, reason
        others = sorted(
            f"{i.node_namespace.rstrip('/')}/{i.node_name}"
            for i in self.get_publishers_info_by_topic(topic)
            if (i.node_name, i.node_namespace) != (self.get_name(), self.get_namespace())
        )
        if others:
            masters = ", ".join(others)
            return self.warn(f"{topic} is also published by {masters}: two masters, end one of them")
        if not self.out.get_subscription_count():
            return self.warn(f"nobody listens to {topic}: start the robot's controller, or remap the topic")
        self.complaints.fine("command topic")
        return (Health.WARNING, reason) if state in (State.HOLD, State.WAITING) else (Health.FINE, reason)

    def warn(self, problem: str):
        """Return a warning for the diagnostics, and log it once."""
        if self.complaints.trouble("command topic", problem):
            self.get_logger().warning(problem)
        return Health.WARNING, problem

    def figures(self) -> dict:
        """Return state, counts, and how steadily commands go out."""
        if self.commander is None:
            return {}
        return (
            {"command_state": self.commander.state[0].name}
            | self.commander.counts
            | self.tick_ms.figures("command_ms")
            | self.tick_rate.figures("command", time.monotonic())
        )


def make_node() -> CommandNode:
    """Return the node, ready to be configured."""
    return CommandNode()
