"""The other side of command_node, as messages: camera, joints and planner of a robot."""

import itertools
import time
import uuid

import pytest

INTERFACES = ("twist", "twist_unstamped", "velocities", "joint_trajectory")


class Robot:
    """Publishes what a robot and its planner would; ``drive`` is meant for Observer.until(again=...).

    ``interface`` is what it is commanded by: its actions are a twist, or the velocities of two joints.
    """

    def __init__(self, observer, interface="twist"):
        from diagnostic_msgs.msg import DiagnosticStatus
        from geometry_msgs.msg import Twist, TwistStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Float64MultiArray, String
        from trajectory_msgs.msg import JointTrajectory

        self.observer, node = observer, observer.node
        self.interface = interface
        twist = interface.startswith("twist")
        self.action_names = ("linear_x", "linear_y") if twist else ("joint1", "joint2")
        self.joint_names = ["panda_joint1"] if twist else list(self.action_names)
        self.pose = [0.0] * len(self.joint_names)
        self.instance = uuid.uuid4().hex
        self.health_of = {}  # node -> (asks_for, reason, values); its heartbeat is part of ``drive``
        self._health, self._beat = {}, 0.0
        self.watched = False  # by a person, who resets what a busy machine has caused
        self.joints = node.create_publisher(JointState, "joint_states", 10)
        self.latents = node.create_publisher(Image, "latent", 10)
        self.plans = node.create_publisher(JointTrajectory, "plan", 10)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        kinds = (TwistStamped, Twist, Float64MultiArray, JointTrajectory)
        kind = dict(zip(INTERFACES, kinds, strict=True))[interface]
        topic = f"command/{'twist' if twist else interface}"
        self.sent = {"commands": [], "executed": [], "status": []}  # when, ns
        self.twists = self.commands = observer.collect(kind, topic, 1000, self.sent["commands"])
        self._health_kind = DiagnosticStatus, latched
        self.executed = observer.collect(JointState, "command/executed", 1000, self.sent["executed"])
        self.status = observer.collect(String, "status", latched, self.sent["status"])
        observer.notes.append(lambda: [message.data for message in self.status[-5:]])
        self.clock = lambda: node.get_clock().now().nanoseconds

    def stamp(self, message, time=None):
        """Stamp a message with now."""
        time = self.clock() if time is None else time
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
        return message

    def publish_joints(self, **fields):
        """Publish joint states."""
        from sensor_msgs.msg import JointState

        fields = {"name": self.joint_names, "position": self.pose} | fields
        self.joints.publish(self.stamp(JointState(**fields)))

    def publish_latent(self, time=None):
        """Publish a latent, as if a frame of this time, or of now, had just been perceived."""
        from sensor_msgs.msg import Image

        latent = Image(height=1, width=64, encoding="32FC1", step=256, data=bytes(256))
        self.latents.publish(self.stamp(latent, time))

    def report(self, node, asks="go_on", reason="", **values):
        """Be a node that reports its health, now and with every heartbeat from now on."""
        self.health_of[node] = asks, reason, values
        self._beat = 0.0
        self.beat()

    def beat(self):
        """Publish the heartbeats of the nodes that the robot is, where they are due.

        A command_node that a busy machine did not let run for a second wants a person to look: here one does.
        """
        from diagnostic_msgs.msg import KeyValue
        from std_srvs.srv import Trigger

        if (
            self.watched
            and self.status
            and self.status[-1].data.startswith("FAULT: command_node did not run for")
        ):
            self.observer.ask_once(Trigger, "command/reset")
        if time.monotonic() - self._beat < 0.1:
            return
        self._beat = time.monotonic()
        kind, latched = self._health_kind
        for node, (asks, reason, values) in self.health_of.items():
            if node not in self._health:
                self._health[node] = self.observer.node.create_publisher(kind, f"{node}/health", latched)
            pairs = {"asks_for": asks, "instance": self.instance, "state": "active"} | values
            message = kind(name=f"/{node}", message=reason or "fine")
            message.values = [KeyValue(key=key, value=value) for key, value in pairs.items()]
            self._health[node].publish(message)

    def publish_plan(self, action=(0.2, -0.1), names=None, steps=10):
        """Publish a plan that begins now."""
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        message = self.stamp(JointTrajectory(joint_names=list(names or self.action_names)))
        message.points = [JointTrajectoryPoint(velocities=list(action)) for _ in range(steps)]
        self.plans.publish(message)

    def drive(self, **plan):
        """Publish all of it."""
        self.beat()
        self.publish_joints()
        self.publish_latent()
        self.publish_plan(**plan)

    def state(self):
        """Return the last status, such as HOLD."""
        return self.status[-1].data.partition(":")[0] if self.status else ""

    def reason(self):
        """Return why."""
        return self.status[-1].data.partition(": ")[2] if self.status else ""

    def supply(self):
        """Publish all of it but plans."""
        self.beat()
        self.publish_joints()
        self.publish_latent()

    def moves(self, command):
        """Return whether a command moves the robot, or leads it to another place than it is held at."""
        if self.interface.startswith("twist"):
            linear = getattr(command, "twist", command).linear
            return linear.x != 0 or linear.y != 0
        if self.interface == "velocities":
            return any(command.data)
        first, last = command.points
        return any(first.velocities) or first.positions != last.positions

    def be_read(self, again):
        """Let a second of control steps pass, after which command_node has read what was sent before.

        Where a busy machine kept it from reading, it says that messages are missing, reads them, and goes on.
        """
        now = time.time_ns()
        self.observer.until(lambda: len(self.since(now, "executed")) >= 20, again=again)

    def stands(self, again=None, steps=8):
        """Let control steps pass and require that no command of theirs moves the robot.

        What was sent before the call does not count: commands and states come by topics of their own, and to
        a busy machine in any order.
        """
        now = time.time_ns()
        self.observer.until(lambda: len(self.since(now, "executed")) >= steps, again=again)
        told = [message.data for message in self.status[-5:]]
        assert not any(map(self.moves, self.since(now, "commands"))), told
        assert not any(any(message.velocity) for message in self.since(now, "executed")), told

    def since(self, moment, topic):
        """Return the "commands", "executed" or "status" sent after a moment of the wall clock, in ns."""
        both = zip(reversed(getattr(self, topic)), reversed(self.sent[topic]), strict=False)
        return [message for message, sent in itertools.takewhile(lambda pair: pair[1] > moment, both)]

    def moving(self):
        """Return whether the last command moves the robot."""
        return bool(self.twists) and self.moves(self.twists[-1])

    def get_moving(self):
        """Drive until commands go out."""
        self.watched = True
        self.observer.until(self.moving, again=self.drive)
        self.observer.until(lambda: self.state() == "RUNNING", again=self.drive)
        self.watched = False

    def at_rest(self, count=5):
        """Return whether the last ``count`` commands were standing still."""
        return len(self.twists) >= count and not any(map(self.moves, self.twists[-count:]))


@pytest.fixture
def robot(observer):
    """Return a Robot in this test's domain."""
    return Robot(observer)


@pytest.fixture(params=INTERFACES)
def any_robot(request, observer):
    """Return a Robot for each interface in turn."""
    return Robot(observer, request.param)


@pytest.fixture
def start_command(request, processes):
    """Return a function that starts a command_node for a Robot on real time."""

    def start(robot, **parameters):
        kind = "checkpoint" if robot.interface.startswith("twist") else "arm_checkpoint"
        words = {"checkpoint": request.getfixturevalue(kind), "command.interface": robot.interface}
        if robot.interface == "joint_trajectory":
            words |= {"limits.position_low": "[-50.0, -50.0]", "limits.position_high": "[50.0, 50.0]"}
        return processes.node("command_node", config=False, **words | parameters)

    return start


@pytest.fixture
def command(processes, checkpoint):
    """Return a running command_node on real time, with the default parameters."""
    return processes.node("command_node", config=False, checkpoint=checkpoint)


class Asking:
    """Services and diagnostics of our nodes, asked from a test."""

    def __init__(self, observer):
        from diagnostic_msgs.msg import DiagnosticArray

        self.observer = observer
        self.reports = observer.collect(DiagnosticArray, "/diagnostics")

    def trigger(self, name, again=None):
        """Return the answer of a Trigger service; ``again()`` is called meanwhile."""
        from std_srvs.srv import Trigger

        return self.observer.call(Trigger, name, again=again)

    def set_parameter(self, node, name, value):
        """Set a parameter; return the result and the value that holds afterwards."""
        from rcl_interfaces.msg import Parameter as Message
        from rcl_interfaces.srv import GetParameters, SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self.observer.call(SetParameters, f"{node}/set_parameters", request).results
        request = GetParameters.Request(names=[name])
        (kept,) = self.observer.call(GetParameters, f"{node}/get_parameters", request).values
        return result, Parameter.from_parameter_msg(Message(name=name, value=kept)).value

    def change_state(self, node, transition):
        """Return whether a lifecycle transition succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState, GetState

        request = ChangeState.Request(transition=Transition(label=transition))
        success = self.observer.call(ChangeState, f"{node}/change_state", request).success
        if not success and len(self.observer.asked) > 1:  # the answer to the first time was lost
            after = {"configure": "inactive", "activate": "active", "deactivate": "inactive"}
            state = self.observer.call(GetState, f"{node}/get_state").current_state.label
            return state == after.get(transition, "unconfigured")
        return success

    def diagnosis(self, node):
        """Return level, message and {key: value} of the newest diagnostics of a node."""
        for array in reversed(self.reports):
            for status in array.status:
                if status.name == f"/{node}":
                    return status.level, status.message, {v.key: v.value for v in status.values}
        return b"", "", {}

    def newest(self):
        """Return the newest diagnostics of each node: (name, message, {key: value})."""
        newest = {status.name: status for array in self.reports for status in array.status}
        return [(name, s.message, {v.key: v.value for v in s.values}) for name, s in newest.items()]

    def diagnosed(self, node, words):
        """Return whether the message of a node's newest diagnostics has these words."""
        return words in self.diagnosis(node)[1]


@pytest.fixture
def ask(observer):
    """Return an Asking in this test's domain; a wait that fails shows the newest diagnostics."""
    asking = Asking(observer)
    observer.notes.append(asking.newest)
    return asking
