"""monitor_node: doubts. Surprise and unusual pictures keep the robot still; rates and latencies are told."""

import time

import numpy as np
import torch
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.camera.images import ImageRejectedError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.monitoring.anomaly import (
    NO_COMMANDS,
    NO_FRAME,
    START,
    TOO_SHORT,
    AnomalyMonitor,
    AnomalyRules,
    JudgedSteps,
)
from world_model_ros.monitoring.statistics import Percentiles, Rate
from world_model_ros.monitoring.surprise import OneStepPrediction
from world_model_ros.nodes.managed import ManagedNode
from world_model_ros.nodes.messages import latent_array, nanoseconds
from world_model_ros.nodes.qos import HISTORY, RELIABLE
from world_model_ros.planning.timeline import ModelStep, Timeline
from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.health import Health
from world_model_ros.safety.joints import match_joints

WAITING = 3  # model steps that may wait for what went out until then: a busy machine hands over late
KEPT = 64  # latents whose arrival is remembered


class MonitorNode(ManagedNode):
    """Compares every model step with what the model expected of it."""

    def __init__(self):
        self.anomaly: AnomalyMonitor | None = None
        super().__init__("monitor_node")

    def rules(self) -> AnomalyRules:
        """Return how many steps it takes, as the parameters say."""
        return AnomalyRules(self.values["trigger_steps"], self.values["clear_steps"])

    def changed(self) -> None:
        """AnomalyMonitor by the new rules."""
        if self.anomaly is not None:
            self.anomaly.rules = self.rules()

    def set_up(self) -> None:
        """Load the predictor and the thresholds."""
        torch.set_num_threads(self.values["torch_threads"])
        model, self.spec = load_checkpoint(find_checkpoint(self.values["checkpoint"]))
        model.encoder = model.projector = None  # the encoder node has them
        self.prediction = OneStepPrediction(model, self.spec)
        self.period = round(self.spec.period * 1e9)
        self.length = self.period * self.spec.block
        limits = self.spec.thresholds
        if limits.surprise is None:
            self.get_logger().warning("the checkpoint has no surprise threshold: nothing will surprise it")
        self.anomaly = AnomalyMonitor(limits.surprise, limits.norm_low, limits.norm_high, self.rules())
        self.surprise = self.publisher(Float32, "surprise", RELIABLE)
        # What went out comes first: a latent is judged by what led to it. No latent may be lost, as the
        # nearest one to a step's start counts.
        self.subscribe(JointState, "command/executed", self.on_executed, HISTORY)
        self.subscribe(Image, "latent", self.on_latent, HISTORY)
        self.subscribe(JointTrajectory, "plan", self.on_plan, RELIABLE)

    def start(self) -> None:
        """Begin with an empty history."""
        buffer = ActionBuffer(self.period, max(self.period, round(self.values["plan_timeout"] * 1e9)))
        self.timeline = Timeline(self.period, self.spec.block, self.spec.action.dim, buffer)
        self.prediction.reset()
        self.errors, self.norms, self.planning = Percentiles(), Percentiles(), Percentiles()
        self.rates = {name: Rate() for name in ("latent", "plan", "executed")}
        self.seen: dict[int, float] = {}  # start of a model step -> when its latent came, in real time
        self.steps = JudgedSteps()
        self.missed = 0  # model steps without a frame, that are in ``steps``
        self.filled = False  # whether there was a full history already
        self.waiting: list[ModelStep] = []  # for what went out until their frames

    def tear_down(self) -> None:
        """Let the model go."""
        self.prediction = None

    def on_latent(self, message: Image) -> None:
        """Compare a latent with the expected one, where it starts a model step."""
        try:
            latent = latent_array(message, self.spec.model.latent_dim)
        except ImageRejectedError as reason:
            self.reject("latent", str(reason))
            return
        self.accept("latent")
        self.heard("latent")
        self.take(self.timeline.add_latent(nanoseconds(message.header.stamp), latent))

    def take(self, step: ModelStep | None) -> None:
        """Judge a model step once what went out until its frame is known, or will not be any more."""
        if step is None:
            return
        self.seen[step.start] = time.monotonic()
        while len(self.seen) > KEPT:
            del self.seen[next(iter(self.seen))]
        self.waiting.append(step)
        self.judge_what_is_known()

    def judge_what_is_known(self) -> None:
        """Judge the steps that wait, in order, as far as what went out is known or does not matter."""
        while self.waiting:
            step = self.timeline.refreshed(self.waiting[0])
            told = step.known or step.previous is None or max(self.timeline.executed, default=0) >= step.stamp
            if not told and len(self.waiting) <= WAITING:
                return
            self.waiting.pop(0)
            self.judge(step)

    def judge(self, step: ModelStep) -> None:
        """Publish a step's surprise, and ask for a standstill where something is wrong.

        Where it is not known what the robot did, nothing can be expected: command_node was not there.
        """
        norm = float(np.linalg.norm(step.latent))
        self.norms.add(norm)
        error = self.prediction.step(step.latent, step.executed if step.known else None)
        self.count(step, error is not None)
        if error is not None:
            self.errors.add(error)
            self.surprise.publish(Float32(data=error))
        reason = self.anomaly.step(error, norm)
        health = Health.HOLD if self.values["hold"] else Health.WARNING
        self.publish_health(health if reason else Health.FINE, reason)

    def count(self, step: ModelStep, judged: bool) -> None:
        """Note whether a step was judged, or why not; and the steps before it that had no frame."""
        if self.filled and self.timeline.missed > self.missed:
            self.steps.add(NO_FRAME, self.timeline.missed - self.missed)
        self.missed = self.timeline.missed
        self.filled = self.filled or judged
        if judged:
            self.steps.add()
        elif step.previous is not None and not step.known:
            self.steps.add(NO_COMMANDS)
        else:
            self.steps.add(TOO_SHORT if self.filled else START)

    def watch(self) -> tuple[Health, str]:
        """Say where too few model steps can be judged, and what the camera has to do with it."""
        problem = self.steps.problem()
        slow = self.timeline.too_slow
        return (Health.WARNING if problem or slow else Health.FINE), "; ".join(filter(None, [slow, problem]))

    def on_plan(self, message: JointTrajectory) -> None:
        """Note how long it took from the latent to the plan made from it."""
        due = nanoseconds(message.header.stamp)
        self.heard("plan")
        seen = self.seen.get(due - self.length)
        if seen is not None:
            self.planning.add(1e3 * (time.monotonic() - seen))
        actions = np.array([point.velocities for point in message.points], np.float64)
        if actions.ndim == 2 and actions.shape[1] == self.spec.action.dim and np.isfinite(actions).all():
            self.timeline.buffer.put(due, actions)

    def on_executed(self, message: JointState) -> None:
        """Remember what really went out."""
        self.heard("executed")
        try:
            action = match_joints(self.spec.action.names, message.name, message.velocity, "command/executed")
            self.take(self.timeline.add_executed(nanoseconds(message.header.stamp), action))
            self.judge_what_is_known()
        except ValueError as error:
            self.reject("command/executed", str(error))

    def heard(self, name: str) -> None:
        """Note an arrival."""
        self.rates[name].heard(time.monotonic())

    def metrics(self) -> dict:
        """Return surprise, latencies, rates and ages."""
        if self.anomaly is None or not self.active:
            return {}
        found: dict = dict(self.anomaly.counts)
        found |= {"surprise_threshold": self.anomaly.threshold}
        found |= self.steps.metrics() | {"camera_hz": round(self.timeline.rate, 1)}
        found |= {"camera_hz_needed": round(self.timeline.rate_needed, 1)}
        found |= self.errors.metrics("surprise") | self.norms.metrics("latent_norm")
        found |= self.planning.metrics("latent_to_plan_ms")
        for name, rate in self.rates.items():
            found |= rate.metrics(name, time.monotonic())
        return found


def make_node() -> MonitorNode:
    """Return the node, ready to be configured."""
    return MonitorNode()
