"""The other side of command_node, as messages: camera, joints and planner of a robot."""

import pytest


class Robot:
    """Publishes what a robot and its planner would; ``drive`` is meant for Observer.until(again=...)."""

    def __init__(self, observer):
        from geometry_msgs.msg import TwistStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import String
        from trajectory_msgs.msg import JointTrajectory

        self.observer, node = observer, observer.node
        self.joints = node.create_publisher(JointState, "joint_states", 10)
        self.latents = node.create_publisher(Image, "latent", 10)
        self.plans = node.create_publisher(JointTrajectory, "plan", 10)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.twists = observer.collect(TwistStamped, "command/twist", 1000)
        self.executed = observer.collect(JointState, "command/executed", 1000)
        self.status = observer.collect(String, "status", latched)
        self.clock = lambda: node.get_clock().now().nanoseconds

    def stamp(self, message, time=None):
        """Stamp a message with now."""
        time = self.clock() if time is None else time
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
        return message

    def say_joints(self, **fields):
        """Publish joint states."""
        from sensor_msgs.msg import JointState

        fields = {"name": ["panda_joint1"], "position": [0.0]} | fields
        self.joints.publish(self.stamp(JointState(**fields)))

    def say_latent(self):
        """Publish a latent, as if a frame had just been perceived."""
        from sensor_msgs.msg import Image

        self.latents.publish(
            self.stamp(Image(height=1, width=64, encoding="32FC1", step=256, data=bytes(256)))
        )

    def say_plan(self, action=(0.2, -0.1), names=("linear_x", "linear_y"), steps=10):
        """Publish a plan that begins now."""
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        message = self.stamp(JointTrajectory(joint_names=list(names)))
        message.points = [JointTrajectoryPoint(velocities=list(action)) for _ in range(steps)]
        self.plans.publish(message)

    def drive(self, **plan):
        """Publish all of it."""
        self.say_joints()
        self.say_latent()
        self.say_plan(**plan)

    def state(self):
        """Return the last status, such as HOLD."""
        return self.status[-1].data.partition(":")[0] if self.status else ""

    def reason(self):
        """Return why."""
        return self.status[-1].data.partition(": ")[2] if self.status else ""

    @staticmethod
    def moves(twist):
        """Return whether a command moves the robot."""
        return twist.twist.linear.x != 0 or twist.twist.linear.y != 0

    def moving(self):
        """Return whether the last command moves the robot."""
        return bool(self.twists) and self.moves(self.twists[-1])

    def get_moving(self):
        """Drive until commands go out."""
        self.observer.until(self.moving, again=self.drive)
        self.observer.until(lambda: self.state() == "RUNNING", again=self.drive)

    def at_rest(self, count=5):
        """Return whether the last ``count`` commands were standing still."""
        return len(self.twists) >= count and not any(map(self.moves, self.twists[-count:]))


@pytest.fixture
def robot(observer):
    """Return a Robot in this test's domain."""
    return Robot(observer)


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

    def trigger(self, name):
        """Return the answer of a Trigger service."""
        from std_srvs.srv import Trigger

        return self.observer.call(Trigger, name)

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
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request(transition=Transition(label=transition))
        return self.observer.call(ChangeState, f"{node}/change_state", request).success

    def diagnosis(self, node):
        """Return level, message and {key: value} of the newest diagnostics of a node."""
        for array in reversed(self.reports):
            for status in array.status:
                if status.name == f"/{node}":
                    return status.level, status.message, {v.key: v.value for v in status.values}
        return b"", "", {}

    def says(self, node, words):
        """Return whether a node's newest diagnostics say these words."""
        return words in self.diagnosis(node)[1]


@pytest.fixture
def ask(observer):
    """Return an Asking in this test's domain."""
    return Asking(observer)
