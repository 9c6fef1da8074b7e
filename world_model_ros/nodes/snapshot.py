"""``python -m world_model_ros.nodes.snapshot TOPIC FILE [SKIP]``: saves an image message as a picture.

The one after the next SKIP messages; FILE is a .png or .jpg.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import rclpy
from sensor_msgs.msg import CompressedImage, Image

from world_model_ros.errors import UserError
from world_model_ros.nodes.messages import pixels_of
from world_model_ros.nodes.qos import FRESH

PATIENCE = 60.0  # seconds without a message


def snapshot(topic: str, file: Path, skip: int = 0) -> None:
    """Save an image of ``topic``. Raises UserError where none comes, or the file cannot be written."""
    rclpy.init()
    node = rclpy.create_node("snapshot")
    kind = CompressedImage if topic.endswith("/compressed") else Image
    messages: list = []
    node.create_subscription(kind, topic, messages.append, FRESH)
    while len(messages) <= skip:
        before = len(messages)
        rclpy.spin_once(node, timeout_sec=PATIENCE)
        if len(messages) == before:
            raise UserError(f"no message on {topic} for {PATIENCE:.0f} s: is its node running?")
    pixels = pixels_of(messages[-1])
    if not cv2.imwrite(str(file), np.ascontiguousarray(pixels[..., ::-1])):
        raise UserError(f"{file} cannot be written: give a .png or .jpg in a folder that exists.")
    print(f"{file}: {pixels.shape[1]} x {pixels.shape[0]}")


if __name__ == "__main__":
    from world_model_ros.nodes import environment

    environment.prepare(local=True)
    if len(sys.argv) not in (3, 4):
        print(__doc__.splitlines()[0], file=sys.stderr)
        raise SystemExit(2)
    try:
        snapshot(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
