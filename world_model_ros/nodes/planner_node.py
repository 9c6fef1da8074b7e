"""planner_node: latents to plans, one a model step, made while the block before is running."""

import threading
import traceback
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from world_model_ros.control.images import Complaints, ImageRejectedError
from world_model_ros.control.joints import integrate, match_joints
from world_model_ros.control.worker import Worker
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.device import choose_device
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.nodes.latents import latent_array
from world_model_ros.nodes.running import (
    DEVICE,
    FRESH,
    HISTORY,
    RELIABLE,
    nanoseconds,
    parameter,
    set_stamp,
    subscribe_latched,
)
from world_model_ros.planning.action_buffer import ActionBuffer
from world_model_ros.planning.receding import PlannerConfig, RecedingHorizonPlanner
from world_model_ros.planning.solvers import SOLVERS
from world_model_ros.planning.timeline import ModelStep, Timeline

ACKNOWLEDGE = Duration(seconds=0.05)
STOP_SECONDS = 1.0  # for the plan in flight, when ending


@dataclass(frozen=True)
class Job:
    """One model step to plan for; ``epoch`` tells whether its goal still holds when the plan is done."""

    epoch: int
    goal: np.ndarray
    step: ModelStep
    joints: np.ndarray | None


class PlannerNode(Node):
    """Plans in one worker thread; the callbacks only hand over."""

    def __init__(self):
        super().__init__("planner_node")
        config = self.declare()
        model, self.spec = load_checkpoint(find_checkpoint(self.checkpoint))
        model = model.to(choose_device(self.device, "the parameter device"))
        self.planner = RecedingHorizonPlanner(model, self.spec, config)
        self.planner.warm_up()
        self.period = round(self.spec.period * 1e9)
        buffer = ActionBuffer(self.period, max(self.period, round(self.plan_timeout * 1e9)))
        self.timeline = Timeline(self.period, self.spec.block, self.spec.action.dim, buffer)
        self.lock = threading.Lock()  # guards epoch, timeline and what goes out
        self.epoch = 0
        self.goal: np.ndarray | None = None
        self.latent: np.ndarray | None = None
        self.joints: np.ndarray | None = None
        self.complaints = Complaints()
        self.milliseconds: deque[float] = deque(maxlen=200)
        self.counts = {"plans": 0, "discarded": 0, "failures": 0}
        self._planned = None  # (start, goal) of the worker's last plan
        self.plans = self.create_publisher(JointTrajectory, "plan", RELIABLE)
        self.distances = self.create_publisher(Float32, "goal/distance", RELIABLE)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.worker = Worker(self.plan, self.failed, "planner")
        self.create_subscription(Image, "latent", self.on_latent, RELIABLE)
        subscribe_latched(self, Image, "goal/latent", self.on_goal)
        self.create_subscription(JointState, "command/executed", self.on_executed, HISTORY)
        self.create_subscription(JointState, "joint_states", self.on_joints, FRESH)
        self.create_service(SetBool, "planner/enable", self.on_enable)
        self.create_service(Trigger, "planner/goal_from_camera", self.on_goal_from_camera)
        self.create_timer(1.0, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"planner ready: {self.checkpoint}, {config}")

    def declare(self) -> PlannerConfig:
        """Declare and read the parameters."""
        default = PlannerConfig()
        self.checkpoint = parameter(
            self, "checkpoint", "", "Checkpoint folder, or the name of a shipped one such as reach."
        )
        self.enabled = parameter(self, "enabled", True, "Plan from the start; else planner/enable does it.")
        self.plan_timeout = parameter(
            self,
            "plan_timeout",
            0.5,
            "How long command_node plays one plan, in seconds: the same value there.",
            low=0.01,
            high=60.0,
        )
        self.device = parameter(self, "device", "auto", DEVICE)
        torch.set_num_threads(
            parameter(self, "torch_threads", 1, "CPU threads of the planner.", low=1, high=256)
        )
        return PlannerConfig(
            samples=self.open_parameter("samples", "Candidates in an iteration of the solver", 10000),
            elites=self.open_parameter("elites", "Best candidates that the next draw follows", 1000),
            iterations=self.open_parameter("iterations", "Iterations of the solver", 100),
            horizon=parameter(
                self, "horizon", default.horizon, "Model steps that a plan looks ahead.", low=1, high=50
            ),
            initial_std=self.open_parameter("initial_std", "Of the first draw, in z-scores", 10.0),
            correlation=self.open_parameter(
                "correlation",
                "Of the noise between neighbouring control steps",
                0.999,
            ),
            objective=parameter(
                self,
                "objective",
                default.objective,
                "What candidates are judged by: squared (latent distance), temporal (model steps to the "
                "goal), or auto: temporal where the checkpoint can.",
            ),
            proposal=parameter(
                self,
                "proposal",
                default.proposal,
                "What planning begins with: none, inverse_dynamics, or auto: that where the checkpoint can.",
            ),
            deadline=parameter(
                self,
                "deadline",
                0.0,
                "Milliseconds that a plan may take: it stops at its last finished iteration; 0 for no end.",
                low=0.0,
                high=60000.0,
            )
            or None,
            solver=parameter(
                self, "solver", default.solver, f"How candidates are searched: {', '.join(SOLVERS)}."
            ),
            precision=parameter(
                self,
                "precision",
                default.precision,
                "Of the imagination: fp32, or bf16 where that is faster.",
            ),
            seed=parameter(self, "seed", default.seed, "Seed of the draws.", low=0, high=2**31 - 1),
        )

    def open_parameter(self, name: str, description: str, high: int | float) -> int | float | None:
        """Declare and read a parameter that may be left open, as zero: ROS parameters know no None."""
        zero = type(high)(0)
        described = f"{description}; 0 for what suits the objective."
        return parameter(self, name, zero, described, low=zero, high=high) or None

    def on_latent(self, message: Image) -> None:
        """Hand over the model step that this latent starts, if it starts one."""
        latent = self.checked(message, "latent")
        if latent is None:
            return
        self.latent = latent
        with self.lock:
            step = self.timeline.add_latent(nanoseconds(message.header.stamp), latent)
            if step is not None and self.enabled and self.goal is not None:
                self.worker.submit(Job(self.epoch, self.goal, step, self.joints))

    def on_goal(self, message: Image) -> None:
        """Take a new goal; the plan in flight is discarded."""
        latent = self.checked(message, "goal/latent")
        if latent is not None:
            self.take_goal(latent)

    def take_goal(self, latent: np.ndarray) -> None:
        """Plan towards ``latent`` from the next model step on."""
        with self.lock:
            self.epoch += 1
            self.goal = latent

    def checked(self, message: Image, topic: str) -> np.ndarray | None:
        """Return a message's latent, or say once why not."""
        try:
            latent = latent_array(message, self.spec.model.latent_dim)
        except ImageRejectedError as reason:
            if self.complaints.trouble(topic, str(reason)):
                self.get_logger().warning(f"a message on {topic} was rejected: {reason}")
            return None
        self.complaints.fine(topic)
        return latent

    def on_executed(self, message: JointState) -> None:
        """Remember what really went out."""
        names = list(message.name)
        try:
            action = match_joints(self.spec.action.names, names, message.velocity)
            with self.lock:
                self.timeline.add_executed(nanoseconds(message.header.stamp), action)
        except ValueError as error:
            if self.complaints.trouble("command/executed", str(error)):
                self.get_logger().warning(f"a message on command/executed was rejected: {error}")

    def on_joints(self, message: JointState) -> None:
        """Keep the measured positions that a joint-velocity plan integrates from."""
        if self.spec.action.kind != "joint_velocity":
            return
        try:
            self.joints = match_joints(self.spec.action.names, message.name, message.position)
        except ValueError as error:
            self.joints = None
            if self.complaints.trouble("joint_states", str(error)):
                self.get_logger().warning(f"joint_states was rejected: {error}")

    def on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Start or stop planning."""
        with self.lock:
            self.enabled = request.data
            self.epoch += 1
        response.success = True
        response.message = "planning" if request.data else "not planning"
        return response

    def on_goal_from_camera(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Make what the camera sees now the goal."""
        response.success = self.latent is not None
        if response.success:
            self.take_goal(self.latent)
        response.message = "goal taken" if response.success else "no latent yet: is encoder_node running?"
        return response

    def plan(self, job: Job) -> None:
        """Plan one model step and publish it; runs in the worker thread."""
        start, goal = self._planned or (None, None)
        if goal is not job.goal:
            self.planner.set_goal(job.goal)
        follows = start == job.step.start - self.period * self.spec.block
        self._planned = (job.step.start, job.goal)
        plan = self.planner.plan(job.step.latent, job.step.executed if follows else None, job.step.running)
        message = self.trajectory(job, plan.actions)
        with self.lock:
            if job.epoch != self.epoch:
                self.counts["discarded"] += 1
                return
            self.timeline.buffer.put(job.step.due, plan.actions)
            self.plans.publish(message)
            self.milliseconds.append(plan.milliseconds)
            self.counts["plans"] += 1
        # Whoever hears the distance may count on everybody having the plan; a slow reader costs a moment.
        self.plans.wait_for_all_acked(ACKNOWLEDGE)
        self.distances.publish(Float32(data=plan.distance))
        if goal is not job.goal:
            self.report()

    def trajectory(self, job: Job, actions: np.ndarray) -> JointTrajectory:
        """Return the plan, actions (steps, dim), as a message. Raises ValueError if it is not finite."""
        if not np.isfinite(actions).all():
            raise ValueError("the plan is not finite")
        positions = np.zeros((len(actions), 0))
        if self.spec.action.kind == "joint_velocity":
            if job.joints is None:
                raise ValueError("no usable joint_states to integrate the plan from")
            positions = integrate(job.joints, [*job.step.running, *actions], self.spec.period)
            positions = positions[len(job.step.running) :]
        message = JointTrajectory(joint_names=list(self.spec.action.names))
        set_stamp(message.header.stamp, job.step.due)
        message.header.frame_id = self.spec.action.frame
        for i, velocities in enumerate(actions):
            point = JointTrajectoryPoint(velocities=velocities.tolist(), positions=positions[i].tolist())
            after = (i + 1) * self.period
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(after, 1_000_000_000)
            message.points.append(point)
        return message

    def failed(self, error: Exception) -> None:
        """Say why there is no plan; runs in the worker thread."""
        self.counts["failures"] += 1
        if self.complaints.trouble("planning", str(error)):
            text = "".join(traceback.format_exception(error))
            self.get_logger().error(f"planning failed, nothing is published: {error}\n{text}")

    def report(self) -> None:
        """Publish the diagnostics."""
        with self.lock:
            times = sorted(self.milliseconds)
            last = self.milliseconds[-1] if times else None
        status = DiagnosticStatus(name=f"{self.get_fully_qualified_name()}: planning", level=b"\0")
        status.message = "no goal" if self.goal is None else "planning" if self.enabled else "not enabled"
        if self.counts["failures"]:
            status.level, status.message = DiagnosticStatus.WARN, "some plans failed: see the log"
        values = dict(self.counts) | {"replaced": self.worker.replaced}
        if times:
            at = {"p50": times[len(times) // 2], "p99": times[int(0.99 * len(times))], "last": last}
            values |= {f"planning_ms_{key}": f"{value:.1f}" for key, value in at.items()}
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self.diagnostics.publish(message)

    def close(self) -> None:
        """Discard the plan in flight and end the worker."""
        with self.lock:
            self.enabled = False
            self.epoch += 1
        self.worker.stop(STOP_SECONDS)


def make_node() -> PlannerNode:
    """Return the node, ready to spin."""
    return PlannerNode()
