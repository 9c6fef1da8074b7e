"""encoder_node: camera and goal images to latents."""

import math
import time

import numpy as np
import torch
from sensor_msgs.msg import CompressedImage, Image

from world_model_ros.camera.frame_drops import FrameDropMonitor
from world_model_ros.camera.frames import CameraState, FrameGate, FrameRules
from world_model_ros.camera.images import (
    ImageRejectedError,
    check_frame_size,
    check_goal_contrast,
    check_goal_norm,
    check_goal_size,
    decode_image,
)
from world_model_ros.model.checkpoint import choose_device, load_checkpoint
from world_model_ros.model.config import find_checkpoint
from world_model_ros.model.encoder import prepare_images
from world_model_ros.monitoring.anomaly import usual_norms
from world_model_ros.monitoring.light import LightMonitor
from world_model_ros.monitoring.statistics import Percentiles, Rate
from world_model_ros.nodes import environment
from world_model_ros.nodes.managed import ManagedNode
from world_model_ros.nodes.messages import latent_message, nanoseconds, pixels_of, set_stamp
from world_model_ros.nodes.qos import FRESH, LATCHED, RELIABLE, full_names
from world_model_ros.safety.health import Health

REMEDY = (
    f"start the camera with {environment.profile_variable()} set to this package's config/fastdds.xml, or "
    "let it publish reliably"
)

# No cameras' topics.
OURS = (
    *("camera/image_raw", "goal/image", "latent", "goal/latent"),
    *("imagination", "imagination/compressed"),
)

LOOK = 0.2  # seconds between two reports of the camera's health
LOST_LATELY = 5.0  # seconds after a lost frame in which dropped frames are reported
NAME_SECONDS = 5.0  # that discovery may take to find the camera's name


class EncoderNode(ManagedNode):
    """Publishes the latent of every camera frame and of every goal image, stamped as the image."""

    def __init__(self):
        super().__init__("encoder_node")
        self.gate = FrameGate(self.rules())
        self.frame_drops = FrameDropMonitor()
        self.lost_at = -math.inf  # when a frame was lost last
        self.drop_reason, self.drops_since = "", 0.0
        self.state = CameraState()
        self.goal: tuple[np.ndarray, np.ndarray] | None = None  # pixels and latent of the last one taken
        self.goal_problem, self.goal_stamp = "", 0  # why the newest goal was refused; ns, that of its picture
        self.no_image = ""  # why no image has ever come
        self.milliseconds, self.rate, self.light = Percentiles(), Rate(), LightMonitor()
        topic, self.kind = "camera/image_raw", Image
        if self.values["compressed"]:
            topic, self.kind = f"{topic}/compressed", CompressedImage
        # As they are after remapping: what a person sees in `ros2 topic list`.
        self.topic, self.goal_topic = map(self.resolve_topic_name, (topic, "goal/image"))
        self.own_stamps = self.values["image_stamp"] == "received"

    def rules(self) -> FrameRules:
        """Return when a frame is dropped, from the parameters."""
        return FrameRules(
            max_age=self.values["max_age"],
            frozen=self.values["frozen_after"],
            max_rate=self.values["max_rate"],
        )

    def changed(self) -> None:
        """Apply the new rules."""
        self.gate.rules = self.rules()

    def set_up(self) -> None:
        """Load the encoder and warm it up."""
        torch.set_num_threads(self.values["torch_threads"])
        model, self.spec = load_checkpoint(find_checkpoint(self.values["checkpoint"]))
        self.device = choose_device(self.values["device"], "the parameter device")
        encode = torch.nn.Sequential(model.encoder, model.projector)  # without the predictor
        self.encode = encode.to(self.device)
        thresholds = self.spec.thresholds
        self.norms = usual_norms(thresholds.norm_low, thresholds.norm_high)
        seen = self.spec.light
        self.light = LightMonitor(seen.low, seen.high, seen.mean[0] if seen.mean else None)
        self.frame_shape = None  # of the camera's first frame
        self.latents = self.publisher(Image, "latent", RELIABLE)
        self.goals = self.publisher(Image, "goal/latent", LATCHED)
        self.subscribe_command(Image, "goal/image", self.on_goal, newest=True)
        self.subscribe(self.kind, self.topic, self.on_frame, FRESH, message_lost=self.on_lost)
        self.timer(LOOK, self.report_camera, steady=True)
        began = time.perf_counter()
        self.embed(decode_image(64, 64, "rgb8", 192, False, bytes(64 * 64 * 3)))
        self.get_logger().info(f"encoder ready, warm after {time.perf_counter() - began:.2f} s")

    def start(self) -> None:
        """Judge the first frame without earlier ones."""
        self.gate.reset()
        self.state.reset()
        self.light.reset()
        self.frame_shape = None

    def tear_down(self) -> None:
        """Free the model."""
        self.encode = self.goal = None

    def embed(self, pixels):
        """Return the latent (D,) of RGB pixels, uint8 (H, W, 3)."""
        with torch.inference_mode():
            latent = self.encode(prepare_images(pixels[None], self.spec.image).to(self.device))[0]
            return latent.float().cpu().numpy()

    def on_frame(self, message) -> None:
        """Publish the latent of a camera frame, or log once why not."""
        self.rate.heard(time.monotonic())
        self.frame_drops.came()
        now = self.get_clock().now().nanoseconds
        if self.own_stamps:
            set_stamp(message.header.stamp, now)
        dropped = self.gate.judge(nanoseconds(message.header.stamp), now, message.data)
        if dropped:
            if self.gate.kind != "too_many":
                self.state.refused(self.seconds(), self.gate.kind, dropped, self.gate.frozen)
                if self.complaints.trouble(self.topic, dropped):
                    self.get_logger().warning(f"a frame on {self.topic} was dropped: {dropped}")
            self.report_camera()
            return
        began = time.perf_counter()
        pixels = self.decoded(message, self.topic)
        if pixels is not None:
            self.frame_shape = self.frame_shape or pixels.shape
            seconds = self.seconds()
            light = self.light.judge(seconds, pixels)
            self.state.used(seconds, self.gate.look(pixels) or light)
            self.latents.publish(latent_message(self.embed(pixels), message.header))
            self.milliseconds.add(1e3 * (time.perf_counter() - began))
        self.report_camera()

    def seconds(self) -> float:
        """Return steady time, or simulated time where it is used: a simulated camera stops with its clock."""
        if self.get_parameter("use_sim_time").value:
            return 1e-9 * self.get_clock().now().nanoseconds
        return time.monotonic()

    def report_camera(self) -> None:
        """Publish the camera's health: the cause that is true now, for as long as it lasts."""
        now = self.seconds()
        health, reason = self.state.verdict(now)
        reason = reason and f"{self.topic}: {reason}"
        dropped = self.frames_dropped(now)
        if dropped and health < Health.HOLD:
            health, reason = Health.WARNING, dropped
        # Why frames cannot be used was logged with the first of them.
        self.publish_health(health, reason, quiet=not dropped and self.state.unusable(now))

    def frames_dropped(self, now: float) -> str:
        """Return the warning about lost frames, the same text while it lasts; "" where none are lost."""
        if not self.frame_drops.bad() or now - self.lost_at > LOST_LATELY:
            self.drop_reason, self.drops_since = "", now
        elif not self.drop_reason:
            cameras = self.cameras()
            if cameras or now - self.drops_since > NAME_SECONDS:
                self.drop_reason = f"{self.frame_drops.sentence(self.topic, cameras)}: {REMEDY}"
        return self.drop_reason

    def on_goal(self, message: Image) -> None:
        """Take or refuse a goal image, and report which."""
        self.goal_problem = ""
        self.take_goal(message)
        self.goal_stamp = nanoseconds(message.header.stamp)
        self.beat()

    def health_values(self) -> dict[str, str]:
        """Return which goal was judged last, why it was refused, and why no image has ever come."""
        return {
            "goal_stamp": str(self.goal_stamp),
            "goal_problem": self.goal_problem,
            "no_image": self.no_image,
        }

    def take_goal(self, message: Image) -> None:
        """Publish the latent of a goal image, or log once why not."""
        pixels = self.decoded(message, self.goal_topic)
        if pixels is None:
            return
        # The same picture has the same latent, also where the device rounds differently each time.
        if self.goal is None or not np.array_equal(self.goal[0], pixels):
            latent = self.goal_latent(pixels)
            if latent is None:
                return
            self.goal = (pixels, latent)
        self.accept(self.goal_topic)
        self.goals.publish(latent_message(self.goal[1], message.header))

    def goal_latent(self, pixels) -> np.ndarray | None:
        """Return the latent (D,) of a goal's pixels (H, W, 3); None after logging why it is refused."""
        try:
            problem = self.gate.look(pixels)
            if problem:
                raise ImageRejectedError(problem)
            check_goal_contrast(pixels)
            latent = self.embed(pixels)
            check_goal_norm(float(np.linalg.norm(latent)), self.norms)
        except ImageRejectedError as reason:
            self.refuse_image(self.goal_topic, str(reason))
            return None
        return latent

    def refuse_image(self, topic: str, reason: str) -> None:
        """Log once why an image is refused."""
        self.reject(topic, reason)
        if topic == self.goal_topic:
            self.goal_problem = reason
        else:
            self.gate.reject()
            self.state.refused(self.seconds(), reason, reason)

    def decoded(self, message, topic: str):
        """Return RGB pixels, uint8 (H, W, 3); None after logging why there are none."""
        try:
            pixels = pixels_of(message)
            if topic == self.goal_topic:
                check_goal_size(pixels.shape, self.frame_shape)
            else:
                check_frame_size(pixels.shape, self.frame_shape)
        except ImageRejectedError as reason:
            self.refuse_image(topic, str(reason))
            return None
        if topic != self.goal_topic:
            self.accept(topic)
        return pixels

    def on_lost(self, event) -> None:
        """Count frames that the middleware has lost."""
        self.lost_at = self.seconds()
        self.frame_drops.lost(event.total_count_change)

    def watch(self):
        """Return the warning that no image comes, or that the newest goal was refused."""
        self.no_image = self.why_no_image()
        if self.no_image:
            return Health.WARNING, self.no_image
        if self.goal_problem:
            return Health.WARNING, f"the newest goal on {self.goal_topic} was refused: {self.goal_problem}"
        return Health.FINE, ""

    def why_no_image(self) -> str:
        """Return why no image has ever come, or ""."""
        if self.rate.metrics("camera", 0.0):
            return ""
        if not self.count_publishers(self.topic):
            return f"no image yet: nobody publishes {self.topic}{self.other_cameras()}"
        cameras = self.cameras() or "the camera"
        return f"no image yet on {self.topic} from {cameras}: if they are large, {REMEDY}"

    def cameras(self) -> str:
        """Return the names of the nodes that publish the camera's topic, as far as they are known."""
        return ", ".join(full_names(self.get_publishers_info_by_topic(self.topic)))

    def other_cameras(self) -> str:
        """Return which topics do have images, and how to take one of them; "" where there are none."""
        ours = set(map(self.resolve_topic_name, OURS))
        wanted = {f"sensor_msgs/msg/{kind.__name__}": kind for kind in (Image, CompressedImage)}
        found: dict[type, list[str]] = {Image: [], CompressedImage: []}
        for topic, kinds in self.get_topic_names_and_types():
            fitting = [wanted[kind] for kind in kinds if kind in wanted]
            if fitting and topic not in ours and self.count_publishers(topic):
                found[fitting[0]].append(topic)
        same, others = found[self.kind], found[Image if self.kind is CompressedImage else CompressedImage]
        if same:
            return f", images are on {', '.join(same)}: remap {self.topic} to one of them"
        if others:
            compressed = str(self.kind is Image).lower()
            return (
                f", images of the other kind are on {', '.join(others)}: set compressed to {compressed}, and "
                "remap the topic where it differs"
            )
        return ""

    def metrics(self) -> dict:
        """Return stage times, rates and counts."""
        return (
            {f"frames_{key}": count for key, count in self.gate.counts.items()}
            | {"frames_lost": self.frame_drops.total}
            | self.light.metrics()
            | self.milliseconds.metrics("encoding_ms")
            | self.rate.metrics("camera", time.monotonic())
        )


def make_node() -> EncoderNode:
    """Return the node, ready to be configured."""
    return EncoderNode()
