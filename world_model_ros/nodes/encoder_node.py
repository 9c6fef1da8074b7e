"""encoder_node: camera and goal images to latents."""

import time

import torch
from sensor_msgs.msg import CompressedImage, Image

from world_model_ros.control.frames import FrameGate, FrameRules
from world_model_ros.control.health import Health
from world_model_ros.control.images import (
    ImageRejectedError,
    check_frame_size,
    check_goal_size,
    decode_compressed,
    decode_image,
)
from world_model_ros.control.losses import Losses
from world_model_ros.control.statistics import Percentiles, Rate
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.device import choose_device
from world_model_ros.model.image import prepare_images
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.nodes.latents import latent_message
from world_model_ros.nodes.managed import ManagedNode
from world_model_ros.nodes.qos import FRESH, LATCHED, RELIABLE
from world_model_ros.nodes.running import nanoseconds

REMEDY = (
    "start the camera with FASTDDS_DEFAULT_PROFILES_FILE set to this package's config/fastdds.xml, or let "
    "it publish reliably"
)


class EncoderNode(ManagedNode):
    """Publishes the latent of every camera frame and of every goal image, stamped as the image."""

    def __init__(self):
        super().__init__("encoder_node")
        self.gate = FrameGate(self.rules())
        self.losses = Losses()
        self.camera = None
        self.milliseconds, self.rate = Percentiles(), Rate()
        self.topic, self.kind = "camera/image_raw", Image
        if self.values["compressed"]:
            self.topic, self.kind = f"{self.topic}/compressed", CompressedImage

    def rules(self) -> FrameRules:
        """Return what the parameters say of frames."""
        return FrameRules(
            max_age=self.values["max_age"],
            frozen=self.values["frozen_after"],
            max_rate=self.values["max_rate"],
        )

    def changed(self) -> None:
        """Judge the next frame by the new rules."""
        self.gate.rules = self.rules()

    def set_up(self) -> None:
        """Load the encoder and warm it up."""
        torch.set_num_threads(self.values["torch_threads"])
        model, self.spec = load_checkpoint(find_checkpoint(self.values["checkpoint"]))
        self.device = choose_device(self.values["device"], "the parameter device")
        encode = torch.nn.Sequential(model.encoder, model.projector)  # lets the predictor go
        self.encode = encode.to(self.device)
        self.frame_shape = None  # of the camera's first frame
        self.latents = self.publisher(Image, "latent", RELIABLE)
        self.goals = self.publisher(Image, "goal/latent", LATCHED)
        self.subscribe_command(Image, "goal/image", self.on_goal, newest=True)
        self.camera = self.subscribe(self.kind, self.topic, self.on_frame, FRESH, message_lost=self.on_lost)
        began = time.perf_counter()
        self.embed(decode_image(64, 64, "rgb8", 192, False, bytes(64 * 64 * 3)))
        self.get_logger().info(f"encoder ready, warm after {time.perf_counter() - began:.2f} s")

    def start(self) -> None:
        """Judge the first frame on its own."""
        self.gate.forget()
        self.frame_shape = None

    def tear_down(self) -> None:
        """Let the model go."""
        self.encode = self.camera = None

    def embed(self, pixels):
        """Return the latent (D,) of RGB pixels, uint8 (H, W, 3)."""
        with torch.inference_mode():
            latent = self.encode(prepare_images(pixels[None], self.spec.image).to(self.device))[0]
            return latent.float().cpu().numpy()

    def on_frame(self, message) -> None:
        """Publish the latent of a camera frame, or say once why not."""
        self.rate.heard(time.monotonic())
        self.losses.came()
        dropped = self.gate.judge(
            nanoseconds(message.header.stamp), self.get_clock().now().nanoseconds, message.data
        )
        if dropped:
            if dropped != "too_many" and self.complaints.trouble(self.topic, dropped):
                self.get_logger().warning(f"a frame on {self.topic} was dropped: {dropped}")
            if self.gate.frozen:
                self.publish_health(Health.HOLD, f"{self.topic}: {dropped}")
            return
        began = time.perf_counter()
        pixels = self.decoded(message, self.topic)
        if pixels is None:
            return
        self.frame_shape = self.frame_shape or pixels.shape
        warning = self.gate.look(pixels)
        self.publish_health(
            Health.WARNING if warning else Health.FINE, warning and f"{self.topic}: {warning}"
        )
        self.latents.publish(latent_message(self.embed(pixels), message.header))
        self.milliseconds.add(1e3 * (time.perf_counter() - began))

    def on_goal(self, message: Image) -> None:
        """Publish the latent of a goal image, or say once why not."""
        pixels = self.decoded(message, "goal/image")
        if pixels is not None:
            self.goals.publish(latent_message(self.embed(pixels), message.header))

    def decoded(self, message, topic: str):
        """Return RGB pixels, uint8 (H, W, 3); None after saying why there are none."""
        try:
            if isinstance(message, CompressedImage):
                pixels = decode_compressed(message.data)
            else:
                pixels = decode_image(
                    message.width,
                    message.height,
                    message.encoding,
                    message.step,
                    bool(message.is_bigendian),
                    message.data,
                )
            if topic == "goal/image":
                check_goal_size(pixels.shape, self.frame_shape)
            else:
                check_frame_size(pixels.shape, self.frame_shape)
        except ImageRejectedError as reason:
            self.reject(topic, str(reason))
            return None
        self.accept(topic)
        return pixels

    def on_lost(self, event) -> None:
        """Count frames that the middleware has lost on the way."""
        self.losses.lost(event.total_count_change)

    def watch(self):
        """Name the camera whose frames get lost, or that sends none."""
        if self.losses.bad():
            return Health.WARNING, f"{self.losses.sentence(self.topic, self.cameras())}: {REMEDY}"
        if not self.rate.figures("camera", 0.0):
            there = self.cameras()
            if not there:
                return Health.WARNING, f"no image yet: nobody publishes {self.topic}"
            return Health.WARNING, f"no image yet on {self.topic} from {there}: if they are large, {REMEDY}"
        return Health.FINE, ""

    def cameras(self) -> str:
        """Return the names of the nodes that publish the camera's topic."""
        found = self.get_publishers_info_by_topic(self.camera.topic_name) if self.camera else []
        return ", ".join(sorted({f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in found}))

    def figures(self) -> dict:
        """Return stage times, rates and counts."""
        return (
            {f"frames_{key}": count for key, count in self.gate.counts.items()}
            | {"frames_lost": self.losses.total}
            | self.milliseconds.figures("encoding_ms")
            | self.rate.figures("camera", time.monotonic())
        )


def make_node() -> EncoderNode:
    """Return the node, ready to be configured."""
    return EncoderNode()
