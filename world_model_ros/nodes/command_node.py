"""command_node: plays the plan at the control rate, within the limits, and stops the robot by itself."""

import math
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.errors import UserError
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.monitoring.statistics import Percentiles, Rate
from world_model_ros.nodes.managed import HEALTH, INSTANCE, STATE, ManagedNode, health_of
from world_model_ros.nodes.messages import KINDS, Commands, nanoseconds, set_stamp
from world_model_ros.nodes.qos import (
    HISTORY,
    LATCHED,
    RELIABLE,
    SWITCH,
    PublisherNames,
    full_names,
    other_publishers,
    type_name,
)
from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.commander import Commander, Rules, State
from world_model_ros.safety.dead_man import DeadMan, button_pressed
from world_model_ros.safety.health import COMMAND, ENCODER, MONITOR, PLANNER, Health
from world_model_ros.safety.joints import JointCollector, split_names
from world_model_ros.safety.limits import Limits, check_interface, narrowed, warn_interface
from world_model_ros.safety.release import AFTER_RESTART, Kept, state_file
from world_model_ros.safety.watchdogs import ClockWatch

ACKNOWLEDGE = Duration(seconds=0.3)  # for the last command, when ending
WATCH_CLOCK = 0.1  # seconds of real time between two looks at a simulated clock
CLOCK_LEAP = 2  # control steps by which the clock may run away from real time between two looks
TOGETHER = 10_000_000  # ns within which both clocks are read
QUIET = 1_000_000_000  # ns without a rejection, until joint_states count as fine again


class CommandNode(ManagedNode):
    """Asks the Commander once a control step for the command, and sends it."""

    def __init__(self):
        self.commander: Commander | None = None
        self.stopping = False  # a stop was among the messages that are being taken
        self.refused = False  # and a reset
        super().__init__("command_node")
        self.stopped, self.handed_over = (
            Kept(state_file(self.get_fully_qualified_name(), state) if self.values["remember_stop"] else None)
            for state in ("stopped", "released")
        )
        self.simulated = self.get_parameter("use_sim_time").value
        # From the beginning: a stop that comes before the node is configured must count, too.
        self.subscribe_command(Bool, "command/emergency_stop", self.on_stop_message, always=True)
        self.serve(Trigger, "command/emergency_stop", self.on_stop, always=True)
        self.serve(Trigger, "command/reset", self.on_reset, always=True)
        self.serve(Trigger, "command/release", self.on_release, always=True)
        self.keep_for_good()

    def rules(self) -> Rules:
        """Return when to keep the robot still, from the parameters."""
        step = self.spec.period * self.spec.block
        # While a simulated clock stands no joints are published, and the robot must be stopped then.
        standing = self.values["clock_timeout"] if self.simulated else 0.0
        same = (
            "joint_timeout",
            "fresh_frames",
            "clamped_steps",
            "lease",
            "release_after",
            "ramp",
            "override_time",
            "override_speed",
            "repeated_holds_window",
        )
        return Rules(
            image_timeout=self.values["image_timeout"] or 1.1 * step,
            pose_timeout=self.values["joint_timeout"] + standing,
            dead_man_timeout=self.values["dead_man.timeout"],
            step=step,
            frame_interval=step / 2.5,
            **{name: self.values[name] for name in same},
        )

    def changed(self) -> None:
        """Apply the new rules."""
        if self.commander is not None:
            self.commander.take(self.rules())

    def set_up(self) -> None:
        """Read limits and timing; nothing is sent yet."""
        self.spec = read_spec(find_checkpoint(self.values["checkpoint"]))
        action, interface = self.spec.action, self.values["command.interface"]
        check_interface(action, interface)
        limits = self.limits(interface)
        self.get_logger().info(limits.describe(action.unit))
        if warning := warn_interface(interface):
            self.get_logger().warning(warning)
        self.period = round(self.spec.period * 1e9)
        timeout = max(self.period, round(self.values["plan_timeout"] * 1e9))
        names, prefix = action.names if action.kind == "joint_velocity" else (), self.values["joint_prefix"]
        self.joint_publishers = PublisherNames(self, self.resolve_topic_name("joint_states"))
        collector = JointCollector(
            names,
            prefix,
            split_names(self.values["continuous_joints"]),
            np.maximum(-limits.low, limits.high)[: len(names)],
            self.joint_publishers.everybody,
        )
        clock = ClockWatch(None if self.simulated else CLOCK_LEAP * self.period)
        switch = DeadMan(self.switch_topic())
        self.commander = Commander(
            limits, ActionBuffer(self.period, timeout), self.rules(), collector, clock, switch
        )
        if self.stopped.inherited:
            self.commander.emergency_stop(self.stopped.reason() or AFTER_RESTART)
        elif self.stopped.there:
            self.commander.emergency_stop()
        if self.handed_over.there:
            self.commander.release()
        self.commands = Commands(action, interface, self.spec.period, limits, prefix)
        self.tick_ms, self.tick_rate = Percentiles(), Rate()
        self.last_time, self.waking = 0, time.monotonic()  # of the clock, and when it last advanced
        self.unheard = 0  # looks in a row that found nobody listening to the command
        self.rejected_joints = -QUIET
        self.kind, topic = KINDS[interface]
        self.out = self.publisher(self.kind, topic, RELIABLE)
        self.executed = self.publisher(JointState, "command/executed", HISTORY)
        self.status = self.publisher(String, "status", LATCHED)
        self.subscribe(JointTrajectory, "plan", self.on_plan, RELIABLE)
        self.joint_states = self.newest_joints("joint_states")
        self.subscribe(Image, "latent", self.on_latent, RELIABLE)
        if switch.topic:  # best effort fits every publisher, and volatile hears nothing of the past
            self.switch_kind = Bool if self.values["dead_man.button"] < 0 else Joy
            self.subscribe(self.switch_kind, switch.topic, self.on_switch, SWITCH)
        for name in (ENCODER, PLANNER, MONITOR, COMMAND):
            self.subscribe_health(name)
        # On real time, so that a clock that is set cannot hold the control steps up.
        self.timer(self.spec.period, self.tick, steady=not self.simulated)
        if self.simulated:
            self.timer(WATCH_CLOCK, self.watch_clock, steady=True)

    def switch_topic(self) -> str:
        """Return the full name of the dead-man switch's topic, "" for none. Raises UserError."""
        topic, button = self.values["dead_man.topic"], self.values["dead_man.button"]
        if not topic and button >= 0:  # a switch is meant: without one the robot would move
            raise UserError(
                f"dead_man.button is {button} and dead_man.topic is empty: give the topic of the "
                "sensor_msgs/Joy, such as joy, or leave dead_man.button out."
            )
        try:
            return self.resolve_topic_name(topic) if topic else ""
        except (RuntimeError, InvalidTopicNameException) as error:  # rclpy's RCLError is the first
            reason = str(error).partition("\n")[0].partition(", at /")[0]
            raise UserError(f"dead_man.topic is {topic!r}: {reason}.") from None

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

    def subscribe_health(self, name: str) -> None:
        """Subscribe to the health of a node, which is its heartbeat, too."""

        def on_health(message: DiagnosticStatus) -> None:
            values = {pair.key: pair.value for pair in message.values}
            if values.get(INSTANCE) != self.instance:
                if self.commander.release_state.reason:
                    self.take_joints()  # a take-over needs those that come after it
                reason, state = message.message.partition("\n")[0], values.get(STATE, "active")
                self.commander.report(
                    name, time.monotonic_ns(), health_of(message), reason, state, values=values
                )

        self.subscribe(DiagnosticStatus, f"{name}/health", on_health, HEALTH, always=True)

    def tear_down(self) -> None:
        """Forget the robot; a stop, and a release, are kept."""
        self.commander = None

    def start(self) -> None:
        """Begin without inputs; a fault stays."""
        self.joint_states.read()  # of the time before
        self.commander.begin()
        self.waking = time.monotonic()

    def stop(self) -> None:
        """Send the safe command last, if this node moved the robot, and wait until it is received."""
        if self.commander.ever_moved and not self.commander.released:
            self.send(self.clocks()[0], np.zeros(self.spec.action.dim), moving=False)
            self.out.wait_for_all_acked(ACKNOWLEDGE)
        self.commander.begin()
        self.commands.reset()
        self.status.publish(String(data="WAITING: command_node is not active"))

    def clocks(self) -> tuple[int, int]:
        """Return the node's time and a steady one, both in nanoseconds."""
        while True:
            before, now, steady = time.monotonic_ns(), self.get_clock().now().nanoseconds, time.monotonic_ns()
            if steady - before < TOGETHER:  # else a busy computer let time pass between the two
                return now, steady

    def on_plan(self, message: JointTrajectory) -> None:
        """Take a plan, or log once why not."""
        lengths = {len(point.velocities) for point in message.points}
        actions = [point.velocities for point in message.points] if len(lengths) == 1 else []
        problem = self.commander.plan(
            self.clocks()[0], message.joint_names, nanoseconds(message.header.stamp), actions
        )
        if problem:
            self.reject("plan", problem)
        else:
            self.accept("plan")

    def take_joints(self) -> None:
        """Take what is new on joint_states: once a control step, however fast it is published."""
        for message, info in self.joint_states.read():
            self.on_joints(message, info)

    def on_joints(self, message: JointState, info: dict) -> None:
        """Take the positions of the joints."""
        now, steady = self.clocks()
        publisher = self.joint_publishers.name(info)
        problem = self.commander.joints(now, steady, message.name, message.position, publisher)
        if problem:
            self.rejected_joints = steady
            self.reject("joint_states", problem)
        elif steady - self.rejected_joints > QUIET:
            self.accept("joint_states")

    def on_latent(self, message: Image) -> None:
        """Note that a camera frame was perceived."""
        self.commander.frame(*self.clocks(), nanoseconds(message.header.stamp))

    def on_switch(self, message: Bool | Joy) -> None:
        """Take the dead-man switch; a release stops the robot at once."""
        if self.switch_kind is Bool:
            pressed, problem = message.data, ""
        else:
            pressed, problem = button_pressed(message.buttons, self.values["dead_man.button"])
        self.commander.dead_man.heard(time.monotonic_ns(), pressed, problem)
        if not pressed and self.commander.moving:
            self.tick()

    def on_stop_message(self, message: Bool) -> None:
        """Stand still on true; false changes nothing, as only the reset service does."""
        if message.data:
            self.on_stop(None, Trigger.Response())

    def on_stop(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Stand still at once, and until reset."""
        if not self.stopping:
            self.stopping = True
            self.executor.create_task(self.stop_was_heard)  # called before the next messages are taken
        if self.commander is not None:
            self.commander.emergency_stop()
        try:
            # A button that is held repeats its message, and the robot stands already.
            if self.active and not (self.stopped.there and self.commander.state[0] is State.FAULT):
                self.tick()
        finally:  # the next process must stand still whatever ends this one
            if problem := self.stopped.begin():
                self.get_logger().warning(problem)
        response.success, response.message = True, "stopped until command/reset"
        return response

    def stop_was_heard(self) -> None:
        """Take resets again, unless one was refused just now: of several that wait each round takes one."""
        self.stopping = self.refused
        if self.refused:
            self.refused = False
            self.executor.create_task(self.stop_was_heard)

    def may_have_missed(self, reason: str) -> None:
        """Stand still until a reset, in the next process too, where an emergency stop may have been lost."""
        if not (self.active and self.commander.may_have_missed(f"{reason}: command_node")):
            return
        self.tick()
        if not self.stopped.there:
            text = f"{reason}: the process before this one may have missed an emergency stop"
            if problem := self.stopped.begin(text):
                self.get_logger().warning(problem)

    def on_reset(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Clear a fault, and take a released robot back."""
        if self.stopping:  # of what came while the node was busy, topics are first: the stop may be later
            self.refused = True
            response.success = False
            response.message = "an emergency stop came at the same time: look at the robot, then call again"
            return response
        response.success, response.message = True, "reset"
        for kept in (self.stopped, self.handed_over):
            if problem := kept.end():
                self.get_logger().warning(problem)
        if self.commander is not None:
            self.take_joints()  # what has come so far is of before
            response.message = self.commander.reset()
            self.commands.reset()
            self.waking = time.monotonic()  # where the clock stands, no control step says what holds now
        return response

    def on_release(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Stop, then leave the command topic to another controller."""
        response.success = self.commander is not None
        response.message = "command_node is not configured: it sends nothing"
        if response.success:
            self.commander.release()
            try:
                if self.active:
                    self.tick()  # the stop must not wait for the file
            finally:  # the next process must leave the robot alone whatever ends this one
                if problem := self.handed_over.begin():
                    self.get_logger().warning(problem)
            after = self.values["release_after"]
            response.message = (
                f"nothing is sent after {after:g} s at rest, until command/reset or planner/enable"
            )
        return response

    def tick(self) -> None:
        """Send the command of the control step that begins now."""
        woken = time.monotonic()
        self.take_joints()
        now, steady = self.clocks()
        if now == 0:
            return  # use_sim_time, and no /clock yet
        self.tick_rate.heard(woken)
        decision = self.commander.tick(now, steady)
        if self.handed_over.there and not self.commander.release_state.by_person:
            self.handed_over.end()  # planning was enabled again
        if decision.changed:
            self.publish_status(decision.state, decision.reason)
        # The executed action first: the effect of the command must not come before it. Where nothing is sent
        # the robot stands still: that is published, too, so that the plan is not taken for what was executed.
        # While the robot is left to another controller, what is executed is not known.
        if not decision.released:
            sent = np.zeros(self.spec.action.dim) if decision.action is None else decision.action
            message = JointState(name=list(self.spec.action.names), velocity=sent.tolist())
            set_stamp(message.header.stamp, now)
            self.executed.publish(message)
        if decision.action is not None:
            self.send(now, decision.action, decision.moving)
        self.tick_ms.add(1e3 * (time.monotonic() - woken))

    def publish_status(self, state: State, reason: str) -> None:
        """Publish and log the state and its reason."""
        line = f"{state.name}: {reason}"
        self.status.publish(String(data=line))
        if state is State.FAULT:  # three lines, as rclpy allows one severity for each line of code
            self.get_logger().error(line)
        elif state is State.HOLD:
            self.get_logger().warning(line)
        else:
            self.get_logger().info(line)

    def send(self, now: int, action: np.ndarray, moving: bool) -> None:
        """Publish one action (dim,) on the interface; standing still keeps the measured positions."""
        positions = self.commander.positions(time.monotonic_ns())
        message = self.commands.message(now, action, moving, positions)
        if message is not None:
            self.out.publish(message)

    def watch_clock(self) -> None:
        """Stop the robot when a simulated clock stands, for then no control step does, and say so."""
        (now, _), real = self.clocks(), time.monotonic()
        self.commander.sources.look(real)
        if now != self.last_time:
            self.last_time, self.waking = now, real
        elif real - self.waking > self.values["clock_timeout"]:
            if now == 0:
                self.waking = math.inf  # said once, until it advances
                self.publish_status(State.WAITING, "use_sim_time is true and nobody publishes /clock")
            elif self.commander.moving or self.commander.state[0] not in (State.FAULT, State.RELEASED):
                self.waking = math.inf
                self.commander.stop()
                self.get_logger().warning(
                    f"the clock has stood for {self.values['clock_timeout']:g} s, the robot stands still: "
                    "start the simulation again, or see that /clock is published"
                )
                self.publish_status(State.WAITING, "the clock stands: no new time on /clock")
                self.send(now, np.zeros(self.spec.action.dim), moving=False)

    def watch(self):
        """Return the warning about other publishers of the command, or that nobody subscribes to it."""
        topic = self.out.topic_name
        state, reason = self.commander.state
        others = other_publishers(self, topic)
        # A command_node of another namespace, whose heartbeats do not come here.
        self.commander.rivals.elsewhere = next((o for o in others if o.endswith(f"/{self.get_name()}")), "")
        if state is State.FAULT:
            return Health.FAULT, reason
        if others and state is not State.RELEASED:
            return self.warn(f"{topic} is also published by {', '.join(others)}: stop one of them")
        self.unheard = 0 if self.out.get_subscription_count() else self.unheard + 1
        if self.unheard:
            # Logged from the second look on: where a program ends them all, the controller may end first.
            problem = self.why_nobody(topic)
            return (Health.WARNING, problem) if self.unheard == 1 else self.warn(problem)
        if problem := self.switch_problem():
            return Health.WARNING, problem
        self.complaints.fine("command topic")
        return (Health.WARNING, reason) if state in (State.HOLD, State.WAITING) else (Health.FINE, reason)

    def switch_problem(self) -> str:
        """Return why no message of the dead-man switch can come, or ""."""
        topic = self.commander.dead_man.topic
        if not topic:
            return ""
        ours, button = type_name(self.switch_kind), self.values["dead_man.button"]
        kinds = {info.topic_type for info in self.get_publishers_info_by_topic(topic)}
        if not kinds:
            return f"nobody publishes {topic}, the dead-man switch: start it, or set dead_man.topic"
        if ours in kinds:
            return ""
        return f"{topic} is {', '.join(sorted(kinds))}, dead_man.button {button} stands for {ours}"

    def why_nobody(self, topic: str) -> str:
        """Return why no controller takes the commands: another type, or none is there."""
        ours, interface = type_name(self.kind), self.values["command.interface"]
        for info in self.get_subscriptions_info_by_topic(topic):
            if info.topic_type == ours:
                continue  # discovered, and not matched yet; an incompatible quality of service is named apart
            fitting = [
                name
                for name, (kind, where) in KINDS.items()
                if type_name(kind) == info.topic_type and where == KINDS[interface][1]
            ]
            remedy = f"set command.interface to {fitting[0]}" if fitting else "let both use the same type"
            who = ", ".join(full_names([info])) or "another program"
            return f"{who} takes {info.topic_type} on {topic}, command_node sends {ours}: {remedy}"
        return f"nobody listens to {topic}: start the robot's controller, or remap the topic"

    def warn(self, problem: str):
        """Return a warning for the diagnostics, and log it once."""
        if self.complaints.trouble("command topic", problem):
            self.get_logger().warning(problem)
        return Health.WARNING, problem

    def metrics(self) -> dict:
        """Return state, which nodes are watched, counts, and how steadily commands go out."""
        if self.commander is None:
            return {}
        return (
            {"command_state": self.commander.state[0].name}
            | {"watched_nodes": ", ".join(self.commander.sources.watched())}
            | self.commander.counts
            | self.tick_ms.metrics("command_ms")
            | self.tick_rate.metrics("command", time.monotonic())
        )


def make_node() -> CommandNode:
    """Return the node, ready to be configured."""
    return CommandNode()
