"""encoder_node: camera and goal images to latents."""

import time

import torch
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from world_model_ros.control.images import (
    Complaints,
    ImageRejectedError,
    check_goal_size,
    decode_compressed,
    decode_image,
)
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.device import choose_device
from world_model_ros.model.image import prepare_images
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.nodes.latents import latent_message
from world_model_ros.nodes.running import DEVICE, FRESH, LATCHED, RELIABLE, parameter, subscribe_latched


class EncoderNode(Node):
    """Publishes the latent of every camera frame and of every goal image, stamped as the image."""

    def __init__(self):
        super().__init__("encoder_node")
        checkpoint = parameter(
            self, "checkpoint", "", "Checkpoint folder, or the name of a shipped one such as reach."
        )
        compressed = parameter(
            self, "compressed", False, "Read camera/image_raw/compressed (JPEG or PNG) instead of raw images."
        )
        device = parameter(self, "device", "auto", DEVICE)
        threads = parameter(self, "torch_threads", 1, "CPU threads of the encoder.", low=1, high=256)
        torch.set_num_threads(threads)
        model, self.spec = load_checkpoint(find_checkpoint(checkpoint))
        self.device = choose_device(device, "the parameter device")
        encode = torch.nn.Sequential(model.encoder, model.projector)  # lets the predictor go
        self.encode = encode.to(self.device)
        self.complaints = Complaints()
        self.frame_shape = None  # of the camera's last frame
        self.latents = self.create_publisher(Image, "latent", RELIABLE)
        self.goals = self.create_publisher(Image, "goal/latent", LATCHED)
        subscribe_latched(self, Image, "goal/image", lambda m: self.perceive(m, "goal/image", self.goals))
        topic, kind = ("camera/image_raw", Image)
        if compressed:
            topic, kind = (f"{topic}/compressed", CompressedImage)
        self.create_subscription(kind, topic, lambda m: self.perceive(m, topic, self.latents), FRESH)
        began = time.perf_counter()
        self.embed(decode_image(64, 64, "rgb8", 192, False, bytes(64 * 64 * 3)))
        self.get_logger().info(f"encoder ready, warm after {time.perf_counter() - began:.2f} s")

    def embed(self, pixels):
        """Return the latent (D,) of RGB pixels, uint8 (H, W, 3)."""
        with torch.inference_mode():
            return self.encode(prepare_images(pixels[None], self.spec.image).to(self.device))[0].cpu().numpy()

    def perceive(self, message, topic: str, publisher) -> None:
        """Publish the latent of one image message, or say once why not."""
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
            if publisher is self.goals:
                check_goal_size(pixels.shape, self.frame_shape)
            else:
                self.frame_shape = pixels.shape
        except ImageRejectedError as reason:
            if self.complaints.trouble(topic, str(reason)):
                self.get_logger().warning(f"an image on {topic} was rejected: {reason}")
            return
        if self.complaints.fine(topic):
            self.get_logger().info(f"images on {topic} are fine again")
        publisher.publish(latent_message(self.embed(pixels), message.header))

    def close(self) -> None:
        """Nothing to make safe."""


def make_node() -> EncoderNode:
    """Return the node, ready to spin."""
    return EncoderNode()
