"""Latents as messages: sensor_msgs/Image, encoding 32FC1, one row; anything records and echoes it."""

import array

import numpy as np
from sensor_msgs.msg import Image

from world_model_ros.camera.images import ImageRejectedError


def latent_message(latent: np.ndarray, header) -> Image:
    """Return a latent (D,) as a message with the source image's header."""
    values = np.ascontiguousarray(latent, "<f4")
    message = Image(header=header, height=1, width=values.size, encoding="32FC1", step=values.nbytes)
    message.data = array.array("B", values.tobytes())
    return message


def latent_array(message: Image, dim: int) -> np.ndarray:
    """Return a message's latent, float32 (dim,). Raises ImageRejectedError."""
    if message.encoding != "32FC1" or (message.height, message.width) != (1, dim) or message.is_bigendian:
        raise ImageRejectedError(
            f"it is {message.width} x {message.height} {message.encoding!r}, this checkpoint's latents are "
            f"{dim} x 1 '32FC1': run encoder_node and planner_node with the same checkpoint"
        )
    if len(message.data) != 4 * dim:
        raise ImageRejectedError(f"it has {len(message.data)} bytes of data, {4 * dim} are needed")
    values = np.frombuffer(message.data, "<f4").copy()
    if not np.isfinite(values).all():
        raise ImageRejectedError("it holds numbers that are not finite")
    return values
