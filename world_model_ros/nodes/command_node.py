"""command_node: plays the plan at the control rate; stops the robot by itself when plans stay away."""

import numpy as np
from builtin_interfaces.msg import Duration as DurationMessage
from geometry_msgs.msg import TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from world_model_ros.control.commander import Commander, State
from world_model_ros.control.images import Complaints
from world_model_ros.control.interfaces import check_interface
from world_model_ros.control.joints import match_joints
from world_model_ros.control.limits import Limits
from world_model_ros.model.config import read_spec
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.nodes.running import (
    FRESH,
    HISTORY,
    LATCHED,
    RELIABLE,
    nanoseconds,
    parameter,
    set_stamp,
)
from world_model_ros.planning.action_buffer import ActionBuffer

KINDS = {"twist": TwistStamped, "velocities": Float64MultiArray, "joint_trajectory": JointTrajectory}
ACKNOWLEDGE = Duration(seconds=0.3)  # for the last command, when ending


class CommandNode(Node):
    """Asks the Commander once a control step and sends what it says."""

    def __init__(self):
        super().__init__("command_node")
        checkpoint = parameter(
            self, "checkpoint", "", "Checkpoint folder, or the name of a shipped one such as reach."
        )
        self.interface = parameter(
            self, "command.interface", "twist", "What the robot takes: twist, velocities or joint_trajectory."
        )
        plan_timeout = parameter(
            self,
            "plan_timeout",
            0.5,
            "How long one plan is played without a newer one, in seconds; then the robot stands still.",
            low=0.01,
            high=60.0,
        )
        spec = read_spec(find_checkpoint(checkpoint))
        check_interface(spec.action, self.interface)
        self.spec = spec
        self.period = round(spec.period * 1e9)
        limits = Limits(spec.action.names, spec.action.low, spec.action.high)
        buffer = ActionBuffer(self.period, max(self.period, round(plan_timeout * 1e9)))
        self.commander = Commander(limits, buffer)
        self.complaints = Complaints()
        self.measured: np.ndarray | None = None  # positions of the joints that the actions name
        self.desired: np.ndarray | None = None  # integrated from them while a plan is played
        self.commands = self.create_publisher(KINDS[self.interface], f"command/{self.interface}", RELIABLE)
        self.executed = self.create_publisher(JointState, "command/executed", HISTORY)
        self.status = self.create_publisher(String, "status", LATCHED)
        self.create_subscription(JointTrajectory, "plan", self.on_plan, RELIABLE)
        self.create_subscription(JointState, "joint_states", self.on_joints, FRESH)
        self.create_service(Trigger, "command/reset", self.on_reset)
        self.create_service(Trigger, "command/emergency_stop", self.on_emergency_stop)
        self.create_timer(spec.period, self.tick)

    def on_plan(self, message: JointTrajectory) -> None:
        """Take a plan, or say once why not."""
        lengths = {len(point.velocities) for point in message.points}
        actions = [point.velocities for point in message.points] if len(lengths) == 1 else []
        problem = self.commander.plan(message.joint_names, nanoseconds(message.header.stamp), actions)
        if not problem:
            self.complaints.fine("plan")
        elif self.complaints.trouble("plan", problem):
            self.get_logger().warning(f"a plan was rejected: {problem}")

    def on_joints(self, message: JointState) -> None:
        """Note that the robot is there, and where its joints are."""
        try:
            if self.spec.action.kind == "joint_velocity":
                self.measured = match_joints(self.spec.action.names, message.name, message.position)
            self.commander.joints()
            self.complaints.fine("joint_states")
        except ValueError as error:
            if self.complaints.trouble("joint_states", str(error)):
                self.get_logger().warning(f"joint_states was rejected: {error}")

    def on_reset(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Clear a fault."""
        self.commander.reset()
        response.success, response.message = True, "reset: the next plan moves the robot again"
        return response

    def on_emergency_stop(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Stand still at once, and until reset."""
        self.commander.emergency_stop()
        self.tick()
        response.success, response.message = True, "stopped until command/reset"
        return response

    def tick(self) -> None:
        """Send the command of the control step that begins now."""
        now = self.get_clock().now().nanoseconds
        if now == 0:
            return  # use_sim_time, and no /clock yet
        decision = self.commander.tick(now)
        if decision.changed:
            self.status.publish(String(data=f"{decision.state.name}: {decision.reason}"))
            self.get_logger().info(f"{decision.state.name}: {decision.reason}")
        if decision.action is None:
            return
        # The label first: what the command brings about must not overtake it.
        message = JointState(name=list(self.spec.action.names), velocity=decision.action.tolist())
        set_stamp(message.header.stamp, now)
        self.executed.publish(message)
        self.send(now, decision.action, decision.state is State.RUNNING)

    def send(self, now: int, action: np.ndarray, moving: bool) -> None:
        """Publish one action (dim,) on the interface; standing still keeps the measured positions."""
        if self.interface == "velocities":
            message = Float64MultiArray(data=action.tolist())
        elif self.interface == "twist":
            message = TwistStamped()
            set_stamp(message.header.stamp, now)
            message.header.frame_id = self.spec.action.frame
            for name, value in zip(self.spec.action.names, action.tolist(), strict=True):
                part, axis = name.split("_")
                setattr(getattr(message.twist, part), axis, value)
        else:
            if self.measured is None:
                return
            if not moving or self.desired is None:
                self.desired = self.measured
            self.desired = self.desired + action * self.spec.period
            message = JointTrajectory(joint_names=list(self.spec.action.names))
            set_stamp(message.header.stamp, now)
            message.points = [
                JointTrajectoryPoint(
                    positions=self.desired.tolist(),
                    velocities=action.tolist(),
                    time_from_start=DurationMessage(nanosec=self.period),
                )
            ]
        self.commands.publish(message)

    def close(self) -> None:
        """Send the safe command last, and see that it is taken."""
        self.send(self.get_clock().now().nanoseconds, np.zeros(self.spec.action.dim), moving=False)
        self.commands.wait_for_all_acked(ACKNOWLEDGE)


def make_node() -> CommandNode:
    """Return the node, ready to spin."""
    return CommandNode()
