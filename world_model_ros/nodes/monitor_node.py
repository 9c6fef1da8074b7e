"""monitor_node: detects anomalies from surprise and latent norm, and measures rates and latencies."""

import time
from dataclasses import replace

import numpy as np
import torch
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import find_checkpoint
from world_model_ros.monitoring.anomaly import (
    NO_COMMANDS,
    NO_FRAME,
    START,
    TOO_SHORT,
    AnomalyMonitor,
    AnomalyRules,
    JudgedSteps,
)
from world_model_ros.monitoring.camera_latency import CameraLatency
from world_model_ros.monitoring.risk import RiskForecast
from world_model_ros.monitoring.statistics import Percentiles, Rate
from world_model_ros.monitoring.surprise import OneStepPrediction
from world_model_ros.nodes.managed import ManagedNode
from world_model_ros.nodes.messages import nanoseconds
from world_model_ros.nodes.qos import HISTORY, LATCHED, RELIABLE
from world_model_ros.planning.timeline import ModelStep, Timeline
from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.health import Health
from world_model_ros.safety.joints import match_joints

WAITING = 3  # model steps that may wait for executed actions, which a busy machine delivers late
KEPT = 64  # latents whose time of arrival is kept
SILENT = 5.0  # seconds without a latent after which the diagnostics say that nothing is judged


class MonitorNode(ManagedNode):
    """Compares every model step's latent with the model's prediction."""

    def __init__(self):
        self.anomaly: AnomalyMonitor | None = None
        super().__init__("monitor_node")

    def rules(self) -> AnomalyRules:
        """Return how many steps ask for a HOLD and end it, from the parameters."""
        return AnomalyRules(self.values["trigger_steps"], self.values["clear_steps"])

    def changed(self) -> None:
        """Apply the new rules."""
        if self.anomaly is not None:
            self.anomaly.rules = self.rules()

    def set_up(self) -> None:
        """Load the predictor and the thresholds."""
        torch.set_num_threads(self.values["torch_threads"])
        model, self.spec = load_checkpoint(find_checkpoint(self.values["checkpoint"]))
        model.encoder = model.projector = None  # encoder_node has them
        self.prediction = OneStepPrediction(model, self.spec)
        self.latency = CameraLatency(model, self.spec)
        self.risk = None if model.risk is None else RiskForecast(model, self.spec)
        self.period = round(self.spec.period * 1e9)
        self.length = self.period * self.spec.block
        thresholds = self.spec.thresholds
        if thresholds.surprise is None:
            self.get_logger().warning(
                "the checkpoint has no surprise threshold: surprise is published and never asks for a HOLD"
            )
        self.anomaly = AnomalyMonitor(
            thresholds.surprise, thresholds.norm_low, thresholds.norm_high, self.rules()
        )
        self.surprise = self.publisher(Float32, "surprise", RELIABLE)
        self.latencies = self.publisher(Float32, "camera/latency", LATCHED)
        # Executed actions come first: a latent is judged by the actions that led to it. No latent may be
        # lost, as the nearest one to a step's start counts.
        self.subscribe(JointState, "command/executed", self.on_executed, HISTORY)
        self.subscribe(Image, "latent", self.on_latent, HISTORY)
        self.subscribe(JointTrajectory, "plan", self.on_plan, RELIABLE)

    def start(self) -> None:
        """Begin with an empty history."""
        buffer = ActionBuffer(self.period, max(self.period, round(self.values["plan_timeout"] * 1e9)))
        self.timeline = Timeline(self.period, self.spec.block, self.spec.action.dim, buffer)
        self.prediction.reset()
        self.latency.reset()
        self.publish_latency()  # the planner's begins with ours
        self.errors, self.norms, self.planning = Percentiles(), Percentiles(), Percentiles()
        self.rates = {name: Rate() for name in ("latent", "plan", "executed")}
        self.newest = time.monotonic()  # when the last latent came, or the node was activated
        self.seen: dict[int, float] = {}  # start of a model step -> when its latent came, in real time
        self.steps = JudgedSteps()
        self.missed = 0  # model steps without a frame that ``steps`` has counted
        self.judged: ModelStep | None = None  # the last one
        self.plan: tuple[int, np.ndarray] | None = None  # when the newest plan is due (ns), and its actions
        if self.risk is not None:
            self.risk.clear()
        self.filled = False  # whether there was a full history before
        self.waiting: list[ModelStep] = []  # for the executed actions up to their frames

    def tear_down(self) -> None:
        """Free the model."""
        self.prediction = self.latency = None

    def on_latent(self, message: Image) -> None:
        """Compare a latent with the predicted one, if it starts a model step."""
        latent = self.latent_of(message, "latent", self.spec.model.latent_dim)
        if latent is None:
            return
        self.heard("latent")
        self.newest = time.monotonic()
        self.take(self.timeline.add_latent(nanoseconds(message.header.stamp), latent))
        self.watch_rate()

    def take(self, step: ModelStep | None) -> None:
        """Judge a model step once the actions up to its frame are known, or cannot become known any more."""
        if step is None:
            return
        self.seen[step.start] = time.monotonic()
        while len(self.seen) > KEPT:
            del self.seen[next(iter(self.seen))]
        self.waiting.append(step)
        self.judge_what_is_known()

    def judge_what_is_known(self) -> None:
        """Judge the steps that wait, in order, as far as the actions before them are known."""
        while self.waiting:
            step = self.timeline.refreshed(self.waiting[0])
            sent = self.timeline.executed_by_latency(step)
            heard = max(self.timeline.executed, default=0) >= step.stamp + step.latency
            ready = step.previous is None or sent is not None or heard
            if not ready and len(self.waiting) <= WAITING:
                return
            self.waiting.pop(0)
            self.judge(self.estimate_latency(step, sent))

    def estimate_latency(self, step: ModelStep, sent: list[np.ndarray] | None) -> ModelStep:
        """Compare what is seen with what was sent, for each latency that the camera may have.

        Return the step with what was sent before its frame. Where the estimate has changed, what was sent
        before is corrected too: what only looks late is no surprise.
        """
        if not (self.values["camera_latency"] and self.timeline.fast):
            return step
        before = self.latency.steps
        if self.latency.step(step.latent, sent) == before:
            self.publish_latency()
            return step
        self.take_estimate(before)
        self.prediction.correct(self.latency.past)
        return replace(step, executed=sent[self.latency.steps], known=True)

    def watch_rate(self) -> None:
        """Take a camera that has become slow for up to date: else no frame was near the start of a step."""
        if self.latency.steps and self.timeline.rate and not self.timeline.fast:
            before = self.latency.steps
            self.latency.reset()
            self.take_estimate(before)

    def take_estimate(self, before: int) -> None:
        """Publish the estimated latency, and use it where it is another one than ``before``."""
        self.publish_latency()
        if self.latency.steps != before:
            self.timeline.take_latency(self.latency.steps * self.period)
            self.get_logger().warning(
                f"the camera's pictures are {self.seconds_late():.2f} s older than their stamps say, by what "
                f"is seen of the robot's moves; it was {1e-9 * before * self.period:.2f}. Plans allow for it"
            )

    def publish_latency(self) -> None:
        """Publish the estimated latency of the camera."""
        self.latencies.publish(Float32(data=self.seconds_late()))

    def seconds_late(self) -> float:
        """Return the estimated latency of the camera, in seconds."""
        return 1e-9 * self.latency.steps * self.period

    def judge(self, step: ModelStep) -> None:
        """Publish a step's surprise, and ask for a HOLD where something is wrong.

        Where it is not known what the robot did, nothing can be predicted: command_node was not there.
        """
        norm = float(np.linalg.norm(step.latent))
        self.norms.add(norm)
        error = self.prediction.step(step.latent, step.executed if step.known else None)
        self.count(step, error is not None)
        if error is not None:
            self.errors.add(error)
            self.surprise.publish(Float32(data=error))
        self.anomaly.step(error, norm)
        self.judged = step
        self.foresee()

    def foresee(self) -> None:
        """Imagine the plan from the last judged step on, and publish what is wrong and what will be."""
        risk = ""
        if self.risk is not None and self.judged is not None:
            risk = self.risk.step(*self.prediction.context, self.planned())
        reasons = {self.anomaly.reason: self.values["hold"], risk: self.values["hold_on_risk"]}
        held = any(hold for reason, hold in reasons.items() if reason)
        reason = "; ".join(filter(None, reasons))
        health = Health.HOLD if held else Health.WARNING if reason else Health.FINE
        self.publish_health(health, reason)

    def planned(self) -> np.ndarray:
        """Return the actions (steps, dim) that are planned from the last judged step on."""
        running = self.timeline.refreshed(self.judged).running
        if self.plan is None:
            return running[:0]
        due, actions = self.plan
        first = round((self.judged.due - due) / self.period)
        return np.concatenate([running, actions[first:]]) if first >= 0 else running[:0]

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
        """Return a warning if few or no model steps can be judged, or the camera is too slow."""
        silent = time.monotonic() - self.newest
        if silent > SILENT:
            topic = self.resolve_topic_name("latent")
            known = "it has a publisher" if self.count_publishers(topic) else "nobody publishes it"
            return Health.WARNING, f"surprise is not judged: no {topic} for {silent:.0f} s; {known}"
        problem = self.steps.problem()
        slow = self.timeline.too_slow
        return (Health.WARNING if problem or slow else Health.FINE), "; ".join(filter(None, [slow, problem]))

    def on_plan(self, message: JointTrajectory) -> None:
        """Note how long it took from the latent to the plan made from it."""
        due, actions = nanoseconds(message.header.stamp), self.actions_of(message, self.spec.action.names)
        if actions is None:
            return
        self.heard("plan")
        seen = self.seen.get(due - self.length)
        if seen is not None:
            self.planning.add(1e3 * (time.monotonic() - seen))
        self.timeline.buffer.put(due, actions)
        self.plan = due, actions
        if self.judged is not None and self.judged.due == due:  # made from the last judged step
            self.foresee()

    def on_executed(self, message: JointState) -> None:
        """Take an action that was sent to the robot."""
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
        metrics: dict = dict(self.anomaly.counts)
        metrics |= {"surprise_threshold": self.anomaly.threshold}
        metrics |= self.steps.metrics() | {"camera_hz": round(self.timeline.rate, 1)}
        if self.values["camera_latency"]:
            metrics |= {"camera_latency": round(self.seconds_late(), 3)}
        metrics |= {"camera_hz_needed": round(self.timeline.rate_needed, 1)}
        metrics |= self.errors.metrics("surprise") | self.norms.metrics("latent_norm")
        metrics |= self.planning.metrics("latent_to_plan_ms")
        if self.risk is not None:
            metrics |= {"risk": self.spec.risk.name, "risk_threshold": self.spec.risk.threshold}
            metrics |= {"risk_probability": round(max(self.risk.probabilities, default=0.0), 3)}
        for name, rate in self.rates.items():
            metrics |= rate.metrics(name, time.monotonic())
        return metrics


def make_node() -> MonitorNode:
    """Return the node, ready to be configured."""
    return MonitorNode()
