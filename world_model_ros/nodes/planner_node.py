"""planner_node: makes a plan from each model step's latent, while the block before is running."""

import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from rclpy.duration import Duration
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.camera.images import ImageRejectedError, check_goal_norm
from world_model_ros.errors import NoPlanError, UserError
from world_model_ros.model.checkpoint import choose_device, load_checkpoint, lost_device
from world_model_ros.model.config import find_checkpoint
from world_model_ros.monitoring.anomaly import usual_norms
from world_model_ros.monitoring.progress import Progress, nobody_tried
from world_model_ros.monitoring.statistics import Percentiles
from world_model_ros.nodes.managed import ManagedNode
from world_model_ros.nodes.messages import nanoseconds, plan_message
from world_model_ros.nodes.parameters import planner_config
from world_model_ros.nodes.plan_paths import PlanPaths
from world_model_ros.nodes.qos import HISTORY, LATCHED, RELIABLE
from world_model_ros.nodes.worker import Worker
from world_model_ros.planning.planner import GoalInUse, Plan, RecedingHorizonPlanner
from world_model_ros.planning.timeline import ModelStep, Timeline
from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.health import Health
from world_model_ros.safety.joints import JointCollector, match_joints
from world_model_ros.safety.limits import narrowed

ACKNOWLEDGE = Duration(seconds=0.05)
STOP_SECONDS = 1.0  # for the plan in flight, when ending
WATCHDOG = 0.2  # seconds between two checks of the worker
JOINTS_READ = 0.05  # seconds between two looks at joint_states, besides one for each plan
JOINTS_KEPT = 500_000_000  # ns that a measured position may be integrated from
QUIET = 1_000_000_000  # ns without a rejection, until joint_states count as fine again
GOAL_AGE = 1.0  # seconds that a latent may be old to become the goal
LOST_DEVICE = 3  # exit code: only a new process can use the GPU again


@dataclass(frozen=True)
class Job:
    """One model step to plan for; ``epoch`` tells whether its goal still holds when the plan is done."""

    epoch: int
    goal: np.ndarray
    step: ModelStep
    joints: np.ndarray | None  # measured positions (dim,)
    joints_problem: str  # why they are not known


class PlannerNode(ManagedNode):
    """Plans in one worker thread; the callbacks hand over the model steps."""

    def __init__(self):
        self.progress = Progress(0.0)
        self.worker: Worker | None = None
        self.enabled, self.enable_calls, self.goal = False, 0, GoalInUse()
        self.reached, self.goal_stamp = "unknown", 0  # true, false or unknown; ns, of the newest goal taken
        super().__init__("planner_node")
        self.changed()
        self.lock = threading.Lock()  # for epoch, timeline and what is published
        self.epoch = 0
        self.enabled = self.values["enabled"]
        self.milliseconds = Percentiles()
        self.counts = dict.fromkeys(("plans", "discarded", "failures", "moves_elsewhere"), 0)

    def changed(self) -> None:
        """Watch progress by the new timeout."""
        self.progress.timeout = self.values["progress_timeout"]

    def set_up(self) -> None:
        """Load the model and plan once on zeros."""
        torch.set_num_threads(self.values["torch_threads"])
        model, self.spec = load_checkpoint(find_checkpoint(self.values["checkpoint"]))
        action = narrowed(self.spec.action, self.values["limits.low"], self.values["limits.high"])
        self.spec = replace(self.spec, action=action)  # so that plans need no clamping
        model = model.to(choose_device(self.values["device"], "the parameter device"))
        self.planner = RecedingHorizonPlanner(model, self.spec, planner_config(self.values))
        self.planner.warm_up()
        thresholds = self.spec.thresholds
        self.progress.reached = thresholds.goal_reached
        self.norms = usual_norms(thresholds.norm_low, thresholds.norm_high)
        self.period = round(self.spec.period * 1e9)
        buffer = ActionBuffer(self.period, max(self.period, round(self.values["plan_timeout"] * 1e9)))
        self.timeline = Timeline(self.period, self.spec.block, self.spec.action.dim, buffer)
        self.plans = self.publisher(JointTrajectory, "plan", RELIABLE)
        self.distances = self.publisher(Float32, "goal/distance", RELIABLE)
        self.paths = PlanPaths(self, self.spec, self.values["frame_moves"])
        names = self.spec.action.names if self.spec.action.kind == "joint_velocity" else ()
        self.joints = JointCollector(names, self.values["joint_prefix"])
        self.rejected_joints = -QUIET
        # Executed actions come first: a latent is handed over with the actions that led to it. No latent may
        # be lost, as the nearest one counts.
        self.subscribe(JointState, "command/executed", self.on_executed, HISTORY)
        self.subscribe(Image, "latent", self.on_latent, HISTORY)
        self.subscribe(Float32, "camera/latency", self.on_latency, LATCHED, always=True)
        self.subscribe_command(Image, "goal/latent", self.on_goal, newest=True)
        if names:  # a plan of joint velocities has positions
            self.joint_states = self.newest_joints("joint_states")
            self.timer(JOINTS_READ, self.take_joints, steady=True)
        self.serve(SetBool, "planner/enable", self.on_enable)
        self.serve(Trigger, "planner/goal_from_camera", self.on_goal_from_camera)
        self.timer(WATCHDOG, self.watch_worker, steady=True)
        config = self.planner.config
        self.get_logger().info(
            f"planner ready: {self.values['checkpoint']}, {config.solver} with {config.samples} samples and "
            f"{config.iterations} iterations, {config.horizon} model steps ahead"
        )

    def start(self) -> None:
        """Begin with an empty history. Raises UserError while a plan from before hangs."""
        if self.worker is not None and self.worker.alive:
            # Two workers must not use one planner, and a call that hangs may never return.
            raise UserError(
                f"the last plan has not ended for {self.worker.busy():.0f} s: restart planner_node."
            )
        with self.lock:
            self.epoch += 1
            self.timeline.reset()
        self.latent: np.ndarray | None = None
        self.latent_came = 0.0  # seconds of steady time
        self.joints.reset()
        if self.joints.names:
            self.joint_states.read()  # of the time before
        self._planned = None  # (step, goal) of the worker's last plan
        self.job_epoch = 0  # of the worker's job
        self.elsewhere = False  # the last plan was to move elsewhere
        self.report_due = False  # the worker has something new for the diagnostics
        self.hung = False  # it was reported that a plan does not end, and the worker has not answered since
        self.too_slow = ""  # why this camera is too slow to plan with
        self.planner.reset()
        self.begin_goal()
        self.worker = Worker(self.plan, self.failed, "planner")

    def stop(self) -> None:
        """Discard the plan in flight and end the worker."""
        with self.lock:
            self.epoch += 1
        self.goal.end()
        if self.worker is not None:
            self.worker.stop(STOP_SECONDS)

    def tear_down(self) -> None:
        """Free the model."""
        self.planner = None

    def on_latent(self, message: Image) -> None:
        """Hand over the model step that this latent starts, if it starts one."""
        latent = self.latent_of(message, "latent", self.spec.model.latent_dim)
        if latent is None:
            return
        self.latent, self.latent_came = latent, time.monotonic()
        with self.lock:
            self.submit(self.timeline.add_latent(nanoseconds(message.header.stamp), latent))
            before, self.too_slow = self.too_slow, self.timeline.too_slow
            if self.too_slow and not before:
                self.epoch += 1  # the plan in flight must not report FINE
        if bool(before) != bool(self.too_slow):
            self.publish_health(Health.HOLD if self.too_slow else Health.FINE, self.too_slow)

    def on_latency(self, message: Float32) -> None:
        """Allow for pictures that are older than their stamps say, as monitor_node has found."""
        with self.lock:
            self.take_latency(message, self.timeline)

    def submit(self, step: ModelStep | None) -> None:
        """Hand a model step to the worker, with the lock held."""
        if step is not None and self.enabled and self.goal.latent is not None and not self.too_slow:
            if self.joints.names:
                self.take_joints()
            now = time.monotonic_ns()
            joints, problem = self.joints.positions(now, JOINTS_KEPT), self.joints.unusable(now, JOINTS_KEPT)
            self.worker.submit(Job(self.epoch, self.goal.latent, step, joints, problem))

    def on_goal(self, message: Image) -> None:
        """Take a goal; where it is another one, the plan in flight is discarded."""
        latent = self.latent_of(message, "goal/latent", self.spec.model.latent_dim)
        if latent is not None:
            self.take_goal(latent, nanoseconds(message.header.stamp))

    def take_goal(self, latent: np.ndarray, stamp: int) -> None:
        """Plan towards ``latent`` from the next model step on, unless that is being done."""
        with self.lock:
            new = self.goal.take(latent)
            self.epoch += new
            self.goal_stamp = stamp
            if new:
                self.begin_goal()
        self.beat()

    def begin_goal(self) -> None:
        """Note that it is not known yet whether the goal is reached, or that it never will be."""
        self.reached = "false" if self.planner.arrival.known else "unknown"

    def on_executed(self, message: JointState) -> None:
        """Take an action that was sent to the robot."""
        try:
            action = match_joints(self.spec.action.names, message.name, message.velocity, "command/executed")
            with self.lock:
                self.submit(self.timeline.add_executed(nanoseconds(message.header.stamp), action))
        except ValueError as error:
            self.reject("command/executed", str(error))

    def take_joints(self) -> None:
        """Take what is new on joint_states, however fast it is published."""
        for message, _ in self.joint_states.read():
            self.on_joints(message)

    def on_joints(self, message: JointState) -> None:
        """Keep the measured positions that a joint-velocity plan integrates from."""
        steady = time.monotonic_ns()
        problem = self.joints.add(steady, steady, message.name, message.position)
        if problem:
            self.rejected_joints = steady
            self.reject("joint_states", problem)
        elif steady - self.rejected_joints > QUIET:
            self.accept("joint_states")

    def on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Start or stop planning."""
        with self.lock:
            self.enabled = request.data
            self.enable_calls += request.data
            self.epoch += 1
            self.progress.start()
            if not request.data:
                self.goal.end()
        self.publish_health(Health.HOLD if self.too_slow else Health.FINE, self.too_slow)
        self.beat()  # before the answer: the caller's next request to command_node must come after this
        response.success, response.message = True, self.doing()
        return response

    def doing(self) -> str:
        """Return whether the node plans, or what it lacks."""
        if not self.enabled:
            return "not planning: planner/enable with true begins"
        if self.goal.latent is None:
            return "enabled: waiting for a goal on goal/image, or planner/goal_from_camera"
        return "the goal is reached" if self.reached == "true" else "planning"

    def health_values(self) -> dict[str, str]:
        """Return the values with which command_node names what the planner lacks."""
        return {
            "enabled": str(self.enabled).lower(),
            "enable_calls": str(self.enable_calls),
            "goal": str(self.goal.latent is not None).lower(),
            "goal_stamp": str(self.goal_stamp),
            "reached": self.reached,
            "arrival": self.arrival() if self.active else "",
            "doing": self.doing(),
        }

    def arrival(self) -> str:
        """Return how far from the goal the robot is, in words."""
        planned = self._planned
        if planned is None or planned[1] is not self.goal.latent:
            return "no distance to it yet"  # the planner's is that to the goal before
        return str(self.planner.arrival)

    def on_goal_from_camera(self, _request, response: Trigger.Response) -> Trigger.Response:
        """Make what the camera sees now the goal."""
        response.success, response.message = False, "no latent yet: is encoder_node running?"
        if self.latent is None:
            return response
        age = time.monotonic() - self.latent_came
        if age > GOAL_AGE:
            response.message = (
                f"the newest latent came {age:.1f} s ago: see that the camera and encoder_node are running"
            )
            return response
        try:
            check_goal_norm(float(np.linalg.norm(self.latent)), self.norms)
        except ImageRejectedError as reason:
            response.message = f"the camera's picture is no goal: {reason}"
            return response
        self.take_goal(self.latent, self.get_clock().now().nanoseconds)
        response.success, response.message = True, "goal taken"
        return response

    def plan(self, job: Job) -> None:
        """Plan one model step and publish it; runs in the worker thread."""
        self.job_epoch = job.epoch
        with self.lock:  # one that waited while planning was disabled, or for another goal
            if self.is_outdated(job):
                return
        before, goal = self._planned or (None, None)
        new_goal = goal is not job.goal
        if new_goal:
            self.planner.set_goal(job.goal)
            self.progress.start()
        with self.lock:  # the plan before this one is known by now
            step = self.timeline.refreshed(job.step)
            heard = step.previous is not None and bool(self.timeline.executed)
        follows = before is not None and before.stamp == step.previous
        passed = 1 if before is None else max(1, round((step.due - before.due) / self.timeline.length))
        self._planned = (step, job.goal)
        plan = self.planner.plan(step.latent, step.executed if follows else None, step.running, passed)
        # Its stamp is step.due: when the block ends that is running.
        message = plan_message(step, plan.actions, job.joints, self.spec, job.joints_problem)
        with self.lock:
            if self.is_outdated(job):
                return
            if nobody_tried(step.executed, step.known, heard):
                stuck = self.progress.pause(step.start)
            else:
                stuck = self.progress.step(step.start, plan.distance)
            if stuck:
                self.goal.end()
            else:
                self.timeline.buffer.put(step.due, plan.actions)
                self.plans.publish(message)
            if not plan.reached:
                self.milliseconds.add(plan.milliseconds)
            self.counts["plans"] += 1
            self.take_reached(plan)
            self.take_elsewhere(plan)
            # With the lock held: a later report of the executor's thread must not be overwritten.
            self.hung = False
            self.publish_health(Health.HOLD if stuck else Health.FINE, stuck)
        # When the distance is published, every subscriber has the plan; a slow one delays it a little.
        self.plans.wait_for_all_acked(ACKNOWLEDGE)
        self.distances.publish(Float32(data=plan.distance))
        self.paths.publish(step, plan.actions, self.planner)  # for people, so after all the rest
        if new_goal:
            self.report_due = True  # the executor's thread reports

    def is_outdated(self, job: Job) -> bool:
        """Return, and count, whether a job is of a time before the last change; with the lock held."""
        outdated = job.epoch != self.epoch or not self.active
        self.counts["discarded"] += outdated
        return outdated

    def take_reached(self, plan: Plan) -> None:
        """Keep, and log once, that the goal is reached or left; with the lock held."""
        before, now = self.reached, str(plan.reached).lower()
        if before == "unknown" or before == now:
            return
        self.reached = now
        told = str(self.planner.arrival)
        self.get_logger().info(f"the goal is {'reached' if plan.reached else 'left again'}: {told}")
        self.report_due = True

    def take_elsewhere(self, plan: Plan) -> None:
        """Count, and log, that the robot begins to move elsewhere because nothing comes of its plans."""
        if plan.elsewhere and not self.elsewhere:
            self.counts["moves_elsewhere"] += 1
            self.get_logger().info(
                "what the plans promise does not come here: moving elsewhere before planning on"
            )
        self.elsewhere = plan.elsewhere

    def failed(self, error: Exception, text: str) -> None:
        """Report why there is no plan; runs in the worker thread."""
        self.counts["failures"] += 1
        if lost_device(error):
            self.get_logger().fatal(f"the GPU is lost, only a new process can use it again: {error}")
            self.exit_code = LOST_DEVICE
            return
        with self.lock:
            no_plan = isinstance(error, NoPlanError)  # from this latent; the next one may give a plan
            if not self.active or (no_plan and self.job_epoch != self.epoch):
                return
            self.hung = False
            if no_plan:
                self.publish_health(Health.HOLD, f"no plan: {error}")
            else:
                self.publish_health(Health.FAULT, f"planning failed: {error}\n{text}")

    def watch_worker(self) -> None:
        """Report that a plan does not end, or that it has ended; report what the worker has new."""
        if self.report_due:
            self.report_due = False
            self.report()
        timeout = self.values["hang_timeout"]
        with self.lock:
            if self.worker.hangs(timeout):
                if self.health is not Health.FAULT:
                    self.hung = True
                    self.publish_health(
                        Health.FAULT, f"a plan has not ended for {timeout:g} s\n{self.worker.stack()}"
                    )
            elif self.hung:  # it ended without a report: its goal was replaced
                self.hung = False
                self.publish_health(Health.HOLD if self.too_slow else Health.FINE, self.too_slow)

    def metrics(self) -> dict:
        """Return counts and how long planning takes."""
        metrics = {"doing": self.doing()} | self.counts
        metrics["replaced"] = 0 if self.worker is None else self.worker.replaced
        if self.active:
            metrics |= {
                "camera_hz": round(self.timeline.rate, 1),
                "camera_latency": round(1e-9 * self.timeline.latency, 3),
                "steps_without_frame": self.timeline.missed,
            }
        return metrics | self.milliseconds.metrics("planning_ms")


def make_node() -> PlannerNode:
    """Return the node, ready to be configured."""
    return PlannerNode()
