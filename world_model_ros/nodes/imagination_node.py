"""imagination_node: pictures of what the model imagines, for people; nothing depends on it."""

import array
import os
import time
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float32
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.camera.images import ImageRejectedError
from world_model_ros.errors import UserError
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.monitoring.imagination_picture import draw, headline, message_picture, square, two_rows
from world_model_ros.monitoring.statistics import Percentiles
from world_model_ros.nodes.managed import ManagedNode
from world_model_ros.nodes.messages import nanoseconds, pixels_of, set_stamp
from world_model_ros.nodes.polling import Newest, polled_subscription
from world_model_ros.nodes.qos import FRESH, LATCHED, RELIABLE
from world_model_ros.nodes.worker import Worker
from world_model_ros.planning.timeline import ModelStep, Timeline
from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.health import Health
from world_model_ros.safety.joints import match_joints

# A reliable reader that is stopped or killed lets its writers wait for it.
BEHIND = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
POLITE = 5  # by which the process is nicer than the nodes that move the robot
KEPT = 16  # model steps
WITHOUT_PLAN = 2  # model steps in a row without a plan, after which they are shown without one
LOOK = 0.5  # seconds between two looks at who subscribes
JPEG_QUALITY = 85
STOP_SECONDS = 1.0  # for the picture in the making, when ending


@dataclass(frozen=True)
class Job:
    """One picture to make."""

    steps: tuple[ModelStep, ...]  # the last one is shown
    plan: np.ndarray | None  # (rows, dim)
    goal: np.ndarray | None  # (D,)
    surprise: float | None
    frame: object  # message of the camera, or None


class ImaginationNode(ManagedNode):
    """Draws now, the plan step by step and the goal, and below it standing still; only while subscribed.

    It reads best effort, so that no publisher ever waits for it, and its process has a low priority.
    """

    def __init__(self):
        self.worker: Worker | None = None
        self.camera: Newest | None = None
        super().__init__("imagination_node")
        self.milliseconds, self.made = Percentiles(), 0

    def set_up(self) -> None:
        """Read the checkpoint's configuration; the model is loaded when somebody subscribes."""
        self.folder = find_checkpoint(self.values["checkpoint"])
        self.spec = read_spec(self.folder)
        self.period = round(self.spec.period * 1e9)
        self.imagination = None
        buffer = ActionBuffer(self.period, max(self.period, round(self.values["plan_timeout"] * 1e9)))
        self.timeline = Timeline(self.period, self.spec.block, self.spec.action.dim, buffer)
        self.without = ""
        if not self.spec.model.decoder_width:
            self.without = (
                f"the checkpoint {self.folder} has no decoder, so nothing can be shown on imagination: run "
                f"`python -m world_model_ros train-heads --decoder --checkpoint {self.folder} --data DATA "
                "--out OUT` and start with OUT"
            )
            self.get_logger().warning(self.without)
        self.images = self.publisher(Image, "imagination", RELIABLE)
        self.jpegs = self.publisher(CompressedImage, "imagination/compressed", RELIABLE)
        self.subscribe(JointState, "command/executed", self.on_executed, BEHIND)
        self.subscribe(Image, "latent", self.on_latent, BEHIND)
        self.subscribe(JointTrajectory, "plan", self.on_plan, FRESH)
        self.subscribe(Float32, "surprise", self.on_surprise, FRESH)
        self.subscribe(Float32, "camera/latency", self.on_latency, LATCHED, always=True)
        self.subscribe_command(Image, "goal/latent", self.on_goal, newest=True)
        self.timer(LOOK, self.look, steady=True)
        self.goal: np.ndarray | None = None
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, 0, max(POLITE, os.getpriority(os.PRIO_PROCESS, 0)))

    def start(self) -> None:
        """Begin with an empty history; the goal stays."""
        self.clear_history()
        self.worker = Worker(self.make, self.failed, "imagination")

    def stop(self) -> None:
        """End the worker."""
        self.watch_camera(False)
        if self.worker is not None:
            self.worker.stop(STOP_SECONDS)

    def tear_down(self) -> None:
        """Free the model."""
        self.imagination = None

    def clear_history(self) -> None:
        """Drop everything but the goal."""
        self.timeline.reset()
        self.steps: deque[ModelStep] = deque(maxlen=KEPT)
        self.surprise: float | None = None
        self.unplanned = 0  # model steps in a row without a plan

    @property
    def wanted(self) -> bool:
        """Whether somebody subscribes."""
        return bool(self.images.get_subscription_count() or self.jpegs.get_subscription_count())

    def look(self) -> None:
        """Begin and end with the subscribers."""
        wanted = self.wanted
        self.watch_camera(wanted and self.values["show_camera"] and not self.without)
        if not wanted and self.steps:
            self.clear_history()
        if wanted and self.without:
            self.publish(message_picture(self.without), self.get_clock().now().nanoseconds)

    def watch_camera(self, needed: bool) -> None:
        """Subscribe to the camera, or end that. Its newest frame waits until a picture is made."""
        if needed and self.camera is None:
            kind, topic = Image, "camera/image_raw"
            if self.values["compressed"]:
                kind, topic = CompressedImage, f"{topic}/compressed"
            # Not in the executor's wait set: a frame that is not shown costs no call.
            self.camera = Newest(polled_subscription(self, kind, topic, FRESH))
        elif not needed and self.camera is not None:
            self.destroy_subscription(self.camera.subscription)
            self.camera = None

    def on_latent(self, message: Image) -> None:
        """Keep the model step that this latent starts, if it starts one."""
        if not self.wanted:
            return
        latent = self.latent_of(message, "latent", self.spec.model.latent_dim)
        if latent is not None:
            self.take(self.timeline.add_latent(nanoseconds(message.header.stamp), latent))

    def on_executed(self, message: JointState) -> None:
        """Take an action that was sent to the robot."""
        if not self.wanted:
            return
        try:
            action = match_joints(self.spec.action.names, message.name, message.velocity, "command/executed")
            self.take(self.timeline.add_executed(nanoseconds(message.header.stamp), action))
        except ValueError as error:
            self.reject("command/executed", str(error))

    def on_goal(self, message: Image) -> None:
        """Keep the goal; one that cannot be used changes nothing, as in the planner."""
        latent = self.latent_of(message, "goal/latent", self.spec.model.latent_dim)
        if latent is not None:
            self.goal = latent

    def on_latency(self, message: Float32) -> None:
        """Allow for pictures that are older than their stamps, as the planner does."""
        self.take_latency(message, self.timeline)

    def on_surprise(self, message: Float32) -> None:
        """Keep the surprise of the newest model step."""
        self.surprise = message.data

    def take(self, step: ModelStep | None) -> None:
        """Keep a model step. It is shown with its plan, or without one where none has come for a while."""
        if step is None:
            return
        if self.steps and step.index <= self.steps[-1].index:
            self.steps.clear()  # the clock was set
        self.steps.append(step)
        self.unplanned += 1
        if self.unplanned > WITHOUT_PLAN:
            self.show(len(self.steps), None)

    def on_plan(self, message: JointTrajectory) -> None:
        """Show the model step that this plan was made for."""
        if not self.wanted:
            return
        due, actions = nanoseconds(message.header.stamp), self.actions_of(message, self.spec.action.names)
        if actions is None:
            return
        self.timeline.buffer.put(due, actions)
        known = next((i + 1 for i, step in enumerate(self.steps) if step.due == due), None)
        if known is not None:
            self.unplanned = 0
            self.show(known, actions)

    def show(self, count: int, plan: np.ndarray | None) -> None:
        """Hand the first ``count`` of the kept model steps to the worker; what waits there is replaced."""
        if self.without:
            return
        steps = list(self.steps)[:count][-self.spec.history :]
        frame = None if self.camera is None else self.camera.read()
        self.worker.submit(
            Job(tuple(map(self.timeline.refreshed, steps)), plan, self.goal, self.surprise, frame)
        )

    # What runs in the worker thread.

    def make(self, job: Job) -> None:
        """Make and publish one picture."""
        began = time.monotonic()
        imagination = self.imagination or self.load()
        # They import torch, which is not needed as long as nobody subscribes.
        from world_model_ros.planning.imagination import actions_ahead, connected

        step, count, block = job.steps[-1], self.values["steps"], self.spec.block
        ahead = actions_ahead(step.running, job.plan, count)
        imagined = imagination.imagine(*connected(job.steps, self.spec.history), ahead, job.goal)
        arrival = 0 if job.plan is None else 1 + -(-len(job.plan) // block)
        distances = imagined.planned_distances, imagined.still_distances
        rows = two_rows(
            self.spec.period * block,
            self.camera_picture(job.frame),
            imagined.now,
            None if job.plan is None else imagined.planned,
            imagined.still,
            imagined.goal,
            distances,
            arrival,
        )
        thresholds = self.spec.thresholds
        distance = None if distances[1] is None else float(distances[1][0])
        text = headline(distance, thresholds.goal_reached, job.surprise, thresholds.surprise)
        self.publish(draw(text, rows, self.values["tile"]), step.stamp)
        self.milliseconds.add(1e3 * (time.monotonic() - began))
        self.made += 1
        if self.active:
            self.publish_health(Health.FINE)

    def load(self):
        """Load the model."""
        import torch

        from world_model_ros.model.checkpoint import choose_device, load_checkpoint
        from world_model_ros.planning.imagination import Imagination

        torch.set_num_threads(1)
        model, _ = load_checkpoint(self.folder)
        model.encoder = model.projector = None  # encoder_node has them
        device = choose_device(self.values["device"], "the parameter device")
        self.imagination = Imagination(model.to(device), self.spec)
        return self.imagination

    def camera_picture(self, message) -> np.ndarray | None:
        """Return what the encoder sees of a frame, uint8 (side, side, 3); None where there is no frame."""
        if message is None:
            return None
        try:
            return square(pixels_of(message))
        except ImageRejectedError:  # encoder_node tells why
            return None

    def publish(self, picture: np.ndarray, stamp: int) -> None:
        """Publish a picture, uint8 (H, W, 3), in the forms that somebody subscribes to."""
        if self.images.get_subscription_count():
            height, width = picture.shape[:2]
            message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
            message.data = array.array("B", picture.tobytes())
            self.send(self.images, message, stamp)
        if self.jpegs.get_subscription_count():
            options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            _, content = cv2.imencode(".jpg", picture[..., ::-1], options)
            message = CompressedImage(format="jpeg", data=array.array("B", content.tobytes()))
            self.send(self.jpegs, message, stamp)

    @staticmethod
    def send(publisher, message, stamp: int) -> None:
        """Publish a message with the time and frame of what it shows."""
        set_stamp(message.header.stamp, stamp)
        message.header.frame_id = "imagination"
        publisher.publish(message)

    def failed(self, error: Exception, text: str) -> None:
        """Report why there is no picture."""
        if not self.active:  # it has outlived its activity
            return
        expected = isinstance(error, UserError)
        self.publish_health(Health.WARNING, f"no picture: {error}" if expected else f"no picture: {text}")

    # Of the executor's thread again.

    def watch(self) -> tuple[Health, str]:
        """Return the warning that there is no decoder."""
        return (Health.WARNING, self.without) if self.without else (Health.FINE, "")

    def metrics(self) -> dict:
        """Return how many pictures were made, and how long that takes."""
        metrics = {"pictures": self.made, "replaced": 0 if self.worker is None else self.worker.replaced}
        return metrics | self.milliseconds.metrics("picture_ms")


def make_node() -> ImaginationNode:
    """Return the node, ready to be configured."""
    return ImaginationNode()
