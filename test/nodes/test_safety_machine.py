"""A state machine over real nodes: whatever comes, in any order, the robot is stopped when it must be.

hypothesis draws what happens: stops, resets, joints and cameras that fail, nodes that hang or are killed.
command_node, planner_node and monitor_node are processes; the test plays robot, encoder and teleoperator. The
model keeps what is true of them, and every message that command_node sends is held against it:

- between a stop and the next reset no moving command;
- no command outside the limits, or farther from the measured pose than they allow;
- a fault whose cause lasts is back within a second of a reset;
- status comes to name a cause that is true, and the robot moves again when there is none;
- a released topic is silent;
- no moving command while the dead-man switch is not pressed.

WORLD_MODEL_ROS_SAFETY_RUNS is the number of runs that each of the tests makes.
"""

import functools
import itertools
import os
import re
import signal
import sys
import time
import uuid
from collections import deque

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from test.processes import without_processor
from world_model_ros.safety.health import LONGEST_LEASE
from world_model_ros.safety.limits import LEASH

pytestmark = pytest.mark.ros
RUNS = int(os.environ.get("WORLD_MODEL_ROS_SAFETY_RUNS", "4"))
RULES = 12  # in each run
PERIOD = 50_000_000  # ns, one control step
SECOND = 1_000_000_000
LOW, HIGH = -0.4, 0.4  # of both actions, as the checkpoints' limits
IN_FLIGHT = 0.15  # seconds after a stop in which a command may still move
SOON = 1.0  # seconds within which status must be true again, beside SOON_STEPS control steps
SOON_STEPS = 40
TIMEOUT = 60.0  # seconds for what has no limit of its own, on a busy machine
LEASE = 0.6  # seconds after which a node that is silent is missed
DISCOVERY = 4.0  # seconds after a start in which a status that came with its match may come again, by DDS
SWITCH_TIMEOUT = 1.0  # seconds after which the dead-man switch is lost
NAMES = {"twist": ("linear_x", "linear_y"), "joint_trajectory": ("joint1", "joint2")}
JOINTS = {"twist": ("wheel1", "wheel2"), "joint_trajectory": ("joint1", "joint2")}
CAUSES = {  # what is true -> a word of the sentence that names it
    "stop": ("emergency stop",),
    "limits": ("limits",),
    "joints": ("joint_states",),
    "camera": ("camera", "latent"),
    "frozen": ("frozen",),
    "encoder": ("encoder_node",),
    "planner": ("planner_node",),
    "monitor": ("monitor_node",),
    "clock": ("clock",),
    "plan": ("plan",),
    "inactive": ("not active",),
    "switch": ("dead-man",),
}


class Rig:
    """Long-lived nodes and everything around them; one for all runs of a test."""

    def __init__(self, observer, processes, checkpoint, interface, simulated):
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
        from geometry_msgs.msg import TwistStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Bool, String
        from trajectory_msgs.msg import JointTrajectory

        self.observer, self.node, self.processes = observer, observer.node, processes
        self.checkpoint, self.interface, self.simulated = checkpoint, interface, simulated
        self.names, self.joint_names = NAMES[interface], JOINTS[interface]
        self.second = rclpy.create_node("second_driver", context=observer.context)
        observer.executor.add_node(self.second)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.clock_out = self.node.create_publisher(Clock, "/clock", 10)
        self.joints_out = [
            n.create_publisher(JointState, "joint_states", 10) for n in (self.node, self.second)
        ]
        self.latents_out = self.node.create_publisher(Image, "latent", 10)
        self.plans_out = self.node.create_publisher(JointTrajectory, "plan", 10)
        self.health_out = self.node.create_publisher(DiagnosticStatus, "encoder_node/health", latched)
        self.switch_out = self.node.create_publisher(Bool, "dead_man", 10)
        self.switch, self.last_switch = True, -1.0  # None: no messages
        self.instance = uuid.uuid4().hex
        kind = {"twist": TwistStamped, "joint_trajectory": JointTrajectory}[interface]
        self.commands, self.executed, self.statuses = [], [], []
        self.watched = set()  # the nodes that command_node has heard, by its diagnostics
        self.numbers = {}  # when a message was sent -> its number among those of its publisher, or None

        def listen(kind, topic, messages, qos):
            def heard(message, info):
                messages.append((info["source_timestamp"], message))
                if messages is self.statuses:
                    self.numbers[info["source_timestamp"]] = info.get("publication_sequence_number")

            self.node.create_subscription(kind, topic, heard, qos)

        listen(kind, f"command/{interface}", self.commands, 1000)
        listen(JointState, "command/executed", self.executed, 1000)
        listen(String, "status", self.statuses, QoSProfile(depth=100, durability=latched.durability))
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.hear_diagnostics, 100)
        self.clients = {}
        self.now = 10 * SECOND if simulated else time.time_ns()
        self.pose, self.poses = np.zeros(2), []
        self.frames = deque(maxlen=10)  # stamps of the newest latents, ns
        self.last_health = -1.0
        self.encoder_report = ("go_on", "")
        self.due = time.monotonic()
        self.failures = []  # in words
        self.runs = []  # how many rules each run had
        self.lost = {"command_node": 0.0}
        self.nodes = {}
        for name in ("command_node", "planner_node", "monitor_node"):
            self.spawn(name)

    # Processes.

    def spawn(self, name):
        """Start a node; it is not waited for."""
        words = {"checkpoint": self.checkpoint, "use_sim_time": str(self.simulated).lower()}
        if name == "command_node":
            words |= {"command.interface": self.interface, "lease": LEASE}
            words |= {"dead_man.topic": "dead_man", "dead_man.timeout": SWITCH_TIMEOUT}
            if self.interface != "twist":
                words |= {"limits.position_low": [-50.0, -50.0], "limits.position_high": [50.0, 50.0]}
        if name == "command_node":
            self.statuses.clear()
            self.watched = set()
            self.spawned = time.time_ns()
        self.nodes[name] = self.processes.node(name, config=False, **words)

    def hear_diagnostics(self, message, info):
        """Take which nodes the present command_node has heard."""
        if info["source_timestamp"] > self.spawned:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                self.watched |= set(values.get("watched_nodes", "").split(", ")) - {""}

    def lost_status(self, moment):
        """Return whether a status from around ``moment`` (ns) never came here, by the publisher's count.

        The publisher keeps the newest one only: what a busy reader's socket lost then is not sent again.
        """
        before = [when for when, _ in self.statuses if when < moment]
        after = [when for when, _ in self.statuses if when >= moment]
        if not before or not after:
            return False
        first, last = self.numbers[before[-1]], self.numbers[after[0]]
        return first is not None and last is not None and last != first + 1

    def waited(self):
        """Return for how long command_node has waited for a processor, in seconds."""
        return without_processor(self.nodes["command_node"].pid)

    def check_alive(self, name):
        """Fail where a node ended that nobody has killed."""
        node = self.nodes[name]
        assert node.poll() is None, f"{name} ended with {node.returncode}:\n{node.log.read_text()[-3000:]}"

    # Messages.

    def client(self, kind, name):
        """Return a client, the same each time."""
        if name not in self.clients:
            self.clients[name] = self.node.create_client(kind, name)
        return self.clients[name]

    def stamp(self, message, moment=None):
        """Stamp a message."""
        moment = self.now if moment is None else moment
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(moment, SECOND)
        return message

    def tell_clock(self):
        """Publish the time."""
        from rosgraph_msgs.msg import Clock

        if self.simulated:
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(self.now, SECOND)
            self.clock_out.publish(message)

    def tell_joints(self, who, names, positions):
        """Publish joint states, as driver 0 or 1."""
        from sensor_msgs.msg import JointState

        message = JointState(name=list(names), position=[float(p) for p in positions])
        self.joints_out[who].publish(self.stamp(message))

    def tell_latent(self, value):
        """Publish a latent, as if a frame had just been perceived."""
        from sensor_msgs.msg import Image

        data = np.full(64, value, np.float32).tobytes()
        self.latents_out.publish(self.stamp(Image(height=1, width=64, encoding="32FC1", step=256, data=data)))
        self.frames.append(self.now)

    def frames_are_late(self):
        """Return whether this process, being late itself, may have sent too few latents in real time."""
        gaps = sorted(b - a for a, b in itertools.pairwise([*self.frames, self.now]))
        if self.simulated or not gaps:
            return False
        return gaps[len(gaps) // 2] > 0.09 * SECOND or gaps[-1] > 0.25 * SECOND

    def tell_plan(self, action, steps=10, start=None):
        """Publish a plan that begins now."""
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        message = self.stamp(JointTrajectory(joint_names=list(self.names)), start)
        message.points = [JointTrajectoryPoint(velocities=list(action)) for _ in range(steps)]
        self.plans_out.publish(message)

    def tell_health(self):
        """Publish the encoder's heartbeat where it is due."""
        from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

        asks, reason = self.encoder_report
        if asks is None or time.monotonic() - self.last_health < 0.1:
            return
        self.last_health = time.monotonic()
        level = DiagnosticStatus.OK if asks == "go_on" else DiagnosticStatus.ERROR
        values = {"asks_for": asks, "instance": self.instance}
        message = DiagnosticStatus(name="/encoder_node", level=level, message=reason or "fine")
        message.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        self.health_out.publish(message)

    def tell_switch(self):
        """Publish the dead-man switch where it is due."""
        from std_msgs.msg import Bool

        if self.switch is not None and time.monotonic() - self.last_switch >= 0.05:
            self.last_switch = time.monotonic()
            self.switch_out.publish(Bool(data=self.switch))

    def report_encoder(self, asks, reason=""):
        """Change what the encoder reports of itself; None is a node that hangs."""
        self.encoder_report, self.last_health = (asks, reason), -1.0
        self.tell_health()

    def status(self):
        """Return state and reason of the newest status."""
        state, _, reason = (self.statuses[-1][1].data if self.statuses else "").partition(": ")
        return state, reason


QUALITIES = ("reliable", "best effort", "transient local")
distances = st.sampled_from([-0.5, -0.15, 0.03, 0.5])
tame = st.floats(-0.35, 0.35).map(lambda value: round(value, 2))
steps = st.integers(1, 30)


def noted(method):
    """Keep what a method fails with: hypothesis tries again, and tells of another failure instead."""

    @functools.wraps(method)
    def noting(self, *arguments, **options):
        try:
            return method(self, *arguments, **options)
        except AssertionError as error:
            failure = f"{error}\nafter {', '.join(self.history)}"
            if not self.failed:
                self.rig.failures.append(failure)
            self.failed = True
            raise

    return noting


class SafetyMachine(RuleBasedStateMachine):
    """What is true of the nodes of ``rig``, and what they report and send."""

    rig: Rig

    def __init__(self):
        super().__init__()
        self.rules, self.history, self.failed = 0, [], False
        self.stops = []  # [from, to, processor time that command_node had waited]: no moving command
        self.let_go = []  # the same while the dead-man switch is not pressed
        self.silences = []  # [from, to]: no command at all
        self.motion = []  # when moving commands were sent
        self.unsaid = []  # the newest of them in a row that no status tells of
        self.before = 0  # what was sent before this run began is another's

    # The world.

    @initialize()
    def known_state(self):
        """Bring everything up, and the robot to motion."""
        rig = self.rig
        self.joints, self.camera, self.plan, self.action = "fine", "fine", "fine", (0.1, -0.1)
        self.strange = False
        self.stopped, self.encoder_fault, self.active = False, False, True
        self.set_switch(True)
        self.released = None  # True, False, or None: not known
        self.disabled = False
        self.perhaps = set()  # faults that may have been entered since the last reset
        self.away, self.unseen = set(), set()  # nodes that hang or are dead; those command_node never heard
        self.acked = self.count = 0
        self.moving_at = None
        rig.poses[:] = [(t, -1, pose, waited) for t, _, pose, waited in rig.poses]  # of the run before
        rig.due = time.monotonic()
        rig.report_encoder("go_on")
        for name, node in rig.nodes.items():
            if node.poll() is not None:
                rig.spawn(name)
            node.send_signal(signal.SIGCONT)
        self.until(lambda: all(self.there(name) for name in rig.nodes), TIMEOUT)
        self.set_active(True)
        # A command_node that was just started has not heard of the others yet, and misses nobody it has not.
        self.enable(False)
        self.until(lambda: rig.status()[0] in ("RELEASED", "FAULT"), TIMEOUT)
        self.step(10)
        self.enable(True)
        self.be_watched()
        self.before = time.time_ns()
        self.reset_it()
        self.wait_for_status(10.0)

    def there(self, name):
        """Return whether a node is active."""
        from lifecycle_msgs.srv import GetState

        if not self.rig.client(GetState, f"{name}/get_state").service_is_ready():
            return False
        label = self.call(GetState, f"{name}/get_state").current_state.label
        return name == "command_node" or label == "active"

    @noted
    def step(self, count=1):
        """Let control steps pass, and look at what was sent."""
        for _ in range(count):
            self.rig.now = self.rig.now + PERIOD if self.rig.simulated else time.time_ns()
            self.supply()
            self.rig.tell_clock()
            self.hear()
            self.check()

    def supply(self):
        """Publish what the robot, the encoder and the planner publish in a control step."""
        rig = self.rig
        self.count += 1
        if self.joints == "split":
            for who in (0, 1):
                rig.tell_joints(who, rig.joint_names[who : who + 1], rig.pose[who : who + 1])
        elif self.joints == "of others":
            rig.tell_joints(0, rig.joint_names, rig.pose)
            rig.tell_joints(1, ["finger"], [float("nan")])
        elif self.joints == "not finite":
            rig.tell_joints(0, rig.joint_names, [float("nan")] * 2)
        elif self.joints in ("fine", "doubled"):
            rig.tell_joints(0, rig.joint_names, rig.pose)
        if self.joints == "doubled":
            rig.tell_joints(1, rig.joint_names, rig.pose + 0.5)
            self.note(rig.pose + 0.5)
        if self.joints not in ("lost", "not finite"):
            self.note(rig.pose)
        if self.camera == "fine" or (self.camera == "slow" and self.count % 10 == 0):
            rig.tell_latent(900.0 if self.strange else 0.1)
        if self.count % 2 == 0 and self.plan != "none":
            if self.plan == "of the past":
                rig.tell_plan(self.action, start=max(0, rig.now - 10 * SECOND))
            else:
                rig.tell_plan((9.0, 0.1) if self.plan == "wild" else self.action)

    def note(self, pose):
        self.rig.poses.append((time.time_ns(), self.count, pose.copy(), self.rig.waited()))
        del self.rig.poses[:-1000]

    def hear(self):
        """Wait for the control step's command: in simulated time it is known which; real time passes."""
        rig = self.rig
        began = time.monotonic()
        if not rig.simulated:
            rig.due = max(rig.due + PERIOD / SECOND, began)
            self.spin(rig.due - began)
            self.acked = self.count
        else:
            # Where it sends nothing, nothing tells when it has come so far.
            ticks = self.active and self.released is False and "command_node" not in self.away
            while time.monotonic() < began + (0.2 if ticks else 0.01):
                self.spin(0.002)
                if rig.executed and stamp(rig.executed[-1][1]) == rig.now:
                    self.acked = self.count
                    break

    def spin(self, seconds):
        """Hear messages for some seconds, with the heartbeat of the encoder."""
        end = time.monotonic() + seconds
        while True:
            self.rig.tell_health()
            self.rig.tell_switch()
            self.rig.observer.spin(max(0.0, min(0.05, end - time.monotonic())))
            if time.monotonic() >= end:
                return

    @noted
    def until(self, condition, seconds, again=None):
        """Let control steps pass until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:g} s in vain: {self.describe()}"
            (again or self.step)()

    def call(self, kind, name, request=None):
        """Return the answer of a service, control steps passing.

        A server that was killed stays in the graph for seconds: what was asked of it is asked again.
        """
        client = self.rig.client(kind, name)
        end = time.monotonic() + TIMEOUT
        while True:
            self.until(client.service_is_ready, TIMEOUT)
            future, again = client.call_async(request or kind.Request()), time.monotonic() + 3.0
            self.until(lambda: future.done() or time.monotonic() > again, TIMEOUT)  # noqa: B023
            if future.done():
                return future.result()
            client.remove_pending_request(future)
            assert time.monotonic() < end, f"{name} does not answer: {self.describe()}"

    # What was sent.

    def check(self):
        """Hold every message against what is true."""
        rig = self.rig
        for name in rig.nodes:
            if name not in self.away:
                rig.check_alive(name)
        for moment, message in rig.executed:
            velocity = np.array(message.velocity)
            if moment > self.before:
                self.check_moving(moment, velocity.any(), "command/executed")
            rig.pose = rig.pose + velocity * PERIOD / SECOND
        del rig.executed[:]
        for moment, message in rig.commands:
            self.check_command(moment, message)
        del rig.commands[:]
        self.check_status()

    def check_command(self, moment, message):
        velocity = self.check_limits(moment, message)
        moving = velocity.any()
        self.moving_at = moment if moving else None
        if moment < self.before:
            return
        self.check_moving(moment, moving, f"command/{self.rig.interface}")
        for since, until in self.silences:
            told = f"a command {1e-9 * (moment - since):.3f} s after the topic was released"
            assert not since < moment < (until or moment + 1), f"{told}: {self.describe()}"
        if moving:
            self.motion.append(moment)

    def check_status(self):
        """Moving commands are sent while status is RUNNING; which of two topics is heard first is chance."""
        # A status that came later shows that all from around the command are here: a busy reader gets what
        # came by one topic before what came by another.
        until = (self.rig.statuses[-1][0] if self.rig.statuses else 0) - 0.1 * SECOND
        while self.motion and self.motion[0] < until:
            moment = self.motion.pop(0)
            if moment < self.rig.spawned + DISCOVERY * SECOND:
                continue  # wait_for_status waits for it
            if self.rig.lost_status(moment):
                self.unsaid = []
                continue
            reported = [(when - moment, text.data) for when, text in self.rig.statuses]
            around = [text for when, text in reported if abs(when) <= 0.1 * SECOND]
            around += [text for when, text in reported if when < -0.1 * SECOND][-1:]
            told = f"a moving command while status was {around}"
            # Of statuses that follow each other at once a slow reader may get the last one alone.
            unsaid = around and not any(text.startswith("RUNNING") for text in around)
            self.unsaid = [*self.unsaid, moment] if unsaid else []
            assert not self.unsaid or moment - self.unsaid[0] < 0.3 * SECOND, told

    def check_moving(self, moment, moving, topic):
        for since, until, waited in self.stops + self.let_go:
            allowed = SECOND * (0 if waited is None else IN_FLIGHT + self.rig.waited() - waited)
            told = f"{topic} moves {1e-9 * (moment - since):.3f} s after a stop, or a release of the switch"
            assert not (moving and since + allowed < moment < (until or moment + 1)), (
                f"{told}: {self.describe()}"
            )

    def check_limits(self, moment, message):
        """Return the velocities (2,) of a command that is within all limits."""
        if self.rig.interface == "twist":
            velocity = np.array([message.twist.linear.x, message.twist.linear.y])
            assert message.twist.linear.z == message.twist.angular.x == message.twist.angular.y == 0
            assert message.twist.angular.z == 0
        else:
            assert tuple(message.joint_names) == self.rig.joint_names
            velocity = np.array([point.velocities for point in message.points])
            assert not velocity[-1].any(), "the trajectory does not end at rest"
            assert (velocity >= LOW - 1e-9).all()
            assert (velocity <= HIGH + 1e-9).all()
            velocity = velocity.any(0).astype(float) * velocity[0]
            ends = np.array([point.positions for point in message.points])
            period = PERIOD / SECOND
            # While a plan is played, its positions may be ahead of the measured ones.
            reach = HIGH * (LEASH + 1.5 * period) if velocity.any() else HIGH * period
            # Of each joint by itself: they may be reported one by one.
            known = np.array(self.measured(moment)).reshape(-1, 1, 2)
            away = np.abs(ends - known).min(0).max() if len(known) else 0.0
            told = f"asks for {ends.tolist()}, {away:.3f} rad from the measured pose {self.rig.pose.tolist()}"
            assert away <= reach + 1e-6, f"{told}: {self.describe()}"
        assert np.isfinite(velocity).all()
        assert (velocity >= LOW - 1e-9).all()
        assert (velocity <= HIGH + 1e-9).all()
        return velocity

    def measured(self, moment):
        """Return the poses that command_node may have known of when it sent something."""
        real, waited = 0.05 if self.rig.simulated else 0.3, self.rig.waited()
        last = self.acked - 4 if self.rig.simulated else self.count
        # For as long as it had no processor it has not heard of them.
        known = [
            n >= last or 1e-9 * (moment - t) < real + max(0.0, waited - w) for t, n, _, w in self.rig.poses
        ]
        first = known.index(True) if True in known else len(known)
        # Joints that are lost leave a gap: until the next ones are heard, the last ones before it are known.
        return [pose for _, _, pose, _ in self.rig.poses[max(0, first - 2) :]]

    # What status reports.

    def describe(self):
        """Return what is true and what status reports, for people."""
        keys = "joints camera plan strange stopped encoder_fault active released disabled perhaps away unseen"
        true = {key: getattr(self, key) for key in keys.split()} | {"encoder": self.rig.encoder_report}
        return f"status is {self.rig.status()}, true is {true}, watched are {sorted(self.rig.watched)}"

    def holds(self):
        """Return the causes that keep the robot still now."""
        causes = {name.removesuffix("_node") for name in self.away - self.unseen}
        if self.joints in ("lost", "not finite") or (self.joints == "doubled" and self.by_joints):
            causes.add("joints")
        if self.camera in ("lost", "frozen"):
            causes.add("camera" if self.camera == "lost" else "frozen")
        if self.rig.encoder_report[0] is None and "encoder" not in self.unseen:
            causes.add("encoder")
        if self.plan in ("none", "of the past"):
            causes.add("plan")
        if self.rig.switch is not True:
            causes.add("switch")
        return causes

    def may_hold(self):
        """Return the causes that may keep the robot still now, or not."""
        causes = {name.removesuffix("_node") for name in self.unseen}
        causes |= {"camera"} if self.camera == "slow" or self.rig.frames_are_late() else set()
        causes |= {"joints"} if self.joints == "doubled" else set()
        return causes | ({"monitor"} if self.strange else set())

    @property
    def by_joints(self):
        """Whether the actions are joints'."""
        return self.rig.interface != "twist"

    def true(self):
        """Return whether status reports what is true."""
        state, reason = self.rig.status()
        named = {
            cause
            for cause, words in CAUSES.items()
            if any(re.search(rf"\b{word}\b", reason) for word in words)
        }
        if not self.active:
            return "inactive" in named or (self.stopped and state == "FAULT")
        sure = {"stop"} if self.stopped else set()
        sure |= {"encoder"} if self.encoder_fault else set()
        if sure or state == "FAULT":
            return state == "FAULT" and bool(named & (sure | self.perhaps))
        holds = self.holds()
        if state == "RELEASED":
            return self.released is not False
        if state == "RUNNING":
            return not holds and self.released is not True
        return bool(named & (holds | self.may_hold()))

    @noted
    def wait_for_status(self, seconds=SOON):
        """Wait until status reports what is true, longer where command_node had no processor."""
        self.history.append(sys._getframe(2).f_code.co_name)
        began, waited, count = time.monotonic(), self.rig.waited(), self.count
        if self.away or self.rig.encoder_report[0] is None:  # the lease grows where heartbeats came late
            seconds += LONGEST_LEASE
        while not self.true():
            late = time.monotonic() - began > seconds + max(0.0, self.rig.waited() - waited)
            told = f"not true {time.monotonic() - began:.1f} s and {self.count - count} control steps later"
            assert not (late and self.count - count > SOON_STEPS), f"{told}: {self.describe()}"
            if not self.stopped and self.rig.status()[1].startswith("command_node did not run"):  # too busy
                self.reset_it()
            self.step()
        self.step(3)
        self.rules += 1

    # What happens.

    @rule(count=steps)
    def pass_time(self, count):
        self.step(count)
        self.wait_for_status()

    def publish_stop(self, quality, data):
        from rclpy.duration import Duration
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from std_msgs.msg import Bool

        profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        if quality == "best effort":
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
        if quality == "transient local":
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        button = self.rig.node.create_publisher(Bool, "command/emergency_stop", profile)
        self.until(lambda: button.get_subscription_count() > 0, TIMEOUT)
        sent, waited = time.time_ns(), self.rig.waited()
        if data:
            self.end(self.silences, sent)  # standing still may be commanded again
        button.publish(Bool(data=data))
        if data and quality != "best effort":  # a new publisher may take a moment to become known to the node
            assert button.wait_for_all_acked(Duration(seconds=TIMEOUT))
            sent, waited = time.time_ns(), self.rig.waited()
        if data and quality == "best effort":
            # The message is lost where the reader does not know its publisher yet: such a button repeats it.
            end = time.monotonic() + (TIMEOUT if self.active else SOON)
            while self.rig.status()[0] != "FAULT" and time.monotonic() < end:
                self.step()
                sent, waited = time.time_ns(), self.rig.waited()
                button.publish(Bool(data=data))
        return button, sent, waited

    @rule(quality=st.sampled_from(QUALITIES), times=st.integers(1, 2))
    @precondition(lambda self: "command_node" not in self.away)
    def stop_by_topic(self, quality, times):
        for _ in range(times):
            button, sent, waited = self.publish_stop(quality, True)
            self.begin_stop(sent, waited)
            self.wait_for_status()
            # A reset must not overtake it.
            self.until(lambda sent=sent: time.time_ns() > sent + 0.2 * SECOND, TIMEOUT)
            self.rig.node.destroy_publisher(button)

    @rule(quality=st.sampled_from(QUALITIES))
    @precondition(lambda self: "command_node" not in self.away)
    def let_go_of_the_button(self, quality):
        button, _, _ = self.publish_stop(quality, False)
        self.step(5)
        self.rig.node.destroy_publisher(button)
        self.wait_for_status()

    def begin_stop(self, since, waited):
        self.stopped = True
        self.stops.append([since, None, waited])
        self.end(self.silences, since)  # standing still may be commanded again

    @rule()
    def stop_by_service(self):
        from std_srvs.srv import Trigger

        self.end(self.silences, time.time_ns())
        assert self.call(Trigger, "command/emergency_stop").success
        self.begin_stop(time.time_ns(), None)
        self.wait_for_status()

    @staticmethod
    def end(intervals, moment):
        for interval in intervals:
            interval[1] = interval[1] or moment

    @rule()
    def reset(self):
        self.reset_it()
        self.wait_for_status()

    def reset_it(self):
        from std_srvs.srv import Trigger

        asked = time.time_ns()
        self.end(self.stops, asked)
        if self.active:
            self.end(self.silences, asked)
        stopped, self.stopped = self.stopped, False
        self.perhaps |= {"stop"} if stopped else set()  # until the answer is there
        # One that comes together with a stop that was on its way is refused.
        self.until(lambda: self.call(Trigger, "command/reset").success, TIMEOUT)
        self.encoder_fault = self.rig.encoder_report[0] == "fault"
        self.perhaps = set()
        # Whether it stays released while planning is disabled, or a node that hangs may report that: either.
        self.released = None if self.disabled or self.away else False

    def enable(self, data):
        from std_srvs.srv import SetBool

        if data and self.active:
            self.end(self.silences, time.time_ns())
        assert self.call(SetBool, "planner/enable", SetBool.Request(data=data)).success
        self.disabled = not data
        self.released = True if not data else False if "command_node" not in self.away else None

    @rule(data=st.booleans())
    @precondition(lambda self: "planner_node" not in self.away)
    def enable_or_disable_planning(self, data):
        self.enable(data)
        self.wait_for_status()
        if not data:
            self.be_silent()

    @rule()
    @precondition(lambda self: self.active)
    def release(self):
        from std_srvs.srv import Trigger

        assert self.call(Trigger, "command/release").success
        self.released = True
        self.wait_for_status()
        self.be_silent()

    def be_silent(self):
        """Give the robot time to come to rest; nothing may be sent from then on."""
        began, count = time.monotonic(), self.count
        # While the joints are not known, neither is whether it rests.
        self.until(lambda: time.monotonic() > began + 1.2 and self.count > count + 24, TIMEOUT)
        if not self.holds() | self.may_hold():
            self.silences.append([time.time_ns(), None])
        self.step(5)

    @rule(plan=st.sampled_from(["fine", "fine", "none", "wild", "of the past"]), action=st.tuples(tame, tame))
    def plans(self, plan, action):
        self.plan, self.action = plan, action
        self.perhaps |= {"limits"} if plan == "wild" else set()
        if plan == "none":
            self.step(12)  # the last one is played to its end
        self.wait_for_status()

    @rule(distance=distances, at_once=st.booleans(), count=steps)
    def somebody_moves_the_joints(self, distance, at_once, count):
        for _ in range(1 if at_once else 10):
            self.rig.pose = self.rig.pose + distance / (1 if at_once else 10)
            self.step()
        self.step(count)
        self.wait_for_status()

    @rule(joints=st.sampled_from(["fine", "fine", "lost", "not finite", "split", "doubled", "of others"]))
    def joints_are(self, joints):
        self.joints = joints
        self.wait_for_status()

    @rule(camera=st.sampled_from(["fine", "fine", "lost", "slow", "frozen"]))
    def camera_is(self, camera):
        if camera == "frozen":
            self.rig.report_encoder("hold", "camera/image_raw: the camera is frozen: restart the camera")
        elif self.camera == "frozen":
            self.rig.report_encoder("go_on")
        self.camera = camera
        self.wait_for_status()

    @rule(asks=st.sampled_from(["go_on", "fault", None]))
    @precondition(lambda self: self.camera != "frozen")
    def encoder_says(self, asks):
        self.rig.report_encoder(asks, "the model broke" if asks == "fault" else "")
        self.encoder_fault = self.encoder_fault or asks == "fault"
        self.unseen.discard("encoder")
        self.wait_for_status(3.0)

    @rule(switch=st.sampled_from([True, True, False, None]))
    def switch_is(self, switch):
        self.set_switch(switch)
        self.wait_for_status(SOON + SWITCH_TIMEOUT)

    def set_switch(self, switch):
        """Press or release the dead-man switch, or lose it (None)."""
        rig = self.rig
        self.end(self.let_go, time.time_ns())
        rig.switch, rig.last_switch = switch, -1.0
        rig.tell_switch()
        if switch is not True:
            since = time.time_ns() + round(SECOND * (0 if switch is False else SWITCH_TIMEOUT))
            self.let_go.append([since, None, rig.waited()])

    @rule(strange=st.booleans())
    def pictures_are_strange(self, strange):
        self.strange = strange
        self.perhaps |= {"monitor"} if strange else set()
        self.step(20)
        self.wait_for_status(3.0)

    @rule(leap=st.sampled_from([-5.0, -0.3, 0.3, 5.0]))
    @precondition(lambda self: self.rig.simulated)
    def the_clock_jumps(self, leap):
        self.rig.now = max(SECOND, self.rig.now + round(leap * SECOND))
        self.wait_for_status()

    @rule()
    @precondition(lambda self: self.rig.simulated and self.active and not self.released)
    def the_clock_stands(self):
        def stands():
            self.spin(0.02)
            self.check()

        began, moved = time.monotonic(), self.moving_at

        def told():
            state, reason = self.rig.status()
            # Where nobody knows where the joints are, or were a while ago, nothing is sent: the last
            # trajectory has ended at rest.
            still = self.moving_at is None or (
                self.by_joints and time.time_ns() > self.moving_at + 0.5 * SECOND
            )
            named = "clock" in reason or state == "FAULT" or not moved or self.holds()
            return still and named and time.monotonic() > began + 0.7

        self.until(told, 3.0 + LONGEST_LEASE, again=stands)
        self.wait_for_status()

    @rule(name=st.sampled_from(["planner_node", "monitor_node"]), killed=st.booleans())
    @precondition(lambda self: not self.away)
    def a_node_hangs_or_dies(self, name, killed):
        node = self.rig.nodes[name]
        node.send_signal(signal.SIGKILL if killed else signal.SIGSTOP)
        if killed:
            node.wait()
        self.away.add(name)
        self.wait_for_status(4.0)

    @rule()
    @precondition(lambda self: self.away)
    def it_is_back(self):
        for name in sorted(self.away):
            node = self.rig.nodes[name]
            if node.poll() is None:
                node.send_signal(signal.SIGCONT)
            else:
                self.rig.spawn(name)
                if name == "planner_node":
                    self.disabled, self.released = False, None
                    self.end(self.silences, time.time_ns())
        back, self.away = self.away, set()
        self.unseen = self.unseen | back  # until they are heard
        self.until(lambda: all(self.there(name) for name in back), TIMEOUT)
        self.be_watched()
        self.unseen -= back
        self.wait_for_status(4.0)

    def be_watched(self):
        """Wait until command_node has heard every node that runs: it misses nobody before."""
        running = {"encoder_node"} if self.rig.encoder_report[0] is not None else set()
        running |= {"planner_node", "monitor_node"} - self.away
        self.until(lambda: running <= self.rig.watched, TIMEOUT)

    @rule()
    def command_node_is_killed_and_respawned(self):
        rig = self.rig
        rig.nodes["command_node"].kill()
        rig.nodes["command_node"].wait()
        rig.spawn("command_node")
        self.moving_at, self.active = None, True
        self.unseen |= self.away | ({"encoder"} if rig.encoder_report[0] is None else set())
        self.encoder_fault = rig.encoder_report[0] == "fault"
        self.perhaps |= {"encoder"}
        if self.released and not (self.disabled and "planner_node" not in self.away):
            self.released = None
        self.end(self.silences, time.time_ns())
        self.wait_for_status(20.0)
        self.be_watched()

    def set_active(self, active):
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState, GetState

        def there():
            label = self.call(GetState, "command_node/get_state").current_state.label
            return (label == "active") == active

        if there():
            return
        if active:
            self.end(self.silences, time.time_ns())
        request = ChangeState.Request(transition=Transition(label="activate" if active else "deactivate"))
        self.call(ChangeState, "command_node/change_state", request)
        assert there()
        self.active = active
        if not active:
            self.silences.append([time.time_ns(), None])

    @rule(count=steps, distance=distances)
    @precondition(lambda self: self.active)
    def command_node_is_not_active_for_a_while(self, count, distance):
        self.set_active(False)
        self.wait_for_status()
        self.rig.pose = self.rig.pose + distance
        self.step(count)
        self.set_active(True)
        if self.released and not self.disabled:
            self.released = None
        self.wait_for_status(2.0)

    def teardown(self):
        self.rig.runs.append(self.rules)


def stamp(message):
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


def drive(rig, runs):
    """Make the runs, each of at least ten rules."""

    class Machine(SafetyMachine):
        pass

    Machine.rig = rig
    options = settings(
        max_examples=runs + 1 + runs // 3 * (runs > 20),  # the first one is short, and some others
        stateful_step_count=RULES,
        derandomize=runs <= 20,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # a run is short, and making it shorter takes minutes
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    began = time.monotonic()
    try:
        run_state_machine_as_test(Machine, settings=options)
    finally:
        whole = [rules for rules in rig.runs if rules >= 10]
        print("\n".join(f"failure {number}: {said}" for number, said in enumerate(rig.failures, start=1)))
        print(
            f"{rig.interface}, {'simulated' if rig.simulated else 'real'} time: {len(rig.runs)} runs, "
            f"{len(whole)} of at least 10 rules, {sum(rig.runs)} rules, {time.monotonic() - began:.0f} s"
        )
    assert len(whole) >= runs


@pytest.fixture
def strict(checkpoint, arm_checkpoint, tmp_path):
    """Return checkpoints by interface, for which pictures are strange by their latent's length alone."""
    import json
    import shutil

    folders = {}
    for interface, folder in (("twist", checkpoint), ("joint_trajectory", arm_checkpoint)):
        folders[interface] = shutil.copytree(folder, tmp_path / interface)
        config = json.loads((folders[interface] / "config.json").read_text())
        config["thresholds"] |= {"surprise": 1e4, "norm_low": 0.1, "norm_high": 1e3}
        (folders[interface] / "config.json").write_text(json.dumps(config))
    return folders


@pytest.mark.timeout(120 + 20 * RUNS)
@pytest.mark.parametrize("interface", ["twist", "joint_trajectory"])
def test_whatever_happens_in_simulated_time(processes, observer, strict, interface):
    drive(Rig(observer, processes, strict[interface], interface, simulated=True), RUNS)


@pytest.mark.timeout(120 + 60 * RUNS)
def test_whatever_happens_in_real_time(processes, observer, strict):
    interface = "joint_trajectory"
    drive(Rig(observer, processes, strict[interface], interface, simulated=False), max(2, RUNS // 10))
